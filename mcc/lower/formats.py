"""What a file format is: its suffix, how a graph is written in it, and what its constants take.

A new format is one folder here with a file `format.py`, found by scanning, that holds

    FORMATS = (Format("my-format", ".my", host="my-host", lower=to_my_format, kernels=..., storage=...),)

and a target that runs it, see `mcc.runtime.target`. What a *runtime* does with a file is told by the facts of
the target (`mcc.runtime.facts`), not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcc.errors import UsageError

if TYPE_CHECKING:  # the command line asks which formats there are before anything else is loaded
    from mcc.ir.graph import Graph

LOWER = Path(__file__).parent


@dataclass(frozen=True)
class Storage:
    """Bytes of constants in files of a format.

    Attributes:
        alignment: of each constant.
        weight_scale, bias_scale: of the scale and zero point of one output channel, as integers have them.
        sparse: whether zeros of a weight need not be stored.
        always_bias: whether an operator without a bias is given one of zeros.
    """

    alignment: int
    weight_scale: int
    bias_scale: int
    sparse: bool = False
    always_bias: bool = True


@dataclass(frozen=True)
class Format:
    """A file format that mcc writes.

    Attributes:
        name: as `--to` and targets name it.
        suffix: of its files.
        host: the target of this machine that runs them.
        lower: a graph in deployment form into bytes. Takes `labels`, `normalisation` and `judged`, and what
            `options` and `routes` name.
        kernels: a micro-network into bytes, with integer inputs and outputs where that is asked for.
        storage: of constants.
        options: of `mcc lower` that belong to it, with what the writer is given for each.
        routes: the ways to it, of `--via`, the usual one first.
    """

    name: str
    suffix: str
    host: str
    lower: Callable[..., bytes]
    kernels: Callable[[Graph, bool], bytes]
    storage: Storage
    options: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()

    def write(self, graph: Graph, stem: Path, **options: Any) -> Path:
        """Lower a graph into `stem` and the suffix, whole or not at all.

        Args:
            options: of `lower`.

        Raises:
            MccError: the file cannot be written, or an operator lacks in the format.
        """
        from mcc.files import write_bytes

        path = stem.with_name(stem.name + self.suffix)
        write_bytes(path, self.lower(graph, **options))
        return path


@cache
def formats() -> Mapping[str, Format]:
    """All formats by name, found in the folders beside this file."""
    found: dict[str, Format] = {}
    for file in sorted(LOWER.glob("*/format.py")):
        module = import_module(f"{__package__}.{file.parent.name}.format")
        found |= {one.name: one for one in module.FORMATS}
    return found


def get_format(name: str) -> Format:
    """A format by name. Raises UsageError for one that there is not."""
    found = formats().get(name)
    if found is None:
        raise UsageError(f"mcc cannot write {name!r} files", hint=f"it writes {', '.join(formats())}")
    return found


def format_of(path: Path | str) -> Format | None:
    """The format of a file by its suffix; None for a file of another kind."""
    suffix = Path(path).suffix
    return next((one for one in formats().values() if one.suffix == suffix), None)

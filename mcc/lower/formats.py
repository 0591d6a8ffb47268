"""File formats: suffix, lowering, and storage size of constants.

A new format is a folder here with a file `format.py`, found by scanning, that defines

    FORMATS = (Format("my-format", ".my", host="my-host", lower=to_my_format, kernels=..., storage=...),)

and a target that runs it, see `mcc.runtime.target`. Properties of a *runtime* are facts of the target
(`mcc.runtime.facts`), not of the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcc.errors import UsageError

if TYPE_CHECKING:  # the command line lists the formats before anything else is loaded
    from mcc.ir.graph import Graph

LOWER = Path(__file__).parent


@dataclass(frozen=True)
class Storage:
    """Storage size of constants in files of a format.

    Attributes:
        alignment: Alignment of each constant, in bytes.
        weight_scale, bias_scale: Bytes of the scale and zero point of one output channel of integers.
        sparse: Whether zeros of a weight can be omitted.
        always_bias: Whether an operator without a bias is given one of zeros.
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
        name: Name for `--to` and targets.
        suffix: Suffix of its files.
        host: Target of this machine that runs them.
        lower: Function that lowers a graph in deployment form to bytes. Takes `labels`, `normalisation` and
            `judged`, and the names in `options` and `routes`.
        kernels: Function that lowers a micro-network to bytes, with integer inputs and outputs if requested.
        storage: Storage size of constants.
        options: Options of `mcc lower` for this format, with the arguments passed to the writer for each.
        routes: Choices of `--via`, the default first.
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
        """Lower a graph to the file `stem` with the suffix, written atomically.

        Args:
            options: Options of `lower`.

        Raises:
            MccError: The file cannot be written, or the format lacks an operator.
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
    """A format by name. Raises UsageError for an unknown name."""
    found = formats().get(name)
    if found is None:
        raise UsageError(f"mcc cannot write {name!r} files", hint=f"it writes {', '.join(formats())}")
    return found


def format_of(path: Path | str) -> Format | None:
    """The format of a file by its suffix; None for an unknown suffix."""
    suffix = Path(path).suffix
    return next((one for one in formats().values() if one.suffix == suffix), None)

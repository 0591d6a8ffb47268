"""Models and data given as Python objects: a module is exported to a file, data stays in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from mcc.data import DataModule
from mcc.data.loaders import from_loaders
from mcc.errors import UsageError
from mcc.frontend.torch_module import capture
from mcc.frontend.torch_precision import in_float32
from mcc.ir.storage import save_graph

Loaders = Mapping[str, Any]
"""`train`, `test` and perhaps `validation`: torch loaders or data sets of (input, target)."""

PARTS = ("train", "test", "validation")


@contextmanager
def named(given: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    """The keywords of `mcc.compress` with objects replaced: a module by a file, loaders by a data module.

    The file exists in a temporary folder until the context exits. A data module stays an object, as
    `data_module`; `data` is its name.

    Raises:
        UsageError: Objects that cannot be used, or options that do not apply to them.
    """
    with tempfile.TemporaryDirectory(prefix="mcc-given-") as folder:
        found: dict[str, Any] = {**given, "data_module": None}
        if isinstance(given["model"], nn.Module):
            found |= _captured(given, Path(folder))
        elif given.get("example") is not None:
            raise UsageError("is for a module", where="example", hint="the shape is --input-shape")
        if not isinstance(given["data"], str):
            data = _data_module(given)
            found |= {"data": data.name, "data_module": data}
        yield found


def _captured(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    module, example = cast(nn.Module, given["model"]), given.get("example")
    if example is None:
        raise UsageError("a module needs an example of its input", where="example",
                         hint="give a tensor [N, ...]")  # fmt: skip
    for name in ("weights", "input_shape"):
        if given[name] is not None:
            raise UsageError("is for models in files", where=name, hint="give the module as it shall be")
    values = cast(Sequence[Tensor], (example,) if isinstance(example, Tensor) else tuple(example))
    path = folder / f"{type(module).__name__}.mcc"
    save_graph(capture(*in_float32(module, values), given["cut"]), path)
    return {"model": str(path), "cut": ()}


def _data_module(given: Mapping[str, Any]) -> DataModule:
    for name in ("workers", "ray"):
        if given.get(name) is not None:
            raise UsageError("other processes read the data themselves, and this is an object",
                             where=name, hint="name a factory as data, or leave it out")  # fmt: skip
    data = given["data"]
    if isinstance(data, DataModule):
        return data
    if isinstance(data, Mapping):
        loaders = cast(Loaders, data)
        unknown = [part for part in loaders if part not in PARTS]
        if not unknown and {"train", "test"} <= set(loaders):
            return from_loaders(
                loaders["train"], loaders["test"], validation=loaders.get("validation"), seed=given["seed"]
            )
    raise UsageError(
        f"cannot be a {type(data).__name__}", where="data",
        hint='give a name, a DataModule, or {"train": loader, "test": loader}',
    )  # fmt: skip

"""Checkpoints as training scripts write them: the sets of named tensors in a file. No code in a file is run.

`torch.load(weights_only=True)` refuses a file that holds an object of any class it does not know: options,
histories of the training, whole pickled modules. Here such objects become `Inert` ones, which keep what was
stored of them and do nothing, and the tensors beside and inside them are read.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from mcc.errors import DataError
from mcc.files import readable_file

MAX_UNKNOWN = 200  # classes of a file that are not known; the largest checkpoint seen has 60


@dataclass(frozen=True)
class WeightSet:
    """Named tensors that stand together in a file.

    Attributes:
        key: Keys that lead to them, joined by dots; "" for the file itself.
        tensors: Tensors by name.
        averaged: Whether its framework stores averaged weights there; None where that is not known.
        pickled: Class of the pickled module that they are from; "" for a plain mapping.
    """

    key: str
    tensors: dict[str, Tensor]
    averaged: bool | None = None
    pickled: str = ""


def read_sets(path: Path) -> list[WeightSet]:
    """The sets of named tensors in a `.safetensors` file, or in one written by `torch.save`.

    Raises:
        DataError: The file cannot be read without running code, or holds no named tensors.
    """
    readable_file(path, hint="check --weights")
    try:
        if path.suffix == ".safetensors":
            return [WeightSet("", load_file(path))]
        loaded = _load(path)
    except Exception as error:  # a damaged file may raise anything
        raise _unreadable(path, error) from error
    found = _of_mmengine(loaded, list(_sets(loaded)))
    if not found:
        held = list(cast(Mapping[object, object], loaded))[:5] if isinstance(loaded, Mapping) else []
        raise DataError(
            "is no state dict" + (f": it holds {', '.join(map(repr, held))}" if held else _is_a(loaded)),
            where=str(path), hint="save model.state_dict()",
        )  # fmt: skip
    return found


def _is_a(value: object) -> str:
    return f": it is a {type(value).stored_as}" if isinstance(value, Inert) else ""


def _unreadable(path: Path, error: Exception) -> DataError:
    hint = "save model.state_dict() alone, or use safetensors"
    if "TorchScript archive" in str(error):
        return DataError(
            "is a TorchScript archive, and no weights", where=str(path),
            hint="torch.save(torch.jit.load(file).state_dict(), other) writes its weights",
        )  # fmt: skip
    needs = re.search(r"GLOBAL ([\w.]+) (?:was not|whose)", str(error))
    what = f" (it holds a {needs[1]})" if needs else ""
    unsafe = " without running code of the file" if isinstance(error, pickle.UnpicklingError) else ""
    return DataError(f"cannot be read as weights{unsafe}{what}", where=str(path), hint=hint)


# -- objects of unknown classes ----------------------------------------------------------------------------


class Inert:
    """Stands for an object of a class that is not known: keeps what was stored of it, and does nothing."""

    stored_as = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Made of any arguments, which are dropped."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Container:
    """Makes plain dictionaries or lists where a file has a class that is derived from them."""

    def __init__(self, kind: Callable[[], Any]) -> None:
        self.kind = kind
        self.__dict__["__new__"] = self  # what the unpickler calls for a class

    def __call__(self, *args: Any) -> Any:
        """A new and empty one."""
        return self.kind()


def _load(path: Path) -> Any:
    """What a file of `torch.save` holds, with inert objects for those of unknown classes."""
    stands_for: dict[str, Any] = {"argparse.Namespace": argparse.Namespace}
    with suppress(Exception):  # only of zip archives; the older kind names its classes one by one, below
        for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)[:MAX_UNKNOWN]:
            stands_for.setdefault(name, _inert(name))
    for _ in range(MAX_UNKNOWN):
        known: Any = [(value, name) for name, value in stands_for.items()]
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(known):
                warnings.simplefilter("ignore")  # about old pickle protocols, which it reads all the same
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if not _learnt(str(error), stands_for):
                raise
    raise pickle.UnpicklingError("too many classes")


def _learnt(message: str, stands_for: dict[str, Any]) -> bool:
    """Whether the unpickler's message tells of a class what to put in its place, which is noted."""
    unknown = re.search(r"GLOBAL ([\w.]+) was not an allowed global", message)
    if unknown:
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        known = name in stands_for
        stands_for.setdefault(name, _inert(name))
        return not known
    filled = re.search(r"Can only (SETITEMS?|append|extend) .*but got <class '(.+)'>", message)
    if filled and isinstance(stands_for.get(filled[2]), type):
        stands_for[filled[2]] = _Container(OrderedDict if filled[1].startswith("SETITEM") else list)
        return True
    return False


def _inert(name: str) -> type[Inert]:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (Inert,), {"__module__": module, "__qualname__": qualified, "stored_as": name})


# -- sets of tensors ---------------------------------------------------------------------------------------


def _sets(value: object, key: str = "") -> Iterator[WeightSet]:
    """Mappings from names to tensors in a checkpoint, and modules; other entries are left out."""
    if isinstance(value, Inert):
        tensors = dict(_of_module(value))
        if tensors:
            yield WeightSet(key, tensors, pickled=type(value).stored_as)
            return
        value = value.state
    if not isinstance(value, Mapping):
        return
    entries = {
        name: held for name, held in cast(Mapping[Any, object], value).items() if isinstance(name, str)
    }
    tensors = {name: held for name, held in entries.items() if isinstance(held, Tensor)}
    if tensors:
        yield WeightSet(key, tensors)
    for name, held in entries.items():
        yield from _sets(held, f"{key}.{name}" if key else name)


def _of_module(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The state of a pickled `nn.Module`, by the attributes in which every module keeps it."""
    state = module.state if isinstance(module, Inert) else None
    if not isinstance(state, Mapping) or "_modules" not in state:
        return
    attributes = cast(Mapping[str, Any], state)
    passing: Any = attributes.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in (attributes.get(group) or {}).items():
            if isinstance(value, Tensor) and not (group == "_buffers" and name in passing):
                yield prefix + name, value
    for name, inner in (attributes["_modules"] or {}).items():
        yield from _of_module(inner, f"{prefix}{name}.")


def _of_mmengine(loaded: object, sets: list[WeightSet]) -> list[WeightSet]:
    """The sets of a checkpoint, marked where it is one of MMEngine with its EMAHook.

    That hook exchanges the two when it saves: the averaged weights are under `state_dict`, and the raw ones
    under `ema_state_dict` (mmengine/hooks/ema_hook.py, before_save_checkpoint).
    """
    if not isinstance(loaded, Mapping) or "ema_state_dict" not in loaded:
        return sets
    entries = cast(Mapping[str, Any], loaded)
    meta = entries.get("meta")
    if "message_hub" not in entries and not (isinstance(meta, Mapping) and "mmengine_version" in meta):
        return sets
    averaged = {"state_dict": True, "ema_state_dict": False}
    return [WeightSet(s.key, s.tensors, averaged.get(s.key, s.averaged), s.pickled) for s in sets]

"""Loading weights into a module: safetensors, or a weights-only state dict. No code in a file is ever run."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mcc.errors import DataError
from mcc.files import readable_file


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the weights of a file into a module.

    Args:
        path: `.safetensors`, or a state dict saved by `torch.save`.

    Raises:
        DataError: the file cannot be read without running code, or does not fit; the message names the first
            parameter that is missing, unexpected, of another shape or not finite.
    """
    own = module.state_dict(keep_vars=True)
    given = _chosen(read_tensors(path), set(own), path)
    for name, value in own.items():
        if name not in given:
            if name.endswith("num_batches_tracked"):  # unknown to checkpoints of torch before 0.4.1
                continue
            raise DataError(f"has no weights for the parameter {name}", where=str(path), hint=_HINT)
        _check(name, given[name], value, path)
    unexpected = [name for name in given if name not in own]
    if unexpected:
        raise DataError(
            f"holds {unexpected[0]}, which the model does not have ({len(unexpected)} such in all)",
            where=str(path), hint=_HINT,
        )  # fmt: skip
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)


_HINT = "give the weights of this very model"


def _check(name: str, value: Tensor, own: Tensor, path: Path) -> None:
    kind = _unusable(value)
    if kind:
        raise DataError(
            f"holds {name} as {kind}", where=str(path), hint="save ordinary, dense tensors of the CPU"
        )
    if own.is_meta:
        raise DataError(
            f"cannot be loaded into {name}, for which the model has no memory (device meta)", where=str(path),
            hint="make the model on the CPU",
        )  # fmt: skip
    if value.is_complex() or value.is_floating_point() != own.is_floating_point():
        raise DataError(
            f"holds {name} as {_type(value)}, but the model's is {_type(own)}", where=str(path),
            hint="dequantise integer weights first; a compressed file is lowered as it is",
        )  # fmt: skip
    if value.shape != own.shape:
        raise DataError(
            f"holds {name} of shape {tuple(value.shape)}, but the model's is {tuple(own.shape)}",
            where=str(path), hint=_HINT,
        )  # fmt: skip
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise DataError(f"holds values in {name} that are not finite", where=str(path), hint="train it again")
    if not bool((value.detach().to(own.dtype).isfinite()).all()):
        raise DataError(f"holds values in {name} that are too large for {_type(own)}", where=str(path))


def _unusable(value: Tensor) -> str:
    """What kind of tensor it is that holds no plain values, in words; empty for an ordinary one."""
    if value.is_meta:
        return "a tensor without values (device meta)"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a sparse tensor ({_word(value.layout)})"
    return f"a quantised tensor ({_type(value)})" if value.is_quantized else ""


def _type(value: Tensor) -> str:
    return _word(value.dtype)


def _word(value: object) -> str:
    return str(value).removeprefix("torch.")


def read_tensors(path: Path) -> dict[str, dict[str, Tensor]]:
    """The sets of named tensors in a file, by the key that each stands under; "" is the file itself.

    Raises DataError for any other file.
    """
    readable_file(path, hint="check --weights")
    try:
        if path.suffix == ".safetensors":
            return {"": load_file(path)}
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about old pickle protocols, which it reads all the same
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise _unreadable(path, error) from error
    found = dict(_sets(loaded))
    if not found:
        held = (
            ", ".join(map(repr, list(cast(Mapping[object, object], loaded))[:5]))
            if isinstance(loaded, Mapping)
            else ""
        )
        raise DataError(
            "is no state dict" + (f": it holds {held}" if held else ""), where=str(path),
            hint="save model.state_dict()",
        )  # fmt: skip
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    hint = "save model.state_dict() alone, or use safetensors"
    if "TorchScript archive" in str(error):
        return DataError("is a TorchScript archive, and no weights", where=str(path), hint=hint)
    needs = re.search(r"GLOBAL ([\w.]+) was not", str(error))
    what = f" (it holds a {needs[1]})" if needs else ""
    unsafe = " without running code of the file" if isinstance(error, pickle.UnpicklingError) else ""
    return DataError(f"cannot be read as weights{unsafe}{what}", where=str(path), hint=hint)


def _sets(value: object, key: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings from names to tensors in a checkpoint; other entries are left out."""
    if not isinstance(value, Mapping):
        return
    entries = {
        name: held for name, held in cast(Mapping[Any, object], value).items() if isinstance(name, str)
    }
    tensors = {name: held for name, held in entries.items() if isinstance(held, Tensor)}
    if tensors:
        yield key, tensors
    for name, held in entries.items():
        yield from _sets(held, f"{key}.{name}" if key else name)


def _chosen(sets: dict[str, dict[str, Tensor]], own: set[str], path: Path) -> dict[str, Tensor]:
    """The one set of weights that has the model's names. Raises DataError where there are several."""
    named = {key: _unprefixed(tensors, own) for key, tensors in sets.items()}
    fitting = {key: tensors for key, tensors in named.items() if own.intersection(tensors)}
    if len(fitting) > 1:
        keys = [repr(key or "the file itself") for key in fitting]
        raise DataError(
            f"holds {len(keys)} sets of weights, {', '.join(keys)}", where=str(path),
            hint="averaged weights and others are not the same: save the set you mean alone",
        )  # fmt: skip
    return next(iter((fitting or named).values()))


def _unprefixed(given: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """The names as the module has them, without what wrappers put before each of them.

    DataParallel and torch.compile do, a Lightning module does with the name of its attribute (`model.`), and
    averaged copies keep a counter (`n_averaged`) beside the weights.
    """
    given = {name: value for name, value in given.items() if name != "n_averaged" or name in own}
    while given and not own.intersection(given):
        prefix = next(iter(given)).partition(".")[0] + "."
        if not all(name.startswith(prefix) for name in given):
            break
        given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given

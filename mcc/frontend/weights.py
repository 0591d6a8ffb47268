"""Loading weights into a module: safetensors, or a weights-only state dict. No code in a file is ever run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mcc.errors import DataError
from mcc.files import readable_file

# Under which training scripts commonly keep the state dict in a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model")


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the weights of a file into a module.

    Args:
        path: `.safetensors`, or a state dict saved by `torch.save`.

    Raises:
        DataError: the file cannot be read without running code, or does not fit; the message names the first
            parameter that is missing, unexpected, of another shape or not finite.
    """
    given = _unprefixed(read_tensors(path), module)
    own = module.state_dict(keep_vars=True)
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises DataError for any other file."""
    readable_file(path, hint="check --weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols, which it reads all the same
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        unsafe = isinstance(error, pickle.UnpicklingError)
        raise DataError(
            "cannot be read as weights" + (" without running code of the file" if unsafe else ""),
            where=str(path),
            hint="save model.state_dict() alone, or use safetensors",
        ) from error
    for key in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise DataError("is no state dict", where=str(path), hint="save model.state_dict()")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(
                f"holds {name!r}, which is no tensor", where=str(path), hint="save model.state_dict()"
            )
    return dict(cast(Mapping[str, Tensor], loaded))


def _unprefixed(given: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Without the `module.` that DataParallel puts before every name."""
    prefix = "module."
    if all(name.startswith(prefix) for name in given) and not any(
        n == "module" for n, _ in module.named_children()
    ):
        return {name.removeprefix(prefix): value for name, value in given.items()}
    return given

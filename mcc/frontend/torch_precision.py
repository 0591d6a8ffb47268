"""Modules and examples of other precisions, as float32: half weights, and pictures given as bytes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from mcc.errors import UnsupportedError
from mcc.frontend.batch import relative_difference

log = logging.getLogger(__name__)

_REAL = (torch.float16, torch.bfloat16, torch.float64)
_SAME = 1e-5
"""Bytes and the same numbers as float32 give one result up to rounding, except by arithmetic of bytes."""


def in_float32(module: nn.Module, examples: Sequence[Any]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A module and its example inputs in float32; warnings say what was changed. The given ones stay.

    Raises:
        UnsupportedError: the model computes with the bytes of an input as integers.
    """
    found = {str(v.dtype) for v in (*module.parameters(), *module.buffers()) if v.dtype in _REAL}
    if found:
        log.warning("the model holds %s: read as float32", " and ".join(sorted(found)))
        module = copy.deepcopy(module).float()
    taken = tuple(
        value.float() if isinstance(value, Tensor) and value.dtype in (*_REAL, torch.uint8) else value
        for value in examples
    )
    pictures = [index for index, v in enumerate(examples) if isinstance(v, Tensor) and v.dtype == torch.uint8]
    if pictures:
        _check_bytes(module, examples, taken, pictures[0])
        names = ", ".join(map(str, pictures))
        log.warning("input %s of bytes: read as float32, of the same numbers", names)
    return module, taken


def _check_bytes(module: nn.Module, examples: Sequence[Any], taken: Sequence[Tensor], first: int) -> None:
    """Refuse a model to which bytes are more than their numbers, as in `x // 2` or `x + 200`."""
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randint(0, 256, tuple(given.shape), generator=generator, dtype=torch.uint8)
        if given.dtype == torch.uint8
        else torch.randn(tuple(real.shape), generator=generator)
        for given, real in zip(examples, taken, strict=True)
    ]
    try:
        wanted, got = (_run(module, given) for given in (values, [value.float() for value in values]))
    except Exception as error:  # a user's forward may raise anything
        log.info("not compared on bytes: %s", error)
        return
    if not relative_difference(got, wanted) <= _SAME:
        raise UnsupportedError(
            "of bytes is computed with as integers",
            where=f"input {first}",
            hint="begin the model with x.float(), and give a float32 example input",
        )


def _run(module: nn.Module, values: Sequence[Tensor]) -> list[Tensor]:
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        results = tree_flatten(module(*(value.clone() for value in values)))[0]
    return [value.float() for value in results if isinstance(value, Tensor)]

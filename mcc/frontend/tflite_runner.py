"""A .tflite file run by LiteRT, with inputs and outputs as the graph read from it has them: real, NCHW."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcc.frontend.batch import Original
from mcc.frontend.tflite_values import Array
from mcc.lower.tflite.reader import TfliteModel, TfliteTensor


def runner(
    path: Path, model: TfliteModel, returned: Sequence[int] | None, shapes: Sequence[tuple[int, ...]]
) -> Original:
    """The outputs of a file for samples [N, ...] of its inputs, one inference for each batch of the file.

    Args:
        returned: tensors to return instead of the file's outputs.
        shapes: shapes of the graph's inputs.
    """
    wanted = model.outputs if returned is None else tuple(returned)

    def original(values: Sequence[Tensor]) -> list[Tensor]:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter: Any = Interpreter(
            str(path),
            num_threads=torch.get_num_threads(),
            # A delegate would keep no values inside the network, and announce itself on stderr.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=returned is not None,
        )
        interpreter.allocate_tensors()
        collected: list[list[Array]] = [[] for _ in wanted]
        batch = model.tensors[model.inputs[0]].shape[0]
        for sample in range(len(values[0])):
            for index, value in zip(model.inputs, values, strict=True):
                one = value[sample : sample + 1].numpy()
                interpreter.set_tensor(index, _stored(one.repeat(batch, 0), model.tensors[index]))
            interpreter.invoke()
            for place, index in enumerate(wanted):
                collected[place].append(_real(interpreter.get_tensor(index), model.tensors[index], batch))
        return [torch.from_numpy(np.concatenate(parts)) for parts in collected]

    return original


def _stored(value: Array, tensor: TfliteTensor) -> Array:
    """A value of the graph as the file takes it."""
    if value.ndim == 4:
        value = value.transpose(0, 2, 3, 1)
    found = tensor.quantisation
    if found is None or tensor.dtype == "float32":
        return np.ascontiguousarray(value, np.float32)
    limits = np.iinfo(np.dtype(tensor.dtype))
    integers = np.rint(value / found.scale) + found.zero_point
    return np.ascontiguousarray(np.clip(integers, limits.min, limits.max).astype(tensor.dtype))


def _real(value: Array, tensor: TfliteTensor, batch: int) -> Array:
    """The first sample of an output of the file as the graph returns it."""
    found = tensor.quantisation
    if found is not None and tensor.dtype != "float32":
        value = (value.astype(np.float32) - np.float32(found.zero_point)) * found.scale
    value = value[:1] if value.shape[:1] == (batch,) else value[None]
    return np.array(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value, np.float32)

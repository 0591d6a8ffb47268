"""Running a TFLite file in LiteRT for the tests of the lowering, with and without XNNPACK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

Array = npt.NDArray[Any]

RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "reference": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def to_nhwc(value: Array) -> Array:
    return np.ascontiguousarray(value.transpose(0, 2, 3, 1)) if value.ndim == 4 else value


def to_nchw(value: Array) -> Array:
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value


def execute(raw: bytes, inputs: Sequence[Array], kernels: str = "xnnpack") -> list[Array]:
    """Run a file on NCHW inputs, resizing its batch to theirs; NCHW outputs."""
    interpreter = Interpreter(
        model_content=raw, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels]
    )
    details = interpreter.get_input_details()
    for detail, value in zip(details, inputs, strict=True):
        if tuple(detail["shape"]) != to_nhwc(value).shape:
            interpreter.resize_tensor_input(detail["index"], to_nhwc(value).shape)
    interpreter.allocate_tensors()
    for detail, value in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], to_nhwc(value))
    interpreter.invoke()
    return [to_nchw(interpreter.get_tensor(d["index"])) for d in interpreter.get_output_details()]

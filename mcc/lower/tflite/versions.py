"""Operator versions required in a file, and the first runtime that supports each.

A runtime rejects an unknown operator version, and relies on a version's constraints on types and options. The
rules follow `op_version.cc` and `runtime_version.cc` of TensorFlow Lite (2026), for the operators and types
that this lowering writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mcc.lower.tflite.quantisation import Quantisation


@dataclass(frozen=True)
class TensorInfo:
    """Static properties of a tensor in the file: shape, numpy dtype name, quantisation."""

    shape: tuple[int, ...]
    dtype: str
    quantisation: Quantisation | None


@dataclass(frozen=True)
class Signature:
    """Properties that determine the version of an operator; None for an absent optional input."""

    inputs: tuple[TensorInfo | None, ...]
    outputs: tuple[TensorInfo | None, ...]
    options: Mapping[str, Any]

    def dtype(self, index: int) -> str:
        """Dtype of an input, or an empty string where it is absent."""
        info = self.inputs[index] if index < len(self.inputs) else None
        return info.dtype if info else ""

    @property
    def rank(self) -> int:
        """The largest rank among the inputs."""
        return max((len(info.shape) for info in self.inputs if info), default=0)

    @property
    def broadcasts(self) -> bool:
        """Whether two inputs differ in shape."""
        return len({info.shape for info in self.inputs if info}) > 1


# Operators whose version 2 is version 1 with int8.
# fmt: off
_INT8_IS_VERSION_2 = frozenset({
    "ADD", "SUB", "MAX_POOL_2D", "AVERAGE_POOL_2D", "CONCATENATION", "SOFTMAX", "MEAN", "SUM", "REDUCE_MAX",
    "REDUCE_MIN", "RELU", "RELU6", "LOGISTIC", "TANH", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "PAD",
    "PADV2", "MIRROR_PAD", "MAXIMUM", "MINIMUM", "BATCH_MATMUL", "GATHER", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "DEQUANTIZE", "ABS", "EXP", "LOG", "MUL", "RSQRT",
})
# fmt: on


def operator_version(code: str, signature: Signature) -> int:
    """The version of an operator for the given types and options."""
    special = _SPECIAL.get(code)
    version = special(signature) if special else None
    if version is not None:
        return version
    return 2 if code in _INT8_IS_VERSION_2 and signature.dtype(0) == "int8" else 1


def _conv(signature: Signature) -> int | None:
    x, weight = signature.inputs[0], signature.inputs[1]
    if x and weight and x.shape[3] != weight.shape[3]:
        return 6  # grouped
    return 3 if signature.dtype(0) == "int8" else 1


def _depthwise(signature: Signature) -> int | None:
    if signature.dtype(0) == "int8":
        return 3
    dilated = (signature.options.get("dilationHFactor", 1), signature.options.get("dilationWFactor", 1)) != (
        1,
        1,
    )
    return 2 if dilated else 1


def _fully_connected(signature: Signature) -> int | None:
    if signature.options.get("keepNumDims"):
        return 5
    return 4 if signature.dtype(0) == "int8" else 1


def _transpose_conv(signature: Signature) -> int | None:
    if signature.options.get("fusedActivationFunction"):
        return 4
    return 3 if len(signature.inputs) == 4 else None


def _multiply(signature: Signature) -> int | None:
    infos = (*signature.inputs, *signature.outputs)
    scales = [float(info.quantisation.scale) for info in infos if info and info.quantisation]
    return 3 if len(scales) == 3 and scales[0] * scales[1] / scales[2] >= 1.0 else None


def _by_rank(beyond: int, version: int, *, only_broadcast: bool = False) -> Any:
    def rule(signature: Signature) -> int | None:
        high = signature.rank > beyond and (signature.broadcasts or not only_broadcast)
        return version if high else None

    return rule


def _transpose(signature: Signature) -> int | None:
    return 6 if signature.rank > 5 else 4 if signature.rank > 4 else None


def _resize(signature: Signature) -> int | None:
    return 3 if signature.options.get("halfPixelCenters") else None


def _resize_nearest(signature: Signature) -> int | None:
    exact = signature.options.get("halfPixelCenters") or signature.options.get("alignCorners")
    return 3 if exact else None


def _dequantize(signature: Signature) -> int | None:
    if signature.dtype(0) == "float16":
        return 3
    info = signature.inputs[0]
    return 5 if info and info.quantisation and info.quantisation.scales.size > 1 else None


_SPECIAL: dict[str, Any] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
    "MUL": _multiply,
    "SUB": _by_rank(4, 3, only_broadcast=True),
    "DIV": _by_rank(4, 2, only_broadcast=True),
    "MAXIMUM": _by_rank(4, 3, only_broadcast=True),
    "MINIMUM": _by_rank(4, 3, only_broadcast=True),
    "PAD": _by_rank(4, 4),
    "PADV2": _by_rank(4, 4),
    "STRIDED_SLICE": _by_rank(4, 4),
    "SLICE": _by_rank(4, 5),
    "TRANSPOSE": _transpose,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "DEQUANTIZE": _dequantize,
}

# First runtime version with (operator, version); others are older than 2.3.0.
_RUNTIME: dict[tuple[str, int], str] = {
    ("CONV_2D", 6): "2.9.0",
    ("PAD", 4): "2.6.0",
    ("PADV2", 4): "2.6.0",
    ("SLICE", 5): "2.5.0",
    ("TRANSPOSE", 6): "2.12.0",
    ("TRANSPOSE_CONV", 4): "2.13.0",
    ("GELU", 1): "2.9.0",
    ("EXP", 2): "2.12.0",
    ("LOG", 2): "2.12.0",
    ("ABS", 2): "2.4.0",
    ("SIGN", 1): "2.12.0",
}
_OLDEST = "2.3.0"


def minimum_runtime(used: Iterable[tuple[str, int]]) -> str:
    """The oldest TensorFlow Lite runtime that supports all the given (operator, version) pairs."""
    versions = [_RUNTIME.get(pair, _OLDEST) for pair in used]
    return max([_OLDEST, *versions], key=lambda text: tuple(int(part) for part in text.split(".")))

"""Every operator that is read from a .tflite file computes what LiteRT's interpreter computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcc.errors import UnsupportedError
from mcc.ir.graph import calls, op_name, run
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.pipeline import deployment_form
from mcc.verify import check_shapes, check_structure
from tests.frontend.tflite_files import Array, Given, Real, Value, as_graph, feeds, litert, one, read

SAME, VALID = 0, 1
RELU, RELU_N1, RELU6, TANH = 1, 2, 3, 4
TOLERANCE = 1e-5
"""Share of the output range: float32 sums in another order."""


def f(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def i(*values: Any) -> Array:
    return np.array(values, np.int32)


@dataclass(frozen=True)
class Case:
    """One operator of a file, and what it becomes."""

    name: str
    code: str
    given: Sequence[Given]
    made: Value | Mapping[str, Value]
    table: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ops: Sequence[str] | None = None
    positive: bool = False

    def bytes(self) -> bytes:
        return one(self.code, self.given, self.made, self.table, **self.fields)


MAP = Real((1, 6, 5, 4))
SEQ = Real((1, 7, 4))
ROW = Real((1, 12))


def conv(
    name: str, kernel: tuple[int, int], out: tuple[int, int], ops: Sequence[str] = ("conv2d",), **fields: Any
) -> Case:
    options = {
        "padding": SAME,
        "strideH": 1,
        "strideW": 1,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        **fields,
    }
    given = [MAP, f(8, *kernel, 4), f(8)]
    return Case(f"conv {name}", "CONV_2D", given, Real((1, *out, 8)), "Conv2DOptions", options, ops)


def pool(code: str, name: str, out: tuple[int, int], **fields: Any) -> Case:
    options = {"padding": SAME, "strideH": 2, "strideW": 2, "filterHeight": 3, "filterWidth": 3, **fields}
    return Case(f"{code} {name}", code, [MAP], Real((1, *out, 4)), "Pool2DOptions", options)


def binary(
    name: str, code: str, given: Sequence[Given], shape: tuple[int, ...] = MAP.shape, **fields: Any
) -> Case:
    table = {
        "MAXIMUM": "MaximumMinimumOptions",
        "MINIMUM": "MaximumMinimumOptions",
        "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    }.get(code, f"{code.capitalize()}Options")
    return Case(f"{code} {name}", code, given, Real(shape), table, fields, positive=code == "DIV")


def unary(code: str, table: str = "", **fields: Any) -> Case:
    return Case(code, code, [MAP], MAP, table, fields, positive=code in ("LOG", "SQRT", "RSQRT"))


def resize(name: str, size: tuple[int, int], bilinear: bool, **fields: Any) -> Case:
    code = "RESIZE_BILINEAR" if bilinear else "RESIZE_NEAREST_NEIGHBOR"
    table = "ResizeBilinearOptions" if bilinear else "ResizeNearestNeighborOptions"
    return Case(f"{code} {name}", code, [MAP, i(*size)], Real((1, *size, 4)), table, fields)


def reduced(code: str, axes: Sequence[int], shape: tuple[int, ...], keep: bool) -> Case:
    return Case(
        f"{code} {list(axes)} {keep}",
        code,
        [MAP, i(*axes)],
        Real(shape),
        "ReducerOptions",
        {"keepDims": keep},
    )


def strided(name: str, begin: Array, end: Array, steps: Array, shape: tuple[int, ...], **fields: Any) -> Case:
    given = [MAP, begin, end, steps]
    return Case(f"STRIDED_SLICE {name}", "STRIDED_SLICE", given, Real(shape), "StridedSliceOptions", fields)


CASES = [
    conv("3x3 same", (3, 3), (6, 5)),
    conv("3x3 valid relu", (3, 3), (4, 3), padding=VALID, fusedActivationFunction=RELU),
    conv("same stride 2 relu6", (3, 3), (3, 3), strideH=2, strideW=2, fusedActivationFunction=RELU6),
    conv("dilated", (3, 3), (6, 5), dilationHFactor=2, dilationWFactor=2),
    conv("clamped to 1", (1, 1), (6, 5), ops=("conv2d", "clamp"), fusedActivationFunction=RELU_N1),
    Case(
        "conv grouped",
        "CONV_2D",
        [MAP, f(8, 3, 3, 2), f(8)],
        Real((1, 6, 5, 8)),
        "Conv2DOptions",
        {"padding": SAME, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1},
        ["conv2d"],
    ),
    Case(
        "depthwise",
        "DEPTHWISE_CONV_2D",
        [MAP, f(1, 3, 3, 4), f(4)],
        MAP,
        "DepthwiseConv2DOptions",
        {"strideH": 1, "strideW": 1, "depthMultiplier": 1},
        ["conv2d"],
    ),
    Case(
        "depthwise multiplied",
        "DEPTHWISE_CONV_2D",
        [MAP, f(1, 3, 3, 8), f(8)],
        Real((1, 3, 3, 8)),
        "DepthwiseConv2DOptions",
        {"strideH": 2, "strideW": 2, "depthMultiplier": 2},
        ["conv2d"],
    ),
    Case(
        "transposed same",
        "TRANSPOSE_CONV",
        [i(1, 12, 10, 3), f(3, 3, 3, 4), MAP],
        Real((1, 12, 10, 3)),
        "TransposeConvOptions",
        {"padding": SAME, "strideH": 2, "strideW": 2},
        ["conv_transpose2d"],
    ),
    Case(
        "transposed valid",
        "TRANSPOSE_CONV",
        [i(1, 13, 11, 3), f(3, 3, 3, 4), MAP, f(3)],
        Real((1, 13, 11, 3)),
        "TransposeConvOptions",
        {"padding": VALID, "strideH": 2, "strideW": 2},
        ["conv_transpose2d"],
    ),
    Case(
        "transposed beyond",
        "TRANSPOSE_CONV",
        [i(1, 12, 10, 3), f(3, 2, 2, 4), MAP, f(3)],
        Real((1, 12, 10, 3)),
        "TransposeConvOptions",
        {"padding": VALID, "strideH": 2, "strideW": 2},
        ["conv_transpose2d"],
    ),
    Case(
        "dense",
        "FULLY_CONNECTED",
        [ROW, f(5, 12), f(5)],
        Real((1, 5)),
        "FullyConnectedOptions",
        {"fusedActivationFunction": RELU},
        ["linear"],
    ),
    Case(
        "dense on maps",
        "FULLY_CONNECTED",
        [MAP, f(3, 4), f(3)],
        Real((1, 6, 5, 3)),
        "FullyConnectedOptions",
        {"keepNumDims": True},
    ),
    Case("dense flattens", "FULLY_CONNECTED", [MAP, f(3, 120), None], Real((1, 3)), "FullyConnectedOptions"),
    Case(
        "dense on a sequence",
        "FULLY_CONNECTED",
        [SEQ, f(3, 4), f(3)],
        Real((1, 7, 3)),
        "FullyConnectedOptions",
        {"keepNumDims": True},
    ),
    pool("MAX_POOL_2D", "same", (3, 3)),
    pool("MAX_POOL_2D", "valid relu", (2, 2), padding=VALID, fusedActivationFunction=RELU),
    pool("AVERAGE_POOL_2D", "same", (3, 3)),
    pool(
        "AVERAGE_POOL_2D", "whole", (1, 1), padding=VALID, filterHeight=6, filterWidth=5, strideH=1, strideW=1
    ),
    resize("half pixels", (12, 10), True, halfPixelCenters=True),
    resize("corners", (11, 9), True, alignCorners=True),
    resize("legacy", (12, 10), True),
    resize("legacy smaller", (4, 3), True),
    resize("whole", (12, 10), False),
    resize("broken", (9, 7), False),
    resize("half pixels", (12, 10), False, halfPixelCenters=True),
    resize("half pixels broken", (9, 7), False, halfPixelCenters=True),
    resize("corners", (11, 9), False, alignCorners=True),
    Case(
        "depth to space",
        "DEPTH_TO_SPACE",
        [Real((1, 3, 2, 12))],
        Real((1, 6, 4, 3)),
        "DepthToSpaceOptions",
        {"blockSize": 2},
    ),
    Case(
        "space to depth",
        "SPACE_TO_DEPTH",
        [Real((1, 6, 4, 3))],
        Real((1, 3, 2, 12)),
        "SpaceToDepthOptions",
        {"blockSize": 2},
    ),
    Case(
        "lrn",
        "LOCAL_RESPONSE_NORMALIZATION",
        [MAP],
        MAP,
        "LocalResponseNormalizationOptions",
        {"radius": 1, "bias": 1.0, "alpha": 0.5, "beta": 0.5},
    ),
    binary("two", "ADD", [MAP, MAP]),
    binary("channels", "ADD", [MAP, f(4)], fusedActivationFunction=RELU),
    binary("number first", "SUB", [np.float32(2.0).reshape(()), MAP]),
    binary("map", "MUL", [MAP, f(1, 6, 5, 4)]),
    binary("gate", "MUL", [MAP, Real((1, 1, 1, 4))]),
    binary("pixels", "MUL", [MAP, Real((1, 6, 5, 1))]),
    binary("row and map", "MUL", [MAP, Real((1, 4))]),
    binary("numbers", "DIV", [MAP, np.abs(f(4)) + 1]),
    binary("sequence", "ADD", [SEQ, f(7, 4)], SEQ.shape),
    binary("clamped", "ADD", [MAP, MAP], fusedActivationFunction=RELU_N1),
    binary("number", "MAXIMUM", [MAP, f(1)]),
    binary("number", "MINIMUM", [MAP, np.float32(0.5).reshape(())]),
    binary("two", "MAXIMUM", [MAP, MAP]),
    binary("two", "MINIMUM", [MAP, MAP]),
    binary("two", "SQUARED_DIFFERENCE", [MAP, MAP]),
    Case("add n", "ADD_N", [MAP, MAP, MAP], MAP, "AddNOptions"),
    Case("power", "POW", [MAP, np.float32(2.0).reshape(())], MAP, "PowOptions"),
    *map(
        unary,
        (
            "RELU",
            "RELU6",
            "RELU_N1_TO_1",
            "RELU_0_TO_1",
            "LOGISTIC",
            "TANH",
            "HARD_SWISH",
            "EXP",
            "LOG",
            "SQRT",
            "ABS",
            "NEG",
            "SIGN",
            "SQUARE",
            "RSQRT",
            "ELU",
            "LOG_SOFTMAX",
        ),
    ),
    unary("LEAKY_RELU", "LeakyReluOptions", alpha=0.3),
    unary("GELU", "GeluOptions", approximate=True),
    unary("L2_NORMALIZATION", "L2NormOptions"),
    unary("SOFTMAX", "SoftmaxOptions", beta=1.0),
    Case("softmax beta", "SOFTMAX", [ROW], ROW, "SoftmaxOptions", {"beta": 2.0}),
    Case("prelu", "PRELU", [MAP, f(1, 1, 4)], MAP, "", {}, ["prelu"]),
    Case("prelu of pixels", "PRELU", [MAP, f(6, 5, 4)], MAP),
    reduced("MEAN", (1, 2), (1, 4), False),
    reduced("MEAN", (1, 2), (1, 1, 1, 4), True),
    reduced("MEAN", (-1,), (1, 6, 5), False),
    reduced("SUM", (2,), (1, 6, 4), False),
    reduced("REDUCE_MAX", (1, 2, 3), (1,), False),
    reduced("REDUCE_MIN", (3,), (1, 6, 5, 1), True),
    Case("matmul", "BATCH_MATMUL", [SEQ, Real((1, 4, 5))], Real((1, 7, 5)), "BatchMatMulOptions"),
    Case(
        "matmul turned",
        "BATCH_MATMUL",
        [SEQ, Real((1, 5, 4))],
        Real((1, 7, 5)),
        "BatchMatMulOptions",
        {"adjY": True},
    ),
    Case(
        "matmul by a constant",
        "BATCH_MATMUL",
        [SEQ, f(4, 5)],
        Real((1, 7, 5)),
        "BatchMatMulOptions",
        {},
        ["linear"],
    ),
    Case("flatten", "RESHAPE", [MAP, i(1, 120)], Real((1, 120)), "ReshapeOptions"),
    Case("rows", "RESHAPE", [MAP, i(1, 30, 4)], Real((1, 30, 4)), "ReshapeOptions"),
    Case("anchors", "RESHAPE", [MAP, i(1, 60, 2)], Real((1, 60, 2)), "ReshapeOptions"),
    Case("to a map", "RESHAPE", [ROW, i(1, 3, 2, 2)], Real((1, 3, 2, 2)), "ReshapeOptions"),
    Case("without batch", "RESHAPE", [MAP, i(30, 4)], Real((30, 4)), "ReshapeOptions"),
    Case("squeeze", "SQUEEZE", [Real((1, 1, 5, 4))], Real((1, 5, 4)), "SqueezeOptions"),
    Case("expand", "EXPAND_DIMS", [SEQ, i(1)], Real((1, 1, 7, 4)), "ExpandDimsOptions"),
    Case("channels first", "TRANSPOSE", [MAP, i(0, 3, 1, 2)], Real((1, 4, 6, 5)), "TransposeOptions"),
    Case("turned", "TRANSPOSE", [SEQ, i(0, 2, 1)], Real((1, 4, 7)), "TransposeOptions"),
    Case(
        "concat channels",
        "CONCATENATION",
        [MAP, MAP],
        Real((1, 6, 5, 8)),
        "ConcatenationOptions",
        {"axis": 3},
    ),
    Case(
        "concat rows", "CONCATENATION", [MAP, MAP], Real((1, 12, 5, 4)), "ConcatenationOptions", {"axis": -3}
    ),
    Case(
        "concat sequence", "CONCATENATION", [SEQ, SEQ], Real((1, 14, 4)), "ConcatenationOptions", {"axis": 1}
    ),
    Case(
        "split",
        "SPLIT",
        [i(3), MAP],
        {"a": Real((1, 6, 5, 2)), "b": Real((1, 6, 5, 2))},
        "SplitOptions",
        {"numSplits": 2},
    ),
    Case(
        "split by lengths",
        "SPLIT_V",
        [MAP, i(1, -1), i(-1)],
        {"a": Real((1, 6, 5, 1)), "b": Real((1, 6, 5, 3))},
        "SplitVOptions",
        {"numSplits": 2},
    ),
    Case("slice", "SLICE", [MAP, i(0, 1, 0, 1), i(1, -1, 3, 2)], Real((1, 5, 3, 2)), "SliceOptions"),
    strided("steps", i(0, 0, 1, 0), i(1, 6, 5, 4), i(1, 2, 2, 1), (1, 3, 2, 4)),
    strided(
        "masks", i(0, 2, 0, 0), i(0, -1, 0, 2), i(1, 1, 1, 1), (1, 3, 5, 2), beginMask=0b0101, endMask=0b0101
    ),
    strided("drops an axis", i(0, 0, 0, 2), i(1, 6, 5, 3), i(1, 1, 1, 1), (1, 6, 5), shrinkAxisMask=0b1000),
    Case("pack", "PACK", [SEQ, SEQ], Real((1, 7, 2, 4)), "PackOptions", {"valuesCount": 2, "axis": 2}),
    Case(
        "unpack",
        "UNPACK",
        [Real((1, 2, 4))],
        {"a": Real((1, 4)), "b": Real((1, 4))},
        "UnpackOptions",
        {"num": 2, "axis": 1},
    ),
    Case("gather", "GATHER", [MAP, i(3, 0, 1)], Real((1, 6, 5, 3)), "GatherOptions", {"axis": 3}),
    Case("tile", "TILE", [MAP, i(1, 1, 2, 1)], Real((1, 6, 10, 4)), "TileOptions"),
    Case(
        "pad", "PAD", [MAP, i((0, 0), (1, 2), (0, 1), (0, 0))], Real((1, 9, 6, 4)), "PadOptions", {}, ["pad"]
    ),
    Case("pad channels", "PAD", [MAP, i((0, 0), (0, 0), (0, 0), (0, 3))], Real((1, 6, 5, 7)), "PadOptions"),
    Case(
        "pad a number",
        "PADV2",
        [MAP, i((0, 0), (1, 1), (1, 1), (0, 0)), np.float32(-3).reshape(())],
        Real((1, 8, 7, 4)),
        "PadV2Options",
    ),
    Case(
        "mirror",
        "MIRROR_PAD",
        [MAP, i((0, 0), (2, 1), (1, 1), (0, 0))],
        Real((1, 9, 7, 4)),
        "MirrorPadOptions",
        {"mode": 0},
    ),
    Case(
        "mirror the border",
        "MIRROR_PAD",
        [MAP, i((0, 0), (1, 1), (1, 1), (0, 0))],
        Real((1, 8, 7, 4)),
        "MirrorPadOptions",
        {"mode": 1},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator(tmp_path: Path, case: Case) -> None:
    raw = case.bytes()
    graph = read(tmp_path, raw).graph
    check_structure(graph)
    check_shapes(graph)
    if case.ops is not None:
        assert [op_name(node) for node in calls(graph)] == list(case.ops)
    given = [np.abs(value) + 0.1 if case.positive else value for value in feeds(raw)]
    wanted = litert(raw, given)
    got = run(graph, *(torch.from_numpy(as_graph(value)) for value in given))
    for a, b in zip(got, wanted, strict=True):
        close(a.numpy(), as_graph(b).reshape(a.shape))
    again = to_tflite(deployment_form(graph))
    for a, b in zip(litert(again, given), wanted, strict=True):
        close(a.reshape(b.shape), b)


def close(got: Array, wanted: Array) -> None:
    assert np.abs(got - wanted).max() <= TOLERANCE * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_stray_transposes(case: Case, tmp_path: Path) -> None:
    raw = case.bytes()
    again = read_tflite(to_tflite(deployment_form(read(tmp_path, raw).graph)))
    allowed = {
        "TRANSPOSE",
        "BATCH_MATMUL",
        "SPACE_TO_DEPTH",
        "DEPTH_TO_SPACE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
    }
    assert case.code in allowed or "TRANSPOSE" not in again.op_counts()


def test_a_fused_activation_that_litert_leaves_out_is_refused(tmp_path: Path) -> None:
    case = conv("tanh", (1, 1), (6, 5), fusedActivationFunction=TANH)
    with pytest.raises(UnsupportedError, match="fused activation 4"):
        read(tmp_path, case.bytes())

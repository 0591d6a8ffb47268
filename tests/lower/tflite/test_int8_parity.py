"""int8 files against the fake-quantised graph: every operator within one step of the output grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, is_constant, operand, outputs, run, set_buffer
from mcc.lower.tflite.reader import TfliteModel, TfliteTensor, read_tflite
from mcc.lower.tflite.writer import to_tflite
from mcc.quant.regions import integer_nodes
from tests.lower.tflite.cases import CASES, COMPOSITES, Case, Composite
from tests.lower.tflite.quantising import quantised
from tests.lower.tflite.running import RESOLVERS, execute

SINGLE = [case for case in COMPOSITES if case.op]
SMALL_RIM = 1e-3  # of a step: dequantised outputs are exact multiples up to float32 rounding


def steps_off(graph: Graph, raw: bytes, inputs: list[torch.Tensor], kernels: str) -> float:
    """The largest difference to the fake-quantised graph, in steps of the output grid."""
    expected = run(graph, *inputs)[0].numpy()
    got = execute(raw, [x.numpy() for x in inputs], kernels)[0]
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max()) / float(constant(graph, operand(outputs(graph)[0], 1)))


@pytest.mark.parametrize("kernels", RESOLVERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_operator_is_within_one_step(case: Case, kernels: str) -> None:
    x = case.input()
    graph = quantised(case.graph(), x)
    assert steps_off(graph, to_tflite(graph), [x], kernels) < 1 + SMALL_RIM


@pytest.mark.parametrize("kernels", RESOLVERS)
@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.id)
def test_operator_of_two_inputs_is_within_one_step(case: Composite, kernels: str) -> None:
    inputs = [torch.randn(2, *shape) + 0.5 for shape in case.inputs]
    if case.op == "div":
        inputs[1] = inputs[1].abs() + 1
    graph = quantised(case.graph(), *inputs)
    assert steps_off(graph, to_tflite(graph), inputs, kernels) < 1 + SMALL_RIM


def _int8_conv(weight_bits: int = 8) -> tuple[Graph, torch.Tensor]:
    case = CASES[0]
    x = case.input()
    return quantised(case.graph(), x, weight_bits=weight_bits), x


def _conv_tensors(model: TfliteModel) -> list[TfliteTensor]:
    conv = next(op for op in model.operators if op.code == "CONV_2D")
    return [model.tensors[index] for index in (*conv.inputs, *conv.outputs)]


@pytest.mark.parametrize("bits", [8, 7])
def test_file_holds_the_trained_scales_and_quantised_constants_exactly(bits: int) -> None:
    graph, _ = _int8_conv(bits)
    conv = calls(graph, "conv2d")[0]
    x, weight, bias, y = _conv_tensors(read_tflite(to_tflite(graph)))
    assert (x.dtype, weight.dtype, bias.dtype, y.dtype) == ("int8", "int8", "int32", "int8")
    for tensor, fake in ((x, operand(conv, 0)), (weight, operand(conv, 1)), (y, next(iter(conv.users)))):
        assert tensor.quantisation is not None
        assert np.array_equal(
            tensor.quantisation.scales, constant(graph, operand(fake, 1)).numpy().reshape(-1)
        )
        assert np.array_equal(
            tensor.quantisation.zero_points, constant(graph, operand(fake, 2)).numpy().reshape(-1)
        )
    fake = operand(conv, 1)
    scale = constant(graph, operand(fake, 1)).numpy()
    expected = np.clip(
        np.rint(constant(graph, operand(fake, 0)).detach().numpy() / scale[:, None, None, None]), -127, 127
    )
    assert weight.data is not None
    assert bias.data is not None
    assert bias.quantisation is not None
    assert np.array_equal(weight.data.transpose(0, 3, 1, 2), expected)
    assert abs(weight.data).max() == 2 ** (bits - 1) - 1
    assert np.array_equal(bias.quantisation.scales, x.quantisation.scale * weight.quantisation.scales)
    real = constant(graph, operand(conv, 2)).detach().numpy().astype(np.float64)
    assert np.array_equal(bias.data, np.rint(real / bias.quantisation.scales.astype(np.float64)))


def test_a_wrong_scale_is_noticed() -> None:
    graph, x = _int8_conv()
    raw = to_tflite(graph)
    name = str(operand(operand(calls(graph, "conv2d")[0], 1), 1).target)
    set_buffer(graph, name, constant(graph, name) * 1.05)
    assert steps_off(graph, raw, [x], "reference") > 1.5


def test_a_bias_beyond_int32_is_refused() -> None:
    graph, _ = _int8_conv()
    name = str(operand(calls(graph, "conv2d")[0], 1).args[1].target)
    set_buffer(graph, name, torch.full_like(constant(graph, name), 1e-12))
    with pytest.raises(UnsupportedError, match=r"bias of output channel \d+ .* does not fit into int32"):
        to_tflite(graph)


def test_borders_hold_the_only_conversions() -> None:
    graph, _ = _int8_conv()
    counts = read_tflite(to_tflite(graph)).op_counts()
    assert (counts["QUANTIZE"], counts["DEQUANTIZE"]) == (1, 1)
    model = read_tflite(to_tflite(graph, io="int8"))
    assert set(model.op_counts()) == {"CONV_2D"}
    assert {model.tensors[i].dtype for i in (*model.inputs, *model.outputs)} == {"int8"}


def _two_convolutions(first_int8: bool, second_int8: bool) -> tuple[Graph, torch.Tensor]:
    """Two convolutions of which each may be int8: regions by hand."""
    b = GraphBuilder()
    x = b.input("x", (1, 4, 6, 6))
    generator = torch.Generator().manual_seed(0)

    def fake(value, name: str, scale: float, zero: int = 0, **kw):
        s = b.constant(
            f"{name}_s", torch.tensor(scale) if "axis" not in kw else torch.full((4,), scale), trains=False
        )
        z = torch.tensor(zero, dtype=torch.int32) if "axis" not in kw else torch.zeros(4, dtype=torch.int32)
        return b.fake_quantize(value, s, b.constant(f"{name}_z", z, trains=False), **kw)

    for i, integer in enumerate((first_int8, second_int8)):
        w = b.constant(f"w{i}", torch.randn(4, 4, 3, 3, generator=generator) * 0.2)
        if integer:
            x = fake(x, f"in{i}", 0.05, 3)
            w = fake(w, f"q{i}", 0.01, qmin=-127, qmax=127, axis=0)
        x = b.conv2d(
            x,
            w,
            b.constant(f"b{i}", torch.randn(4, generator=generator)),
            padding=(1,) * 4,
            activation="relu",
        )
        if integer:
            x = fake(x, f"out{i}", 0.04, -128)
    return b.finish(x), torch.randn(2, 4, 6, 6, generator=generator)


@pytest.mark.parametrize("kernels", RESOLVERS)
@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_precisions_mix_by_region(first: bool, second: bool, kernels: str) -> None:
    graph, x = _two_convolutions(first, second)
    raw = to_tflite(graph)
    counts = read_tflite(raw).op_counts()
    assert len(integer_nodes(graph)) == first + second
    # Between two int8 convolutions the grids differ: one int8 to int8 requantise.
    assert counts["QUANTIZE"] == 1 + (first and second)
    assert counts["DEQUANTIZE"] == 1
    expected = run(graph, x)[0].numpy()
    got = execute(raw, [x.numpy()], kernels)[0]
    # One step of the first output (0.04) may travel through the second convolution: 9 * 4 taps up to 0.8.
    assert np.abs(got - expected).max() < 0.3
    assert np.abs(got - expected).mean() < 0.02


def test_float_weights_of_a_quantised_graph_are_the_fake_quantised_ones() -> None:
    graph, x = _two_convolutions(False, True)
    conv = calls(graph, "conv2d")[1]
    # An output nobody quantises makes the convolution float: it must still see the rounded weight.
    fake = next(iter(conv.users))
    fake.replace_all_uses_with(conv)
    graph.graph.erase_node(fake)
    graph.recompile()
    assert not integer_nodes(graph)
    got = execute(to_tflite(graph), [x.numpy()])[0]
    assert np.abs(got - run(graph, x)[0].numpy()).max() < 1e-4
    assert not is_constant(operand(conv, 1))


def _dead(op: str, constant_shape: tuple[int, ...], output_scale: float) -> Graph:
    """One operator whose output grid is as fine as that of a layer that is always zero."""
    b = GraphBuilder()

    def fake(value, name: str, scale: float):
        s = b.constant(f"{name}_s", torch.tensor(scale), trains=False)
        return b.fake_quantize(
            value, s, b.constant(f"{name}_z", torch.tensor(0, dtype=torch.int32), trains=False)
        )

    x = fake(b.input("x", (1, 4, 2, 2)), "x", 0.05)
    second = fake(b.constant("c", torch.ones(constant_shape)), "c", 0.01)
    y = b.call(op, x, second, *[None] * (op in ("conv2d", "linear")))
    return b.finish(fake(y, "y", output_scale))


@pytest.mark.parametrize(
    ("op", "constant_shape"),
    [
        ("add", (1, 4, 1, 1)),
        ("sub", (1, 4, 1, 1)),
        ("mul", (1, 4, 1, 1)),
        ("conv2d", (3, 4, 1, 1)),
        ("linear", (3, 2)),
    ],
)
def test_grids_that_the_kernels_refuse_run_in_float(op: str, constant_shape: tuple[int, ...]) -> None:
    # As int8 operators, ADD ends the process when the file is loaded and CONV_2D cannot be prepared.
    graph = _dead(op, constant_shape, output_scale=1e-8)
    assert not integer_nodes(graph)
    x = torch.randn(1, 4, 2, 2)
    for kernels in RESOLVERS:
        assert steps_off(graph, to_tflite(graph), [x], kernels) < 1 + SMALL_RIM
    assert len(integer_nodes(_dead(op, constant_shape, output_scale=0.02))) == 1

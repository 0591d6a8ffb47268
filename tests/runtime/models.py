"""Small models for the tests of the targets, written without any other part of mcc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Conv:
    """A convolution + ReLU: weights [O, I, k, k], bias [O], stride 1, zero padding k // 2 on every side."""

    weight: Floats
    bias: Floats
    size: int

    def numpy(self, x: Floats) -> Floats:
        """Reference: x [N, I, H, W] -> [N, O, H, W]."""
        k = self.weight.shape[2]
        padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
        out = np.einsum("nihwyx,oiyx->nohw", windows, self.weight) + self.bias[None, :, None, None]
        return np.maximum(out, 0.0).astype(np.float32)


def conv(seed: int = 0, channels: tuple[int, int] = (3, 8), kernel: int = 3, size: int = 8) -> Conv:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((channels[1], channels[0], kernel, kernel)).astype(np.float32) * 0.3
    return Conv(weight, rng.standard_normal(channels[1]).astype(np.float32), size)


def write_tflite(model: Conv, path: Path) -> Path:
    """NHWC input and output, one CONV_2D with fused ReLU and SAME padding."""
    chain_tflite([model], path)
    return path


def _quantisation(schema, scales, zero_points, axis=0):
    q = schema.QuantizationParametersT()
    q.scale, q.zeroPoint, q.quantizedDimension = list(scales), list(zero_points), axis
    return q


class _Writer:
    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.s = schema
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name: str, shape, kind: int, data=None, quantisation=None) -> int:
        t = self.s.TensorT()
        t.name, t.shape, t.type, t.buffer, t.quantization = name.encode(), list(shape), kind, 0, quantisation
        if data is not None:
            buffer = self.s.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def opcode(self, builtin: int, version: int) -> int:
        for index, known in enumerate(self.model.operatorCodes):
            if (known.builtinCode, known.version) == (builtin, version):
                return index
        code = self.s.OperatorCodeT()
        code.builtinCode, code.version = builtin, version
        code.deprecatedBuiltinCode = min(builtin, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def plain(self, builtin: int, source: int, output: int, version: int = 1) -> None:
        op = self.s.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self.opcode(builtin, version), [source], [output]
        self.graph.operators.append(op)

    def conv(self, inputs: list[int], output: int, version: int) -> None:
        s = self.s
        options = s.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = s.Padding.SAME, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = s.ActivationFunctionType.RELU
        op = s.OperatorT()
        op.opcodeIndex = self.opcode(s.BuiltinOperator.CONV_2D, version)
        op.inputs, op.outputs = inputs, [output]
        op.builtinOptionsType, op.builtinOptions = s.BuiltinOptions.Conv2DOptions, options
        self.graph.operators.append(op)

    def save(self, inputs: list[int], outputs: list[int], path: Path) -> None:
        import flatbuffers

        self.graph.inputs, self.graph.outputs = inputs, outputs
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def chain_tflite(convs: list[Conv], path: Path) -> Path:
    """Several convolutions in a row, float."""
    w = _Writer()
    f32 = w.s.TensorType.FLOAT32
    size = convs[0].size
    first = last = w.tensor("in", (1, size, size, convs[0].weight.shape[1]), f32)
    for i, c in enumerate(convs):
        weight = w.tensor(f"w{i}", c.weight.transpose(0, 2, 3, 1).shape, f32, c.weight.transpose(0, 2, 3, 1))
        bias = w.tensor(f"b{i}", c.bias.shape, f32, c.bias)
        out = w.tensor(f"out{i}", (1, size, size, c.weight.shape[0]), f32)
        w.conv([last, weight, bias], out, 1)
        last = out
    w.save([first], [last], path)
    return path


def chain_tflite_int8(convs: list[Conv], path: Path, scale: float = 0.05, float_io: bool = False) -> Path:
    """The same in int8: input and output int8 one scale and zero point 0 everywhere, weights per channel."""
    w = _Writer()
    s = w.s
    size = convs[0].size

    def act(name: str, channels: int) -> int:
        return w.tensor(
            name, (1, size, size, channels), s.TensorType.INT8, None, _quantisation(s, [scale], [0])
        )

    first = last = act("in", convs[0].weight.shape[1])
    if float_io:
        first = w.tensor("float_in", (1, size, size, convs[0].weight.shape[1]), s.TensorType.FLOAT32)
        w.plain(s.BuiltinOperator.QUANTIZE, first, last)
    for i, c in enumerate(convs):
        ohwi = c.weight.transpose(0, 2, 3, 1)
        step = np.abs(ohwi).max(axis=(1, 2, 3)) / 127
        q = np.round(ohwi / step[:, None, None, None]).astype(np.int8)
        zeros = [0] * len(step)
        weight = w.tensor(f"w{i}", q.shape, s.TensorType.INT8, q, _quantisation(s, step, zeros))
        ints = np.round(c.bias / (scale * step)).astype(np.int32)
        bias = w.tensor(f"b{i}", ints.shape, s.TensorType.INT32, ints, _quantisation(s, scale * step, zeros))
        out = act(f"out{i}", c.weight.shape[0])
        w.conv([last, weight, bias], out, 3)
        last = out
    if float_io:
        out = w.tensor("float_out", (1, size, size, convs[-1].weight.shape[0]), s.TensorType.FLOAT32)
        w.plain(s.BuiltinOperator.DEQUANTIZE, last, out, 2)
        last = out
    w.save([first], [last], path)
    return path


def chain_onnx(convs: list[Conv], path: Path) -> Path:
    """NCHW, Conv and Relu nodes, float."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, last, size = [], [], "in", convs[0].size
    for i, c in enumerate(convs):
        k = c.weight.shape[2]
        constants += [numpy_helper.from_array(c.weight, f"w{i}"), numpy_helper.from_array(c.bias, f"b{i}")]
        nodes.append(
            helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[k // 2] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"out{i}"], f"relu{i}"))
        last = f"out{i}"

    def value(name: str, channels: int):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size])

    graph = helper.make_graph(
        nodes, "g", [value("in", convs[0].weight.shape[1])], [value(last, len(convs[-1].bias))], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path

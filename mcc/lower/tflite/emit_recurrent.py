"""Emit functions: recurrent layers, unrolled into the operators of each step.

TFLite has UNIDIRECTIONAL_SEQUENCE_LSTM, but it keeps its state between two runs of an interpreter until the
application resets it, so that the answer would depend on the previous input; and it has no GRU. Unrolled, all
steps read the same weights, which are in the file once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import op_name, operand, optional_operand
from mcc.ir.notes import note, shape_of
from mcc.lower.layout import plain
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.emit_conv import attributes
from mcc.lower.tflite.emit_elementwise import ADD, MUL, SUB, step
from mcc.lower.tflite.emit_reduce import reduce
from mcc.lower.tflite.lowering import Lowering, Value, Weight, emits

Array = npt.NDArray[Any]

MAX_STEPS = 512
"""Longest unrolled sequence: about 7,000 operators of together 1 MB."""

MAX_COPIED_BYTES = 16 << 20
"""XNNPACK packs the recurrent weight for each step when a file is loaded; limit of all these copies.

Beyond it the product is a sum of products, which reads the weight in place: for an LSTM of 512 units and 20
steps the memory is 20 instead of 92 MB, and it is not slower (Xeon with VNNI, LiteRT 2.3.0, 2026-11).
"""

_PLAIN = plain(3)
_WHOLE_BATCH = 1  # mask of axis 0: a slice of a resized batch is not cut
_LSTM_ORDER = (0, 1, 3, 2)
"""Input, forget, output, cell: the gates that share a sigmoid are neighbours."""


class _Unrolled:
    """One recurrent layer in one direction: its constants, its projected input, and the steps.

    Args:
        order: order of the blocks of gates in the weights of the file.
    """

    def __init__(self, low: Lowering, node: fx.Node, order: tuple[int, ...]) -> None:
        self.low = low
        self.node = node
        self.order = order
        self.hidden = shape_of(node)[2]
        self.own = self._array(2)
        self.own_bias = self._array(4)
        self.at = 0
        _check_steps(node)
        self.in_place = shape_of(node)[1] * self.own.nbytes > MAX_COPIED_BYTES
        self.projected = self.product(low.operand(node, 0, _PLAIN), self._array(1), self._array(3), "input")

    def _array(self, index: int) -> Array:
        """A constant operand with its gates in order; zeros for an absent bias."""
        if optional_operand(self.node, index) is None:
            return np.zeros(len(self.order) * self.hidden, np.float32)
        blocks = np.split(self.low.weight(self.node, index).value, len(self.order))
        return np.concatenate([blocks[gate] for gate in self.order])

    def product(self, x: Value, weight: Array, bias: Array, name: str) -> Value:
        """FULLY_CONNECTED of [N, T, I], its constants shared by all products of one name."""
        held = [
            self.low.store_weight(f"{self.node.name}/{name}_{kind}", Weight(value, None, self.node.name))
            for kind, value in (("weight", weight), ("bias", bias))
        ]
        options = Options("FullyConnectedOptions", {"fusedActivationFunction": 0, "keepNumDims": True})
        shape = (*x.shape[:2], len(bias))
        return self.low.call(
            self.node, "FULLY_CONNECTED", [x, *held], shape, _PLAIN, options, suffix=self._name(name)
        )

    def own_product(self, x: Value, weight: Array, bias: Array, name: str) -> Value:
        """The product of a state with a recurrent weight."""
        if not self.in_place:
            return self.product(x, weight, bias, name)
        rows, width = weight.shape
        columns = Weight(np.ascontiguousarray(weight.T), None, self.node.name)
        held = self.low.store_weight(f"{self.node.name}/{name}_columns", columns)
        column = self.low.reshape(self.node, x, (x.shape[0], width, 1), _PLAIN, self._name("column"))
        shape = (x.shape[0], width, rows)
        scaled = self.low.call(self.node, "MUL", [column, held], shape, _PLAIN, MUL, suffix=self._name("mul"))
        summed = reduce(self.low, self.node, "SUM", scaled, (1,), suffix=self._name("sum"))
        return self.call("ADD", summed, self.numbers(bias), options=ADD)

    def _name(self, name: str) -> str:
        return f"{self.at}/{name}"

    def call(self, code: str, *inputs: Value | int, options: Options | None = None) -> Value:
        """An element-wise operator of the present step."""
        return step(self.low, self.node, code, [*inputs], options, self._name(code.lower()))

    def window(self, x: Value, blocks: slice, at: int = 0) -> Value:
        """Blocks of gates of one step."""
        start, stop = blocks.start * self.hidden, blocks.stop * self.hidden
        windows = [((0, at, start), "begin"), ((0, at + 1, stop), "end"), ((1, 1, 1), "strides")]
        inputs = [x, *(self.low.integers(values, name) for values, name in windows)]
        options = Options("StridedSliceOptions", {"beginMask": _WHOLE_BATCH, "endMask": _WHOLE_BATCH})
        shape = (x.shape[0], 1, stop - start)
        return self.low.call(
            self.node, "STRIDED_SLICE", inputs, shape, _PLAIN, options, suffix=self._name("gates")
        )

    def numbers(self, value: Array) -> int:
        """A constant that broadcasts over a step."""
        return self.low.model.constant(f"{self.node.name}/start", value, owner=self.node.name)

    def run(self, cell: Callable[[int], Value]) -> None:
        """All steps in their order, and their joined results."""
        steps = shape_of(self.node)[1]
        results: dict[int, Value | int] = {}
        for at in reversed(range(steps)) if attributes(self.node)["reverse"] else range(steps):
            self.at = at
            results[at] = cell(at)
        parts = [results[at] for at in range(steps)]
        if steps == 1:
            parts.append(self.numbers(np.zeros(1, np.float32)))
            joined = step(self.low, self.node, "ADD", parts, ADD)
        else:
            options = Options("ConcatenationOptions", {"axis": 1})
            shape = shape_of(self.node)
            joined = self.low.call(self.node, "CONCATENATION", parts, shape, _PLAIN, options)
        self.low.bind(self.node, joined)


def _check_steps(node: fx.Node) -> None:
    steps = shape_of(node)[1]
    if steps <= MAX_STEPS:
        return
    before = note(operand(node, 0)).origin
    raise UnsupportedError(
        f"{op_name(node)} of {steps} steps would be unrolled, which mcc does up to {MAX_STEPS}",
        where=node.name,
        hint=f"lower for onnxruntime, or end the model before it: --cut {before[-1] if before else 'NODE'}",
    )


@emits("lstm")
def lstm(low: Lowering, node: fx.Node) -> None:
    """c = forget * c + input * cell, h = output * tanh(c)."""
    one = _Unrolled(low, node, _LSTM_ORDER)
    state: list[Value] = []  # of the units, of the cells

    def cell(at: int) -> Value:
        read = one.window(one.projected, slice(0, 4), at)
        own = one.own_product(state[0], one.own, one.own_bias, "own") if state else one.numbers(one.own_bias)
        gates = one.call("ADD", read, own, options=ADD)
        open_ = one.call("LOGISTIC", gates)
        entering, kept, leaving = (one.window(open_, slice(i, i + 1)) for i in range(3))
        new = one.call("MUL", entering, one.call("TANH", one.window(gates, slice(3, 4))), options=MUL)
        if state:
            new = one.call("ADD", one.call("MUL", kept, state[1], options=MUL), new, options=ADD)
        state[:] = [one.call("MUL", leaving, one.call("TANH", new), options=MUL), new]
        return state[0]

    one.run(cell)


@emits("gru")
def gru(low: Lowering, node: fx.Node) -> None:
    """h = new + update * (h - new)."""
    one = _Unrolled(low, node, (0, 1, 2))
    state: list[Value] = []
    both = 2 * one.hidden
    after = bool(attributes(node)["reset_after"])

    def own(x: Value | None, rows: slice, name: str) -> Value | int:
        bias = one.own_bias[rows]
        return one.numbers(bias) if x is None else one.own_product(x, one.own[rows], bias, name)

    def new_of(read: Value, reset: Value, h: Value | None, joint: Value | int) -> Value:
        if not after:
            kept = None if h is None else one.call("MUL", reset, h, options=MUL)
            return one.call("ADD", read, own(kept, slice(both, None), "new"), options=ADD)
        part = (
            one.window(joint, slice(2, 3)) if isinstance(joint, Value) else own(None, slice(both, None), "")
        )
        return one.call("ADD", read, one.call("MUL", reset, part, options=MUL), options=ADD)

    def cell(at: int) -> Value:
        h = state[0] if state else None
        joint = own(h, slice(None) if after and h is not None else slice(0, both), "own")
        gated = one.window(joint, slice(0, 2)) if after and isinstance(joint, Value) else joint
        gates = one.call("ADD", one.window(one.projected, slice(0, 2), at), gated, options=ADD)
        open_ = one.call("LOGISTIC", gates)
        reset, update = (one.window(open_, slice(i, i + 1)) for i in range(2))
        new = one.call("TANH", new_of(one.window(one.projected, slice(2, 3), at), reset, h, joint))
        if h is None:
            state[:] = [one.call("SUB", new, one.call("MUL", update, new, options=MUL), options=SUB)]
        else:
            apart = one.call("SUB", h, new, options=SUB)
            state[:] = [one.call("ADD", new, one.call("MUL", update, apart, options=MUL), options=ADD)]
        return state[0]

    one.run(cell)

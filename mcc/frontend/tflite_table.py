"""The table of TFLite operators, and what a rule sees of an operator of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch import fx

from mcc.errors import DataError
from mcc.frontend.emitter import Emitter
from mcc.frontend.tflite_constants import Constants
from mcc.frontend.tflite_values import Array, Values, View
from mcc.frontend.values import AnyValue, Const
from mcc.ir.notes import shape_of
from mcc.lower.layout import Layout, Shape
from mcc.lower.tflite.reader import TfliteModel, TfliteOperator, TfliteTensor

Result = View | list[View]

FUSED = {0: "none", 1: "relu", 2: "clamp", 3: "relu6"}
"""`ActivationFunctionType` of the schema; `clamp` is to [-1, 1]. LiteRT's kernels leave out TANH (4) without
a word, and SIGN_BIT (5) is no function of a network: both are refused."""


@dataclass(frozen=True)
class Site:
    """One operator of a file.

    Attributes:
        values: conversions of values, and the emitter.
        constants: constants of the file.
        model: the file.
        operator: the operator.
        inputs: computed inputs by position; None for constants and absent ones.
        only_reader: the operator that alone reads the first result of one; None where there are several, or
            none, or where it is an output of the file.
    """

    values: Values
    constants: Constants
    model: TfliteModel
    operator: TfliteOperator
    inputs: Sequence[View | None]
    only_reader: Callable[[TfliteOperator], TfliteOperator | None]

    @property
    def alone(self) -> TfliteOperator | None:
        """The operator that alone reads the first result."""
        return self.only_reader(self.operator)

    @property
    def emitter(self) -> Emitter:
        """Builds the graph."""
        return self.values.emitter

    @property
    def code(self) -> str:
        """Name of the operator in the schema."""
        return self.operator.code

    def get(self, name: str, default: Any = 0) -> Any:
        """An option of the operator."""
        found = self.operator.options.get(name, default)
        return default if found is None else found

    # -- operands ------------------------------------------------------------------------------------------

    def tensor(self, index: int) -> TfliteTensor | None:
        """The tensor of an input; None where it is absent."""
        found = self.operator.inputs[index] if index < len(self.operator.inputs) else -1
        return self.model.tensors[found] if found >= 0 else None

    def view(self, index: int = 0) -> View:
        """An input that must be computed."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            what = "lacks its" if self.tensor(index) is None else "reads a constant as its"
            self.emitter.refuse(f"{what} input {index}")
        return found

    def array(self, index: int) -> Array:
        """A constant input, as stored. Refuses a computed one."""
        tensor = self.tensor(index)
        found = None if tensor is None else self.constants.raw(tensor.index)
        if found is None:
            kind = "" if tensor is None else f" of type {tensor.dtype}"
            self.emitter.refuse(f"needs a constant as input {index}{kind}")
        return found

    def numbers(self, index: int) -> list[int]:
        """A constant input of integers."""
        return [int(value) for value in self.array(index).reshape(-1)]

    def is_constant(self, index: int) -> bool:
        """Whether an input is a constant of the file."""
        tensor = self.tensor(index)
        return tensor is not None and self.constants.raw(tensor.index) is not None

    def weight(
        self, index: int, form: Callable[[Array], Array], axis: int, order: Array | None = None
    ) -> AnyValue:
        """A weight in the axes of the graph, on its grid where the operator computes with integers.

        Args:
            form: brings the stored array into the axes of the graph.
            axis: axis of the graph along which the scales run, if they are several.
            order: order of the scales along that axis; None: as stored.
        """
        tensor = self.tensor(index)
        if tensor is None:
            self.emitter.refuse(f"lacks its input {index}")
        self.array(index)
        integer = self.view_of_data().grid is not None
        return self.constants.weight(tensor, form, axis, integer=integer, order=order)

    def view_of_data(self) -> View:
        """The first computed input."""
        return next((view for view in self.inputs if view is not None), None) or self.view()

    def bias(self, index: int, form: Callable[[Array], Array] = np.asarray) -> Const | None:
        """A bias as real numbers; None where it is absent."""
        tensor = self.tensor(index)
        if tensor is None:
            return None
        self.array(index)
        return self.constants.real(tensor, form)

    # -- results -------------------------------------------------------------------------------------------

    @property
    def declared(self) -> Shape:
        """Shape that the file declares for the first result."""
        return self.model.tensors[self.operator.outputs[0]].shape

    def fused(self) -> tuple[str, str]:
        """The fused activation: the attribute of the canonical operator, and one that needs its own node."""
        code = int(self.get("fusedActivationFunction"))
        if code not in FUSED:
            self.emitter.refuse(
                f"has the fused activation {code}, which LiteRT does not compute",
                "convert the model again, with the activation as its own operator",
            )
        name = FUSED[code]
        return (name, "none") if name in ("none", "relu", "relu6") else ("none", name)

    def made(
        self,
        node: fx.Node,
        layout: Layout,
        batched: bool = True,
        *,
        activation: str = "none",
        index: int = 0,
        check: bool = True,
    ) -> View:
        """A result: on the grid of its tensor, and of the shape that the file declares."""
        tensor = self.model.tensors[self.operator.outputs[index]]
        grid = self.constants.grid(tensor)
        if grid is None and tensor.dtype != "float32":
            self.emitter.refuse(
                f"computes values of type {tensor.dtype}", "mcc reads networks of real numbers"
            )
        if activation != "none":
            node = self.activated(self.values.on_grid(node, grid), activation)
        found = View(self.values.on_grid(node, grid), layout, batched, grid)
        return self.checked(found, index) if check else found

    def as_made(self, like: View, node: fx.Node, activation: str = "none") -> View:
        """A result in the order of an operand."""
        return self.made(node, like.layout, like.batched, activation=activation)

    def checked(self, found: View, index: int = 0) -> View:
        """A result, after a check of its shape. Raises DataError."""
        tensor = self.model.tensors[self.operator.outputs[index]]
        if self.values.shape(found) != tensor.shape:
            raise DataError(
                f"declares the result {list(tensor.shape)}, and computes {list(self.values.shape(found))}",
                where=self.emitter.place,
                hint="convert the model again",
            )
        return found

    def activated(self, node: fx.Node, activation: str) -> fx.Node:
        """An activation as its own node."""
        if activation == "clamp":
            return self.emitter.call_node("clamp", node, min=-1.0, max=1.0)
        return node if activation == "none" else self.emitter.call_node(activation, node)

    def regridded(self, view: View, index: int = 0) -> View:
        """A result that only moves numbers: on the grid of its tensor."""
        tensor = self.model.tensors[self.operator.outputs[index]]
        grid = self.constants.grid(tensor)
        if grid is None or view.grid is None or _same(grid, view.grid):
            if (grid is None) != (view.grid is None):
                self.emitter.refuse(f"mixes real numbers and {tensor.dtype}")
            return self.checked(view, index)
        return self.checked(replace(view, node=self.values.on_grid(view.node, grid), grid=grid), index)

    def map_shape(self, view: View) -> tuple[int, int, int]:
        """Channels, height and width of a map."""
        shape = shape_of(view.node)
        return shape[1], shape[2], shape[3]


def _same(a: object, b: object) -> bool:
    return a is b


Rule = Callable[[Site], Result]
_R = TypeVar("_R", bound=Rule)

RULES: dict[str, Rule] = {}

SHAPE_INPUTS: dict[str, tuple[int, ...]] = {}
"""Inputs that only say the shape of the result, by operator: the file declares that shape itself."""


def tflite_op(*codes: str, shapes: tuple[int, ...] = ()) -> Callable[[_R], _R]:
    """Register a rule for operators; `shapes` are inputs that it does not read."""

    def register(rule: _R) -> _R:
        for code in codes:
            assert code not in RULES, code
            RULES[code] = rule
            SHAPE_INPUTS[code] = shapes
        return rule

    return register

"""Small .tflite files, built operator by operator, and LiteRT on them: for the tests of the reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from mcc.frontend import load_model
from mcc.frontend.load import LoadedModel
from mcc.lower.tflite.builder import FlatModel, Options
from mcc.lower.tflite.quantisation import Quantisation, per_tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Real:
    """A computed float32 value."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    """A computed value of integers on a grid."""

    shape: tuple[int, ...]
    scale: float = 0.05
    zero: int = 3
    dtype: str = "int8"


@dataclass(frozen=True)
class Stored:
    """A constant of integers on a grid, along an axis if there are several scales."""

    value: Array
    scales: Sequence[float] = (0.02,)
    zeros: Sequence[int] = ()
    axis: int = 0

    def quantisation(self) -> Quantisation:
        zeros = self.zeros or [0] * len(self.scales)
        return Quantisation(np.array(self.scales, np.float32), np.array(zeros, np.int64), self.axis)


Value = Real | Whole
Given = Value | Stored | Array | str | None
"""An operand: a new input, a constant, the name of an earlier result, or none."""


@dataclass
class Net:
    """A file under construction."""

    model: FlatModel = field(default_factory=lambda: FlatModel("main", "made by a test"))
    named: dict[str, int] = field(default_factory=dict[str, int])
    inputs: dict[str, int] = field(default_factory=dict[str, int])

    def value(self, name: str, given: Value) -> int:
        """A computed value."""
        quantisation = per_tensor(given.scale, given.zero) if isinstance(given, Whole) else None
        dtype = given.dtype if isinstance(given, Whole) else "float32"
        self.named[name] = self.model.tensor(name, given.shape, dtype, quantisation)
        return self.named[name]

    def input(self, name: str, given: Value) -> str:
        """A new input."""
        self.inputs[name] = self.value(name, given)
        return name

    def operand(self, given: Given) -> int:
        """The tensor of an operand."""
        if given is None:
            return -1
        if isinstance(given, str):
            return self.named[given]
        if isinstance(given, Stored):
            return self.model.constant(f"c{len(self.model.info)}", given.value, given.quantisation())
        if isinstance(given, Real | Whole):
            return self.named[self.input(f"x{len(self.inputs)}", given)]
        return self.model.constant(f"c{len(self.model.info)}", given)

    def op(
        self, code: str, given: Sequence[Given], made: Mapping[str, Value], table: str = "", **fields: Any
    ) -> str:
        """An operator; returns the name of its first result."""
        operands = [self.operand(one) for one in given]
        results = [self.value(name, value) for name, value in made.items()]
        self.model.operator(code, operands, results, Options(table, fields) if table else None)
        return next(iter(made))

    def bytes(self, *outputs: str, signature: str = "serving_default") -> bytes:
        """The file."""
        return self.model.finish(self.inputs, {name: self.named[name] for name in outputs}, signature)


def one(
    code: str, given: Sequence[Given], made: Value | Mapping[str, Value], table: str = "", **fields: Any
) -> bytes:
    """A file of one operator."""
    net, results = Net(), made if isinstance(made, Mapping) else {"y": made}
    net.op(code, given, results, table, **fields)
    return net.bytes(*results)


def read(folder: Path, raw: bytes, **options: Any) -> LoadedModel:
    """The model of a file."""
    path = folder / "net.tflite"
    path.write_bytes(raw)
    return load_model(str(path), **options)


def litert(raw: bytes, values: Sequence[Array]) -> list[Array]:
    """The outputs of a file for inputs as it stores them."""
    interpreter: Any = Interpreter(model_content=raw, num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), values, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def feeds(raw: bytes, seed: int = 0) -> list[Array]:
    """Random inputs of a file's types and shapes."""
    interpreter: Any = Interpreter(model_content=raw, num_threads=1)
    generator = np.random.default_rng(seed)
    found: list[Array] = []
    for detail in interpreter.get_input_details():
        shape, dtype = tuple(detail["shape"]), np.dtype(detail["dtype"])
        if dtype.kind == "f":
            found.append(generator.standard_normal(shape).astype(np.float32))
        else:
            limits = np.iinfo(dtype)
            found.append(generator.integers(limits.min, limits.max + 1, shape).astype(dtype))
    return found


def as_graph(value: Array) -> Array:
    """A value of a file in the axes of the graph."""
    return np.ascontiguousarray(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value

"""The state of one lowering: mapping of graph values to tensors of the file.

An emit function requests its operands in the layout it needs, adds operators, and binds its result to the
node. Conversions (DEQUANTIZE at the border of an integer region, TRANSPOSE where layouts differ) are added
here, once, on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import fx

from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, is_constant, operand
from mcc.ir.notes import shape_of
from mcc.lower.layout import IMAGE, Layout, Shape, plain, same_memory, stored, stored_shape
from mcc.lower.tflite import regions
from mcc.lower.tflite.builder import FlatModel, Options
from mcc.lower.tflite.quantisation import Quantisation
from mcc.quant.params import quant_params
from mcc.quant.regions import IntegerNode
from mcc.quant.scales import is_quantized_constant, quantized_constant, real_constant

Array = npt.NDArray[Any]
HalfWeights = Literal["none", "exact", "all"]


@dataclass(frozen=True)
class Value:
    """A tensor of the file that holds a graph value.

    Attributes:
        index: Tensor index.
        shape: Shape of the graph value (NCHW).
        layout: Storage layout.
        quantisation: Parameters of an int8 tensor, None for float.
    """

    index: int
    shape: Shape
    layout: Layout
    quantisation: Quantisation | None = None

    @property
    def dtype(self) -> str:
        """Element type of the tensor."""
        return "float32" if self.quantisation is None else "int8"

    @property
    def stored_shape(self) -> Shape:
        """Shape of the tensor."""
        return stored_shape(self.shape, self.layout)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight in the graph's axes: float32, or int8 with its parameters; `owner` names it in the graph."""

    value: Array
    quantisation: Quantisation | None
    owner: str


class Lowering:
    """Mapping of graph values to tensors.

    Args:
        graph: Graph to lower.
        model: File under construction.
        integer: Nodes that run as integer kernels, see `mcc.quant.regions.integer_nodes`.
        half_weights: Float weights to store in half precision: all, none, or those that it holds exactly.
    """

    def __init__(
        self,
        graph: Graph,
        model: FlatModel,
        integer: dict[fx.Node, IntegerNode],
        *,
        half_weights: HalfWeights = "none",
    ) -> None:
        self.graph = graph
        self.model = model
        self.integer = integer
        self.half_weights = half_weights
        cluster = find_sparse_cluster(graph)
        # Runtimes would compute wrong numbers (see `mcc.analysis.sparse_cluster`); dense storage is safe.
        self.sparse_refusal = cluster.reason if cluster.misread else None
        self.channel_order: dict[fx.Node, npt.NDArray[np.int64]] = {}
        self._values: dict[fx.Node, list[Value]] = {}

    # -- values ---------------------------------------------------------------------------------------------

    def bind(self, node: fx.Node, value: Value) -> None:
        """Set the tensor of a node."""
        self._values.setdefault(node, []).append(value)

    def native(self, node: fx.Node) -> Value:
        """The tensor first bound to a node, in its original layout and type."""
        found = self._values.get(node)
        if not found:
            raise UnsupportedError("is read before it is computed", where=node.name)
        return found[0]

    def operand(self, node: fx.Node, index: int, layout: Layout | None = None) -> Value:
        """Operand of a node: int8 if the node runs on integers, else float; in a given layout or its own."""
        return self.value(operand(node, index), layout, integer=node in self.integer)

    def value(self, node: fx.Node, layout: Layout | None = None, *, integer: bool = False) -> Value:
        """The tensor of a graph value in a type and layout, converted if it does not exist yet."""
        if self.is_constant(node):
            return self._constant_value(node, layout, integer)
        wished = [v for v in self._values.get(node, []) if (v.quantisation is not None) == integer]
        value = wished[0] if wished else self._retyped(node, integer)
        if layout is None or value.layout == layout:
            return value
        for other in wished:
            if other.layout == layout:
                return other
        converted = self.convert(node, value, layout)
        self.bind(node, converted)
        return converted

    def _retyped(self, node: fx.Node, integer: bool) -> Value:
        value = self.native(node)
        if integer:
            raise UnsupportedError("is read as int8 but computed in float", where=node.name)
        converted = self.call(
            node,
            "DEQUANTIZE",
            [value],
            value.shape,
            value.layout,
            Options("DequantizeOptions"),
            suffix="float",
        )
        self.bind(node, converted)
        return converted

    def is_constant(self, node: fx.Node) -> bool:
        """Whether a value is a constant, quantised or not."""
        return is_constant(node) or is_quantized_constant(node)

    def constant_operand(self, node: fx.Node, index: int, shape: Shape, layout: Layout) -> Value:
        """A constant operand reshaped to a broadcastable shape, in a layout."""
        return self._constant_value(operand(node, index), layout, node in self.integer, shape)

    def _constant_value(
        self, node: fx.Node, layout: Layout | None, integer: bool, shape: Shape | None = None
    ) -> Value:
        shape = shape_of(node) if shape is None else shape
        layout = layout or plain(len(shape))
        array, quantisation = self._constant_array(node, integer)
        name = str(node.target) if is_constant(node) else node.name
        index = self.model.constant(name, stored(array.reshape(shape), layout), quantisation, owner=name)
        return Value(index, shape, layout, quantisation)

    def _constant_array(self, node: fx.Node, integer: bool) -> tuple[Array, Quantisation | None]:
        if integer:
            parameters = regions.tensor_quantisation(quant_params(self.graph, node))
            return quantized_constant(self.graph, node), parameters
        return real_constant(self.graph, node), None

    def weight(self, node: fx.Node, index: int) -> Weight:
        """A constant operand of a node that runs in float.

        Raises UnsupportedError if the operand is computed.
        """
        source = operand(node, index)
        if not self.is_constant(source):
            raise UnsupportedError(
                f"operand {index} is computed, but TFLite needs a constant there",
                where=node.name,
                hint="use matmul for a product of two computed values",
            )
        return Weight(self._constant_array(source, integer=False)[0], None, source.name)

    def store_weight(self, name: str, weight: Weight) -> int:
        """Add a weight to the file, where need be as float16 and DEQUANTIZE; returns its tensor index."""
        if weight.quantisation is not None or not self._in_half(weight.value):
            return self.model.constant(name, weight.value, weight.quantisation, owner=weight.owner)
        half = self.model.constant(f"{name}/half", weight.value.astype(np.float16), owner=weight.owner)
        single = self.model.tensor(name, weight.value.shape, "float32")
        self.model.operator("DEQUANTIZE", [half], [single], Options("DequantizeOptions"))
        return single

    def _in_half(self, value: Array) -> bool:
        if self.half_weights != "exact":
            return self.half_weights == "all"
        with np.errstate(over="ignore"):  # beyond 65504 it becomes infinite, which is not equal
            return bool((value.astype(np.float16).astype(np.float32) == value).all())

    # -- operators -------------------------------------------------------------------------------------------

    def call(
        self,
        node: fx.Node,
        code: str,
        inputs: Sequence[Value | int],
        shape: Shape,
        layout: Layout,
        options: Options | None = None,
        *,
        quantisation: Quantisation | None = None,
        suffix: str = "",
    ) -> Value:
        """Add an operator with one output of a given graph shape and layout; not yet bound to the node.

        Args:
            inputs: Values, or indices of constants; -1 for an absent one.
            quantisation: Parameters of an int8 output, None for a float one.
            suffix: Suffix of the name, to distinguish the inner tensors of a node.
        """
        name = f"{node.name}/{suffix}" if suffix else node.name
        value = Value(-1, shape, layout, quantisation)
        index = self.model.tensor(name, value.stored_shape, value.dtype, quantisation)
        operands = [item if isinstance(item, int) else item.index for item in inputs]
        self.model.operator(code, operands, [index], options)
        return replace(value, index=index)

    def integers(self, values: Iterable[Any], name: str = "shape") -> int:
        """An int32 constant."""
        return self.model.constant(name, np.asarray(list(values), np.int32))

    def number(self, value: float, name: str = "number") -> int:
        """A float32 constant of one element, which broadcasts."""
        return self.model.constant(name, np.asarray([value], np.float32))

    def output_quantisation(self, node: fx.Node) -> Quantisation | None:
        """Parameters of the output of a node that runs in integers; None where it runs in float."""
        entry = self.integer.get(node)
        return regions.tensor_quantisation(entry.output) if entry else None

    def requantise(self, node: fx.Node, value: Value, quantisation: Quantisation) -> Value:
        """The value converted to an int8 grid, from another one or from float; unchanged if it is on it."""
        if value.quantisation == quantisation:
            return value
        return self.call(
            node, "QUANTIZE", [value], value.shape, value.layout, Options("QuantizeOptions"),
            quantisation=quantisation, suffix="quantised",
        )  # fmt: skip

    # -- layouts ---------------------------------------------------------------------------------------------

    def reshape(self, node: fx.Node, value: Value, shape: Shape, layout: Layout, suffix: str) -> Value:
        """The same bytes with another shape; the batch length is not fixed."""
        wanted = stored_shape(shape, layout)
        if wanted == value.stored_shape:
            return replace(value, shape=shape, layout=layout)
        target = (-1, *wanted[1:])
        options = Options("ReshapeOptions", {"newShape": list(target)})
        inputs = [value, self.integers(target)]
        return self.call(
            node, "RESHAPE", inputs, shape, layout, options, quantisation=value.quantisation, suffix=suffix
        )

    def convert(self, node: fx.Node, value: Value, layout: Layout) -> Value:
        """The same value in another layout: RESHAPE if the bytes are the same, else TRANSPOSE."""
        if value.layout == layout:
            return value
        if value.layout.flat is not None or layout.flat is not None:
            return self._convert_flat(node, value, layout)
        if same_memory(value.shape, value.layout, layout):
            return self.reshape(node, value, value.shape, layout, "reshaped")
        perm = [value.layout.order.index(axis) for axis in layout.order]
        return self.call(
            node, "TRANSPOSE", [value, self.integers(perm, "perm")], value.shape, layout,
            Options("TransposeOptions"), quantisation=value.quantisation, suffix="transposed",
        )  # fmt: skip

    def _convert_flat(self, node: fx.Node, value: Value, layout: Layout) -> Value:
        """Conversion to or from the H, W, C order of a flattened map, through the map."""
        flat = value.layout.flat or layout.flat
        assert flat is not None
        shape = (value.shape[0], *flat)
        source, target = (IMAGE, plain(4)) if value.layout.flat else (plain(4), IMAGE)
        image = self.reshape(node, value, shape, source, "map")
        image = self.convert(node, image, target)
        flattened = self.reshape(node, image, value.shape, plain(2), "flattened")
        return replace(flattened, layout=plain(2) if value.layout.flat else layout)


Emit = Callable[[Lowering, fx.Node], None]
EMITTERS: dict[str, Emit] = {}


def emits(name: str) -> Callable[[Emit], Emit]:
    """Register the emit function of one row of the op table."""

    def register(emit: Emit) -> Emit:
        EMITTERS[name] = emit
        return emit

    return register

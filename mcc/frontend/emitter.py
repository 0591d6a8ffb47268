"""Building a canonical graph from another spelling: what all frontends share.

Shapes of values are those at the declared batch of 1. `batch` is the batch length at which the model was
captured; a constant made for that batch (`torch.zeros(x.shape[0], ...)`) is cut down to one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from mcc.errors import GraphError, UnsupportedError
from mcc.frontend.group_norm import restore_group_norms
from mcc.frontend.moved_batch import call_moved, place_after, place_of
from mcc.frontend.response_norm import restore_response_norms
from mcc.frontend.rows import call_rows, is_row_of
from mcc.frontend.values import AnyValue, Const, Expanded, Row, Turned, Value
from mcc.ir.graph import Graph, GraphBuilder, clean
from mcc.ir.limits import check_graph
from mcc.ir.notes import annotate, shape_of, type_of

MAX_COPIES = 64
"""Longest axis that is repeated, reversed or unrolled by single slices; beyond it the graph would drown."""

UNSIGNED_TO_SIGNED = 128

MAX_ELEMENTS = 1 << 28
"""Largest constant or value, in elements per sample: 1 GiB of float32. A file that declares more is wrong or
hostile; `mcc.ir.limits` bounds what lives at the same time."""


class Emitter:
    """A graph builder with constants, broadcasting and refusals that name the place.

    Attributes:
        batch: batch length at which the model was captured.
        out: shape of the present operator's result at that batch, where the frontend knows it.
        hint: wished name of the next nodes.
        path: module path or node name they come from.
        place: where in the model we are, for messages.
        compared: of masks, the comparison with a number that made each: which, of what, with which number.
        output_places: where the model has the batch axis of each output; None where it has none.
    """

    def __init__(self, batch: int) -> None:
        self.builder = GraphBuilder()
        self.batch = batch
        self.out: tuple[int, ...] = ()
        self.hint = "value"
        self.path = ""
        self.place = "model"
        self.output_places: list[int | None] = []
        self.compared: dict[fx.Node, tuple[str, Any, float]] = {}
        self._constants: dict[int, fx.Node] = {}
        self._reshaped: dict[tuple[int, tuple[int, ...]], Const] = {}
        self._quantised: dict[fx.Node, tuple[Const, Const, Const, int, int, int | None]] = {}
        self._kept: list[Tensor] = []  # ids above stay unique while the tensors live
        self._names: set[str] = set()
        self._counts: dict[
            str, int
        ] = {}  # of each wished name, so that a thousand of one name take no square

    # -- constants -----------------------------------------------------------------------------------------

    def scalar(self, value: float) -> Const:
        """A constant of rank 0."""
        text = f"{value:g}".replace("-", "m").replace(".", "p").replace("+", "")
        return Const(torch.tensor(float(value)), f"const_{text}")

    def like(self, const: Const, tensor: Tensor, suffix: str = "") -> Const:
        """A constant computed from another one."""
        return Const(tensor.contiguous(), const.name + suffix, const.trains)

    def node(self, value: AnyValue) -> fx.Node:
        """The node of a value; reads the constant or repeats the expanded value where need be."""
        if isinstance(value, fx.Node):
            return value
        if isinstance(value, Turned):
            return self._in_front(value)
        if isinstance(value, Row):
            return self.reshape(value.inner, self.shape(value)[1:])
        return self._repeat(value) if isinstance(value, Expanded) else self._constant(value)

    def _in_front(self, value: Turned) -> fx.Node:
        """A moved batch axis of length 1 is any other axis of length 1: one in front stands for it."""
        shape = self.shape(value)
        if self.batch != 1 or not shape or shape[0] != 1:
            self.refuse("moves the batch axis", "keep axis 0 for the batch")
        return self.reshape(value.inner, shape[1:])

    def _constant(self, const: Const) -> fx.Node:
        found = self._constants.get(id(const.tensor))
        if found is not None:
            return found
        name = self._unique(const.name)
        tensor = const.tensor.detach()
        if tensor.dtype in (torch.float64, torch.int64, torch.int32, torch.bool):
            tensor = tensor.to(torch.float32)
        if tensor.dtype != torch.float32:
            self.refuse(f"has the {tensor.dtype} constant {const.name}", "call .float() on the model first")
        # Cloned: training the graph must not train the model it came from.
        private = tensor.clone(memory_format=torch.contiguous_format)
        node = self.builder.constant(name, private, trains=const.trains)
        self._constants[id(const.tensor)] = node
        self._kept.append(const.tensor)
        return node

    def _unique(self, wished: str) -> str:
        name, count = wished, self._counts.get(wished, 1)
        while name in self._names:
            name, count = f"{wished}_{count}", count + 1
        self._counts[wished] = count
        self._names.add(name)
        return name

    def reshaped(self, const: Const, shape: tuple[int, ...]) -> Const:
        """A constant in another shape; the same one for every reader, so that tied scales stay tied."""
        key = (id(const.tensor), shape)
        if key not in self._reshaped:
            self._kept.append(const.tensor)
            self._reshaped[key] = Const(const.tensor.reshape(shape), const.name, const.trains)
        return self._reshaped[key]

    def _integers(self, const: Const) -> fx.Node:
        """The node of a zero point: int32, one for all its readers; one of unsigned 8 bits as of signed."""
        found = self._constants.get(id(const.tensor))
        if found is None:
            shift = UNSIGNED_TO_SIGNED if const.tensor.dtype == torch.uint8 else 0
            name = self._unique(const.name)
            found = self.builder.constant(name, const.tensor.to(torch.int32) - shift, trains=False)
            self._constants[id(const.tensor)] = found
            self._kept.append(const.tensor)
        return found

    def fake_quantize(
        self, x: AnyValue, scale: Const, zero: Const, low: int, high: int, axis: int | None
    ) -> fx.Node:
        """Quantise and dequantise in one node; scales do not train.

        0..255 around z becomes -128..127 around z - 128, the same function: the canonical form is signed.
        """
        fixed = self._constant(Const(scale.tensor, scale.name, trains=False))
        point = self._integers(zero)
        shift = UNSIGNED_TO_SIGNED if zero.tensor.dtype == torch.uint8 else 0
        limits = {"qmin": low - shift, "qmax": high - shift}
        node = self.call_node("fake_quantize", x, fixed, point, **limits, axis=axis)
        if isinstance(x, Const):
            self._quantised[node] = (x, scale, zero, low, high, axis)
        return node

    def transposed_weight(self, value: AnyValue) -> AnyValue | None:
        """The transpose of a constant matrix, quantised or not; None for a value that is computed."""
        if isinstance(value, Const):
            return self.like(value, value.tensor.t(), "_t") if value.tensor.dim() == 2 else None
        known = self._quantised.get(value) if isinstance(value, fx.Node) else None
        if known is None or known[0].tensor.dim() != 2:
            return None
        const, scale, zero, low, high, axis = known
        turned = self.like(const, const.tensor.t(), "_t")
        return self.fake_quantize(turned, scale, zero, low, high, None if axis is None else 1 - axis)

    def weight_of_map(self, value: AnyValue) -> AnyValue | None:
        """A stored weight of rows [O, I, L] as one of maps of height 1, quantised or not; else None."""
        if isinstance(value, Const):
            return self.like(value, value.tensor.unsqueeze(2))
        known = self._quantised.get(value) if isinstance(value, fx.Node) else None
        if known is None:
            return None
        const, scale, zero, low, high, axis = known
        return self.fake_quantize(self.like(const, const.tensor.unsqueeze(2)), scale, zero, low, high, axis)

    def one_row(self, const: Const, rank: int) -> Const:
        """Cut a constant made for the captured batch down to one row. Refuses rows that differ."""
        tensor = const.tensor
        if tensor.dim() != rank or rank == 0 or tensor.shape[0] == 1:
            return const
        if tensor.shape[0] != self.batch or not bool((tensor == tensor[:1]).all()):
            self.refuse("combines samples of a batch with constants that differ from sample to sample", "")
        return self.like(const, tensor[:1])

    # -- operators -----------------------------------------------------------------------------------------

    def call(self, op: str, *args: AnyValue | None, **attributes: Any) -> AnyValue:
        """An operator of the canonical form, its attributes in the order in which the model sees the axes.

        Raises UnsupportedError where it does not fit.
        """
        made: AnyValue | None = None
        if any(isinstance(arg, Turned) for arg in args):
            made = call_moved(self, op, args, attributes)
        elif any(isinstance(arg, Row) for arg in args):
            made = call_rows(self, op, args, attributes)
        return self.call_node(op, *args, **attributes) if made is None else made

    def call_node(self, op: str, *args: AnyValue | None, **attributes: Any) -> fx.Node:
        """An operator on values whose batch axis is in front."""
        nodes = [None if arg is None else self.node(arg) for arg in args]
        try:
            node = self.builder.call(op, *nodes, name=self.hint, **attributes)
        except GraphError as error:
            self.refuse(error.message, "")
        if type_of(node).elements > MAX_ELEMENTS:
            self.refuse(f"computes a value of type {type_of(node)}, beyond what mcc handles")
        annotate(node, origin=(self.path or node.name,))
        return node

    def broadcast(self, op: str, a: AnyValue | float, b: AnyValue | float) -> AnyValue:
        """An operator on two operands with broadcasting; numbers become constants of rank 0."""
        left, right = self._operand(a), self._operand(b)
        if isinstance(left, Turned | Row) or isinstance(right, Turned | Row):
            return self.call(op, left, right)
        rank = max(len(self.shape(left)), len(self.shape(right)))
        operands = [self.one_row(x, rank) if isinstance(x, Const) else x for x in (left, right)]
        return self.call(op, *operands)

    def _operand(self, value: AnyValue | float) -> Value | Turned | Row:
        if isinstance(value, Expanded):
            return value.inner
        return value if isinstance(value, fx.Node | Const | Turned | Row) else self.scalar(value)

    def shape(self, value: AnyValue) -> tuple[int, ...]:
        """Shape of a value at batch 1."""
        if isinstance(value, Const):
            return tuple(value.tensor.shape)
        if isinstance(value, Expanded):
            return (1, *value.shape)
        if isinstance(value, Turned):
            inner = shape_of(value.inner)
            return tuple(inner[axis] for axis in value.seen())
        if isinstance(value, Row):
            batch, channels, _, length = shape_of(value.inner)
            return batch, channels, length
        return shape_of(value)

    def captured_shape(self, value: AnyValue) -> tuple[int, ...]:
        """Shape of a value at the captured batch."""
        shape, place = self.shape(value), place_of(value)
        if isinstance(value, Const) or place is None:
            return shape
        return (*shape[:place], self.batch, *shape[place + 1 :])

    def axis(self, value: AnyValue, dim: int, *, new: int = 0) -> int:
        """A dimension counted from the front; refuses the batch axis."""
        shape, place = self.shape(value), place_of(value)
        axis = dim % max(1, len(shape) + new)
        # An axis of length 1 in front is taken for a batch axis that is not seen.
        if axis == (0 if place is None and shape[:1] == (1,) else place):
            self.refuse("works along the batch axis", "keep axis 0 for the batch")
        return axis

    def reshape(self, x: AnyValue, shape: Sequence[int]) -> fx.Node:
        """Reshape each sample to `shape`, without the batch axis; nothing where it has that shape already."""
        node = self.node(x)
        return (
            node
            if shape_of(node)[1:] == tuple(shape)
            else self.call_node("reshape", node, shape=tuple(shape))
        )

    def reshape_out(self, x: AnyValue) -> AnyValue:
        """Reshape to the shape the model's own operator returned."""
        if isinstance(x, fx.Node) and is_row_of(shape_of(x), self.out, self.batch):
            return Row(x)
        turned = x if isinstance(x, Turned) else Turned(x.inner if isinstance(x, Row) else self.node(x), 0)
        have = self.captured_shape(turned)
        place = place_after(have, turned.place, self.out, self.batch)
        if math.prod(have) != math.prod(self.out) or (place is None and self.batch != 1):
            self.refuse("folds the batch axis into another", "reshape with x.shape[0] first and -1 later")
        sample = [length for axis, length in enumerate(self.out) if axis != place]
        return self.seen_at(self.reshape(turned.inner, sample), place)

    def transpose(self, x: AnyValue, perm: Sequence[int]) -> fx.Node:
        """Permute the axes; refuses to move the batch axis."""
        return self.node(self.turn(x, perm))

    def turn(self, x: AnyValue, perm: Sequence[int]) -> fx.Node | Turned:
        """Permute the axes; a batch axis that is moved is only seen elsewhere."""
        turned = x if isinstance(x, Turned) else Turned(self.node(x), 0)
        inner, seen = turned.inner, turned.seen()
        order = [seen[int(axis)] for axis in perm]
        rest = [axis for axis in order if axis]
        if rest != sorted(rest):
            inner = self.call_node("transpose", inner, perm=(0, *rest))
        return self.seen_at(inner, order.index(0) if 0 in order else None)

    def seen_at(self, inner: fx.Node, place: int | None) -> fx.Node | Turned:
        """A value whose batch axis is seen at a place."""
        return inner if place == 0 else Turned(inner, place)

    def window(self, x: AnyValue, axis: int, start: int, stop: int, step: int = 1) -> AnyValue:
        """A slice along an axis; the value itself where it is whole. Refuses an empty slice."""
        length = self.shape(x)[axis]
        start, stop, step = slice(start, stop, step).indices(length)
        if start >= stop:
            self.refuse("takes an empty slice", "")
        if (start, stop, step) == (0, length, 1):
            return x
        return self.call("slice", x, axis=axis, start=start, stop=stop, step=step)

    def concat(self, parts: Sequence[AnyValue], axis: int) -> AnyValue:
        """Join values along an axis; constants of one value at the ends become padding."""
        rest = list(parts)
        low, high, fill = 0, 0, 0.0
        edges = [part for part in (rest[0], rest[-1]) if isinstance(part, Const)]
        if edges and len({float(v) for part in edges for v in part.tensor.unique()}) == 1:
            fill = float(edges[0].tensor.reshape(-1)[0])
            while isinstance(rest[0], Const) and bool((rest[0].tensor == fill).all()):
                low += rest.pop(0).tensor.shape[axis]  # pyright: ignore[reportAttributeAccessIssue]
            while isinstance(last := rest[-1], Const) and bool((last.tensor == fill).all()):
                high += last.tensor.shape[axis]
                rest.pop()
        if any(isinstance(part, Const) for part in rest):
            self.refuse("joins a constant to a value", "add the constant through an operator instead")
        joined = rest[0] if len(rest) == 1 else self.call("concat", *rest, axis=axis)
        if not (low or high):
            return joined
        amounts = [(low, high) if i == axis else (0, 0) for i in range(len(self.shape(joined)))]
        return self.call("pad", joined, padding=tuple(amounts), mode="constant", value=fill)

    def expand(self, x: AnyValue, shape: Sequence[int]) -> AnyValue:
        """See a value at a larger shape (without the batch axis)."""
        node = self.node(x)
        inner = shape_of(node)
        if math.prod(shape) > MAX_ELEMENTS:
            self.refuse(f"expands a value to {tuple(shape)}, beyond what mcc handles")
        if len(shape) + 1 > len(inner):
            node = self.reshape(node, (1,) * (len(shape) + 1 - len(inner)) + inner[1:])
        return node if shape_of(node)[1:] == tuple(shape) else Expanded(node, tuple(shape))

    def _repeat(self, value: Expanded) -> fx.Node:
        node = value.inner
        have, want = shape_of(node)[1:], value.shape
        if len(want) == 3 and have[0] == want[0] and have[1:] == (1, 1):
            return self.call_node("resize", node, size=want[1:], mode="nearest", align_corners=False)
        for axis, (n, m) in enumerate(zip(have, want, strict=True), start=1):
            if n != m:
                self.limit_copies(m, "repeats an axis")
                node = self.call_node("concat", *([node] * m), axis=axis)
        return node

    def limit_copies(self, copies: int, what: str) -> None:
        """Refuse to unroll an axis beyond `MAX_COPIES`."""
        if copies > MAX_COPIES:
            self.refuse(f"{what} {copies} times", f"at most {MAX_COPIES} are unrolled")

    def singles(self, x: AnyValue, axis: int) -> list[AnyValue]:
        """The slices of length 1 along an axis. Refuses more than `MAX_COPIES`."""
        length = self.shape(x)[axis]
        self.limit_copies(length, "takes an axis apart")
        return [self.window(x, axis, i, i + 1) for i in range(length)]

    # -- refusals and the end ------------------------------------------------------------------------------

    def refuse(self, reason: str, hint: str = "") -> NoReturn:
        """Raise UnsupportedError naming the place."""
        raise UnsupportedError(reason, where=self.place, hint=hint or None)

    def _result(self, value: AnyValue) -> fx.Node:
        """The node of an output; a batch axis that lies elsewhere comes in front, see `output_places`."""
        if isinstance(value, Turned) and not (self.batch == 1 and self.shape(value)[:1] == (1,)):
            self.output_places.append(value.place)
            return value.inner
        self.output_places.append(0)
        return self.node(value)

    def finish(self, outputs: Sequence[AnyValue]) -> Graph:
        """Close the graph. Refuses an output that is a constant, and what is beyond `mcc.ir.limits`."""
        nodes: list[fx.Node] = []
        for index, value in enumerate(outputs):
            if isinstance(value, Const):
                self.place = f"output {index}"
                self.refuse("does not depend on the input", "return values computed from the input")
            nodes.append(self._result(value))
        graph = self.builder.finish(*nodes)
        restore_response_norms(graph)
        restore_group_norms(graph)
        return check_graph(clean(graph))

"""symmetrise-padding: replace the asymmetric padding of TensorFlow's `SAME` by a symmetric one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from mcc.ir.graph import Graph, add_call, calls, clean, infer, op_name, operand
from mcc.ir.notes import note, shape_of
from mcc.pass_api import NodeRewrite, PassContext


@dataclass(frozen=True)
class SymmetrisePadding(NodeRewrite):
    """Give convolutions of stride 2 the padding k // 2 on every side that XNNPACK's sparse path requires.

    Before and after, for a map [1, C, 8, 8]:

        %y = conv2d(%x, @w[O,I,3,3]) {stride=(2, 2), padding=(0, 1, 0, 1)}
        %y = conv2d(%x, @w[O,I,3,3]) {stride=(2, 2), padding=(1, 1, 1, 1)}

    This changes the function: at even sizes `SAME` reads pixels 0 1 2, 2 3 4, ... and the result -1 0 1,
    1 2 3, ...: windows are shifted by one pixel up and left. A network with all strided layers changed
    computes its former result for an image shifted down and right by the sum of their steps (1 + 2 + 4 + ...
    input pixels), except for the border. Fine-tuning recovers the loss, which is measured without it in
    docs/results/sparse.md.

    Exact twin: the old graph with each such input shifted down and right by a row and a column of zeros (a
    `pad` node); the pixels cut off on the far side are those that the window no longer reaches.

    Skips, with the reason: frozen nodes, kernels that are even or not square, padding of more than k // 2 on
    a side, and sizes at which the result would have another size. Convolutions of another stride are not
    considered: there `SAME` is symmetric.
    """

    name: ClassVar[str] = "symmetrise-padding"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Convolutions of stride 2 with unequal padding on opposite sides."""
        if op_name(node) != "conv2d" or node.kwargs["stride"] != (2, 2):
            return False
        top, bottom, left, right = _padding(node)
        return (top, left) != (bottom, right)

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes, and kernels, paddings or sizes that do not fit."""
        frozen = note(node).frozen
        if frozen is not None:
            return frozen
        height, width = shape_of(operand(node, 1))[2:]
        if height != width or height % 2 == 0 or node.kwargs["dilation"] != (1, 1):
            return "its kernel is not square and odd, without dilation"
        half = height // 2
        if max(_padding(node)) > half:
            return f"it is padded by more than {half} on a side"
        sizes = shape_of(operand(node, 0))[2:]
        if tuple((size + 2 * half - height) // 2 + 1 for size in sizes) != shape_of(node)[2:]:
            return "its result would have another size"
        return None

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Pad with half the kernel on every side."""
        half = shape_of(operand(node, 1))[2] // 2
        node.kwargs = {**node.kwargs, "padding": (half,) * 4}
        ctx.count("paddings made symmetric")

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        """The old graph with a pad node before each such convolution."""
        for node in calls(before):
            if not self.matches(before, node) or self.refusal(before, node) is not None:
                continue
            half, given = shape_of(operand(node, 1))[2] // 2, _padding(node)
            more = tuple(half - side for side in given)
            rows, columns = (more[0], more[1]), (more[2], more[3])
            source = operand(node, 0)
            moved = add_call(
                before, node, "pad", source,
                padding=((0, 0), (0, 0), rows, columns), mode="constant", value=0.0,
            )  # fmt: skip
            node.args = (moved, *node.args[1:])
        return infer(clean(before))


def _padding(node: fx.Node) -> tuple[int, int, int, int]:
    """Top, bottom, left, right."""
    given: Any = node.kwargs["padding"]
    return tuple(given)

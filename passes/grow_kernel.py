"""grow-kernel: pad depthwise kernels with zeros to make their padding equal on all sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from mcc.ir.graph import Graph, add_constant, constant, is_constant, op_name, operand
from mcc.ir.notes import note, shape_of
from mcc.pass_api import NodeRewrite, PassContext

SIDE, HALF = 5, 2  # the largest depthwise kernel of XNNPACK's sparse path, and its padding
KNOWN = {3: (1, 1, 1, 1), 5: (2, 2, 2, 2)}


@dataclass(frozen=True)
class GrowKernel(NodeRewrite):
    """Replace a depthwise convolution with unequal padding by a 5x5 one with padding 2 on all sides.

    Before and after, for a map [1, C, 8, 8]:

        %y = conv2d(%x, @w[C,1,3,3]) {stride=(2, 2), padding=(0, 1, 0, 1), groups=C}
        %y = conv2d(%x, @v[C,1,5,5]) {stride=(2, 2), padding=(2, 2, 2, 2), groups=C}

    With top padding t, tap j of w reads pixel s o + j - t; tap k of v reads s o + k - 2. So v[j + 2 - t] =
    w[j], and v is zero elsewhere: the same sums, with at most 25 / 9 of that layer's multiplications. This
    allows layers that TensorFlow pads `SAME` at stride 2 in the sparse path (5x5 kernels themselves do not
    fit: see symmetrise-padding).

    Exact twin: the graph before the pass. Skips, with the reason: frozen nodes, computed weights, kernels
    that reach beyond the 5x5 window, and sizes at which the result would have another size. Depthwise
    convolutions that the sparse path already supports are not considered.
    """

    name: ClassVar[str] = "grow-kernel"

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Depthwise convolutions of stride 1 or 2 whose padding the sparse path does not support."""
        if op_name(node) != "conv2d" or node.kwargs["stride"] not in ((1, 1), (2, 2)):
            return False
        weight = shape_of(operand(node, 1))
        groups: Any = node.kwargs["groups"]
        depthwise = weight[1] == 1 and groups == weight[0] == shape_of(operand(node, 0))[1]
        known = weight[2] == weight[3] and KNOWN.get(weight[2]) == _padding(node)
        return depthwise and not known

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """Frozen nodes, computed weights, dilation, and kernels or sizes that do not fit."""
        frozen = note(node).frozen
        if frozen is not None:
            return frozen
        if not is_constant(operand(node, 1)):
            return "its weight is no constant"
        if node.kwargs["dilation"] != (1, 1):
            return "it has a dilation"
        top, _, left, _ = _padding(node)
        height, width = shape_of(operand(node, 1))[2:]
        if max(top, left, height - 1 - top, width - 1 - left) > HALF:
            return "its kernel reaches beyond a window of 5x5 around its pixel"
        stride: Any = node.kwargs["stride"]
        sizes = shape_of(operand(node, 0))[2:]
        grown = tuple((n + 2 * HALF - SIDE) // s + 1 for n, s in zip(sizes, stride, strict=True))
        return None if grown == shape_of(node)[2:] else "its result would have another size"

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Pad the kernel with zeros."""
        weight = operand(node, 1)
        small = constant(graph, weight).detach()
        top, _, left, _ = _padding(node)
        grown = torch.zeros(*small.shape[:2], SIDE, SIDE, dtype=small.dtype)
        rows, columns = HALF - top, HALF - left
        grown[:, :, rows : rows + small.shape[2], columns : columns + small.shape[3]] = small
        larger = add_constant(graph, node, f"{weight.target}_grown", grown)
        node.args = (node.args[0], larger, *node.args[2:])
        node.kwargs = {**node.kwargs, "padding": (HALF,) * 4}
        ctx.count("kernels grown")


def _padding(node: fx.Node) -> tuple[int, int, int, int]:
    """Top, bottom, left, right."""
    given: Any = node.kwargs["padding"]
    return tuple(given)

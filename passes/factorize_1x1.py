"""factorize-1x1: replace a 1x1 convolution by a low-rank pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from mcc.analysis.low_rank import factors
from mcc.analysis.pointwise import pointwise
from mcc.analysis.second_moments import input_moments
from mcc.ir.graph import (
    Graph,
    add_call,
    add_constant,
    constant,
    operand,
    optional_operand,
    set_constant,
)
from mcc.ir.notes import annotate, note, shape_of
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class Factorize1x1(Pass):
    """Replace W [O, I] by U [O, r] V [r, I], the best approximation of rank r on the data.

    Before and after:

        %y = conv2d(%x, @w[64,32,1,1], @b)      %v = conv2d(%x, @w_v[r,32,1,1], none)
                                                %y = conv2d(%v, @w_u[64,r,1,1], @b)

    With C = E[x x^T] the second moment of the inputs (on calibration data; identity without any) and S
    its square root, the error E|W x - U V x|^2 is smallest for the first r singular vectors of W S (Eckart
    and Young 1936; data-aware as in Zhang 2016, "Accelerating Very Deep Convolutional Networks"). The inner
    channels are scaled to equal energy on the data, so that one quantisation scale fits them.

    Exact twin: the same graph with the dense W = U V.

    The rank of each node is that of its note, else given by `rank`. Skips nodes whose pair would have as many
    multiply-accumulates as the dense layer, frozen nodes, and shared weights.

    Attributes:
        rank: Inner channels as a share of min(O, I) for nodes without a note; 0 skips those.
    """

    name: ClassVar[str] = "factorize-1x1"
    rank: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rank <= 1.0:
            raise ValueError(f"rank is a share and must lie in 0..1, not {self.rank}")

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Replace each node by a pair."""
        for node, (u, v) in self._factors(graph, ctx).items():
            name = node.name
            inner = add_constant(graph, node, f"{operand(node, 1).target}_v", v)
            outer = add_constant(graph, node, f"{operand(node, 1).target}_u", u)
            attributes = {**node.kwargs, "activation": "none"}
            first = add_call(
                graph, node, "conv2d", operand(node, 0), inner, None, name=f"{name}_v", **attributes
            )
            annotate(
                first, origin=note(node).origin or (name,), rank=v.shape[0], precision=note(node).precision
            )
            node.args = (first, outer, optional_operand(node, 2))
            annotate(node, rank=v.shape[0], sparse=None)
            ctx.count("layers factorized")

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        """The dense layer with the product of the factors as its weight."""
        for node, (u, v) in self._factors(before, ctx).items():
            product = (u[:, :, 0, 0] @ v[:, :, 0, 0]).reshape(shape_of(operand(node, 1)))
            set_constant(before, str(operand(node, 1).target), product)
        return before

    def _factors(self, graph: Graph, ctx: PassContext) -> dict[fx.Node, tuple[Tensor, Tensor]]:
        wanted = {node: self._rank(node, ctx) for node in pointwise(graph)}
        chosen = {node: rank for node, rank in wanted.items() if rank}
        moments = input_moments(graph, list(chosen), ctx.calibration)
        return {
            node: factors(constant(graph, operand(node, 1)).detach(), moments.get(node.name), rank)
            for node, rank in chosen.items()
        }

    def _rank(self, node: fx.Node, ctx: PassContext) -> int:
        out, width = shape_of(operand(node, 1))[:2]
        noted = note(node).rank
        if noted is not None and noted >= min(out, width):
            return 0  # already a layer of a pair
        rank = noted or round(self.rank * min(out, width))
        if not rank:
            return 0
        if note(node).frozen is not None:
            ctx.refuse(node, str(note(node).frozen))
            return 0
        if rank * (out + width) >= out * width:
            ctx.refuse(node, f"a pair of rank {rank} has as many operations as the dense {width} to {out}")
            return 0
        return rank

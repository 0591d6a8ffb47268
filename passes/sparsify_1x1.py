"""sparsify-1x1: zero the least important weights of 1x1 convolutions, in patterns supported by runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from mcc.analysis.pointwise import is_pointwise
from mcc.analysis.second_moments import input_moments
from mcc.analysis.thinning import thin, zero_count
from mcc.errors import VerificationError
from mcc.ir.graph import Graph, calls, constant, is_constant, operand, operands, set_constant
from mcc.ir.notes import SparseNote, annotate, note
from mcc.pass_api import Pass, PassContext


@dataclass(frozen=True)
class Sparsify1x1(Pass):
    """Sparsify the weights of 1x1 convolutions (Elsen 2020, "Fast Sparse ConvNets").

    Before and after: the same graph; of weight W [O, I, 1, 1] the share `sparsity` is zero. With `block` b, b
    neighbouring output channels share one pattern: entries (o*b .. o*b+b-1, i) are kept or zeroed together,
    those with the smallest sum of squares first.

    With calibration data, each square is weighted by the energy of the weight's input (Sun 2023, "A Simple
    and Effective Pruning Approach for Large Language Models"), and the kept weights are refitted to minimise
    the change of the layer's outputs on the data (`refit` in `mcc.analysis.thinning`).

    The sparsity and block of each node are those of its note, else of the options if `sparsity` is given.
    The note stays on the node: the lowering stores its weight sparse, and fine-tuning preserves its zeros.

    There is no exact twin: with equal weights the graph would be compared with itself. The zeros are counted
    here, and the decoded lowered file is compared with the graph.

    Skips 1x1 convolutions with a stride, padding or groups, for which no runtime has sparse kernels, frozen
    nodes, and weights that a frozen node also reads.

    Attributes:
        sparsity: Share of zeros for nodes without a note; 0 leaves those dense.
        block: Number of output channels that share a pattern: 1, 2 or 4.
        refit: Whether the kept weights are refitted, with calibration data.
    """

    name: ClassVar[str] = "sparsify-1x1"
    sparsity: float = 0.0
    block: int = 1
    refit: bool = True

    def __post_init__(self) -> None:
        SparseNote(self.block, self.sparsity)

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Zero weights and note their sparsity."""
        thinned = self._thinned(graph, ctx)
        moments = input_moments(graph, list(thinned), ctx.calibration if self.refit else ())
        for node, wanted in thinned.items():
            name = str(operand(node, 1).target)
            weight = constant(graph, name).detach()
            changed = thin(weight, wanted, moments.get(node.name))
            if not torch.equal(changed, weight):
                set_constant(graph, name, changed)
                ctx.count("weights zeroed", int((changed == 0).sum() - (weight == 0).sum()))
            annotate(node, sparse=wanted)

    def _thinned(self, graph: Graph, ctx: PassContext) -> dict[fx.Node, SparseNote]:
        """The layers to sparsify, with their notes; other layers lose their note, with a reason."""
        found: dict[fx.Node, SparseNote] = {}
        frozen = {n: reason for n in calls(graph) if (reason := note(n).frozen) is not None}
        held = {arg.target: f"{n.name} reads its weight and is frozen: {reason}"
                for n, reason in frozen.items() for arg in operands(n) if is_constant(arg)}  # fmt: skip
        for node in calls(graph, "conv2d"):
            # The layers of a low-rank pair are skipped unless a note requests sparsity.
            by_option = self.sparsity > 0 and note(node).rank is None
            wanted = note(node).sparse or (SparseNote(self.block, self.sparsity) if by_option else None)
            if wanted is None or tuple(constant_shape(graph, node)[2:]) != (1, 1):
                continue
            reason = note(node).frozen or held.get(operand(node, 1).target)
            if reason is None and not is_pointwise(node):
                reason = "no runtime runs a strided, padded or grouped 1x1 sparse"
            if reason is not None:
                ctx.refuse(node, reason)
                annotate(node, sparse=None)
                continue
            found[node] = wanted
        return found

    def reference(self, before: Graph, ctx: PassContext) -> None:
        """None: the numbers change by intent."""
        return None

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError unless every noted weight has its share of zeros, in its pattern."""
        for node in calls(graph, "conv2d"):
            wanted = note(node).sparse
            if wanted is None:
                continue
            weight = constant(graph, operand(node, 1)).detach()
            zeros = float((weight == 0).double().mean())
            if zeros + 1e-9 < zero_count(weight, wanted) / weight.numel():
                raise VerificationError(
                    f"has {zeros:.1%} zeros, noted {wanted.sparsity:.1%}", where=node.name
                )


def constant_shape(graph: Graph, node: fx.Node) -> torch.Size:
    """Shape of the weight of a convolution."""
    weight = operand(node, 1)
    return constant(graph, weight).shape if weight.op == "get_attr" else torch.Size((0, 0, 0, 0))

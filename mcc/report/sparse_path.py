"""Whether XNNPACK's sparse path is used for a network on a target, and which passes would enable it."""

from __future__ import annotations

from dataclasses import dataclass

from mcc.analysis.sparse_cluster import ZERO_SHARE, SparseCluster, find_sparse_cluster
from mcc.ir.graph import Graph, calls, constant, operand
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions
from mcc.report.schema import Frozen
from mcc.runtime.facts import TargetFacts

EXACT = ("linear-head", "fold-hardsigmoid", "grow-kernel")
"""Exact passes that may enable the path for a network, the cheapest first."""

CHANGING = ("symmetrise-padding",)
"""Passes that change the function slightly, so that training has to compensate."""

TIDY = "fix(drop-identity,fold-batch-norm,fold-pad,fuse-activation)"


class SparsePath(Frozen):
    """Result of the check, before any pruning.

    Attributes:
        eligible: Whether the unchanged network can run sparse there.
        why_not: The first obstacle, with names of the graph; None if there is none.
        convolutions: 1x1 convolutions that would run sparse, all of them or none.
        zero_share: Present share of zeros in their weights.
        needed: Share of zeros from which the path is used.
        pipeline: Passes that enable the path; None if there are none, or none are needed.
        exact: Whether that pipeline is exact.
    """

    eligible: bool
    why_not: str | None
    convolutions: tuple[str, ...] = ()
    zero_share: float = 0.0
    needed: float = ZERO_SHARE
    pipeline: str | None = None
    exact: bool = True

    def sentences(self) -> tuple[str, ...]:
        """The result as sentences."""
        if self.eligible:
            return (
                f"the sparse path switches on, for all {len(self.convolutions)} 1x1 convolutions together, "
                f"if more than {self.needed:.0%} of their weights are zero (now {self.zero_share:.0%})",
            )
        said = f"the sparse path stays off: {self.why_not}"
        if self.pipeline is None:
            return (said,)
        cost = "are exact" if self.exact else "change the function slightly: train after them"
        return (said, f"the passes '{self.pipeline}' (mcc opt -p) bring the network into it, and {cost}")


@dataclass(frozen=True)
class _Attempt:
    text: str
    cluster: SparseCluster


def sparse_path(graph: Graph, facts: TargetFacts) -> SparsePath:
    """Check a graph in deployment form; pipelines are tried on copies, exact ones first."""
    if not facts.sparse_1x1:
        return SparsePath(eligible=False, why_not=facts.sparse_why)
    cluster = find_sparse_cluster(graph)
    if cluster.reason is None:
        return SparsePath(
            eligible=True, why_not=None, convolutions=cluster.pointwise, zero_share=_zeros(graph, cluster)
        )
    for names, exact in ((EXACT, True), ((*EXACT, *CHANGING), False)):
        attempt = _attempt(graph, names)
        if attempt.cluster.reason is None:
            return SparsePath(
                eligible=False, why_not=cluster.reason, pipeline=attempt.text, exact=exact,
                convolutions=attempt.cluster.pointwise,
            )  # fmt: skip
    return SparsePath(eligible=False, why_not=cluster.reason)


def _attempt(graph: Graph, names: tuple[str, ...]) -> _Attempt:
    """Run those of the passes that change something; returns the result."""
    used: list[str] = []
    for name in names:
        result = Pipeline.parse(name).run(graph, PassContext(), RunOptions(verify=False))
        if result.reports[0].changed:
            graph, used = result.graph, [*used, name]
    tidy = Pipeline.parse(TIDY).run(graph, PassContext(), RunOptions(verify=False)).graph
    return _Attempt(",".join([TIDY, *used, "drop-identity"]), find_sparse_cluster(tidy))


def _zeros(graph: Graph, cluster: SparseCluster) -> float:
    """Share of zeros among the 1x1 weights of a cluster."""
    inside = [node for node in calls(graph, "conv2d") if node.name in cluster.pointwise]
    weights = [constant(graph, operand(node, 1)).detach() for node in inside]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))

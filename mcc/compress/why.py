"""Why a kind of compression gains nothing here, in a sentence, from the runtime's rules and the table."""

from __future__ import annotations

from mcc.compress.planning import Planner
from mcc.ir.graph import calls
from mcc.runtime.facts import TargetFacts
from mcc.search.space import Regime, StrategyName
from mcc.search.tables import Tables


def why_notes(name: StrategyName, planner: Planner, facts: TargetFacts) -> tuple[str, ...]:
    """What to say of a strategy of one kind of move, beside its figures."""
    if name == "sparse-1x1":
        said = why_not_sparse(planner, facts)
    elif name == "low-rank":
        said = low_rank_pays(planner)
    else:
        said = ""
    return (said,) if said else ()


def why_not_sparse(planner: Planner, facts: TargetFacts) -> str:
    """Why zeros save no time; nothing where they can."""
    if not facts.sparse_1x1:
        return f"Zeros save no time on this target: {facts.sparse_why}."
    cluster = planner.setting.cluster
    return "" if cluster.nodes else f"The sparse kernels do not switch on: {cluster.reason}."


def low_rank_pays(planner: Planner) -> str:
    """For how many 1x1 convolutions a pair is faster than the layer, by the table."""
    setting = planner.setting
    tables = Tables(setting, Regime(), widths=False, low_rank=True)
    widths = {name: levels[0] for name, levels in tables.levels.items()}
    layers = faster = 0
    for node in calls(setting.graph):
        if node.name in tables.kernels:
            whole, *pairs = tables.options(node, widths)
            layers += bool(pairs)
            faster += any(pair.latency_us < whole.latency_us for pair in pairs)
    if not layers:
        return "The network has no 1x1 convolution that a low-rank pair could replace."
    if not faster:
        return f"Low-rank never pays here: of {layers} 1x1 convolutions, none is faster as a pair."
    return f"By the table, {faster} of {layers} 1x1 convolutions are faster as a pair."

"""One technique after the other: prune for what quantising will not bring, then quantise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from mcc.compress.build import Structure
from mcc.compress.outcome import Outcome
from mcc.compress.plan_loop import SLACK, plan_for
from mcc.compress.planning import Planner, Trial
from mcc.compress.strategy_api import Strategy
from mcc.compress.workspace import Work
from mcc.search.space import Configuration, Space

TRIES = 3  # how often it is pruned
CARE = 0.97  # of what quantising gained the last time is trusted after a miss: more pruning, less gain


class PruneThenQuantize(Strategy):
    """Pruned for the budget as if nothing else came, then quantised."""

    name: ClassVar[str] = "prune-then-quantize"
    order: ClassVar[int] = 70

    def run(self, work: Work) -> Outcome:
        """Prune and quantise until the two together keep the budgets, then fine-tune."""
        planner = work.planner_for(work.goals[0])
        trial, said = prune_then_quantise(planner, work.configurations, "sequence")
        return work.fine_tuned(self.name, trial, said)


def prune_then_quantise(
    planner: Planner, configurations: Sequence[Configuration], label: str
) -> tuple[Trial, tuple[str, ...]]:
    """A pruned and quantised network under the planner's budget, and a sentence on how it was come to.

    Quantising a pruned network gains less than quantising the original did. Who does one after the other
    sees that, and prunes again: for what it really gained, and then for a little less pruning if that was
    more than the budget asks for.
    """
    configuration = next((r for r in configurations if r.precision != "float"), Configuration("int8"))
    whole = planner.plan_whole(configuration, f"{label}-int8")
    gain, share = whole.speed.speedup, whole.size_bytes / max(1, planner.bench.baseline.stat().st_size)
    gains: list[float] = []
    found: list[Trial] = []
    most, least = gain, 0.0  # trusted so far: more was too much, less keeps the budget
    for index in range(TRIES):
        pruned, trial = _pruned(planner, whole, gain, share, f"{label}-{index}")
        gains.append(gain)
        found.append(trial)
        if not pruned.keeps_all:
            break
        share = trial.size_bytes / max(1, pruned.size_bytes)
        if not trial.keeps_all:
            most = gain
            gain = CARE * trial.speed.speedup / pruned.speed.speedup
            share /= CARE
            if least:
                gain = (least * most) ** 0.5
        elif index == 0 or trial.excess > SLACK:
            break
        else:
            least = gain
            gain = (least * most) ** 0.5
    keeping = [trial for trial in found if trial.keeps_all]
    best = max(keeping, key=lambda trial: trial.speed.latency_us) if keeping else found[-1]
    if len(gains) == 1:
        return best, ()
    words = ", then ".join(f"{gain:.2f}x" for gain in gains)
    return best, (f"Pruned {len(gains)} times: quantising was trusted to gain {words}.",)


def _pruned(
    planner: Planner, whole: Trial, gain: float, size_share: float, label: str
) -> tuple[Trial, Trial]:
    """Pruned for a budget that quantising brings the rest of, and the same quantised.

    Args:
        whole: the original, quantised.
        gain, size_share: speed-up and share of the size that quantising the pruned network will bring.
    """
    eased = replace(planner, budget=planner.budget.scaled(time=max(1.0, gain), size=1 / size_share))
    pruned = plan_for(eased, Space(widths=True), Configuration(), label)
    structure = Structure(whole.structure.configuration, pruned.structure.widths)
    raw = planner.predict(structure)
    return pruned, planner.measure(structure, raw * whole.factor, raw, f"{label}-final")


STRATEGY = PruneThenQuantize()

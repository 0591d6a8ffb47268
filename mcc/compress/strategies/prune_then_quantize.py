"""Strategy prune-then-quantize: one technique after the other, each planned alone."""

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

TRIES = 3  # number of pruning attempts
CARE = 0.97  # after a miss, this share of the last quantisation gain is assumed: more pruning, less gain


class PruneThenQuantize(Strategy):
    """Pruned for what quantisation will not gain, then quantised."""

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
    """A pruned and quantised network under the planner's budget, and a note on the number of attempts.

    Quantising a pruned network gains less than quantising the original did. As in the usual practice, it is
    pruned again: for the real gain, and then a little less if that pruned more than the budget needs.
    """
    configuration = next((r for r in configurations if r.precision != "float"), Configuration("int8"))
    whole = planner.plan_whole(configuration, f"{label}-int8")
    gain, share = whole.speed.speedup, whole.size_bytes / max(1, planner.bench.baseline.stat().st_size)
    gains: list[float] = []
    found: list[Trial] = []
    most, least = gain, 0.0  # assumed gains that missed and kept the budget
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
    return best, (f"Pruned {len(gains)} times, assuming that quantisation gains {words}.",)


def _pruned(
    planner: Planner, whole: Trial, gain: float, size_share: float, label: str
) -> tuple[Trial, Trial]:
    """A network pruned so that quantisation reaches the budget, and the same network quantised.

    Args:
        whole: The original, quantised.
        gain, size_share: Assumed speed-up and share of the size from quantising the pruned network.
    """
    eased = replace(planner, budget=planner.budget.scaled(time=max(1.0, gain), size=1 / size_share))
    pruned = plan_for(eased, Space(widths=True), Configuration(), label)
    structure = Structure(whole.structure.configuration, pruned.structure.widths)
    raw = planner.predict(structure)
    return pruned, planner.measure(structure, raw * whole.factor, raw, f"{label}-final")


STRATEGY = PruneThenQuantize()

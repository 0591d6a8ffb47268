"""Strategy uniform-width: every group of channels at the same share of its width (width multiplier).

It needs no plan, and is therefore the baseline of planned strategies.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import ClassVar

from mcc.compress.build import Structure
from mcc.compress.outcome import Outcome
from mcc.compress.plan_loop import ROUNDS
from mcc.compress.planning import Planner, Trial
from mcc.compress.strategy_api import Strategy
from mcc.compress.workspace import Work
from mcc.ir.graph import calls
from mcc.search.space import Configuration, level_step
from mcc.search.tables import Tables

SHARES = tuple(step / 20 for step in range(19, 1, -1))  # of the width, from 0.95 to 0.1


class UniformWidth(Strategy):
    """A network of the same family with uniformly fewer channels, without a plan."""

    name: ClassVar[str] = "uniform-width"
    order: ClassVar[int] = 30

    def run(self, work: Work) -> Outcome:
        """The widest network that keeps the budgets, fine-tuned."""
        trial = plan_uniform_width(work.planner_for(work.goals[0]), self.name)
        whole = {name: len(order) for name, order in work.planner.sensitivities.order.items()}
        shares = [width / whole[name] for name, width in trial.structure.widths.items()]
        least, most = min(shares, default=1.0), max(shares, default=1.0)
        said = f"Every group of channels at {least:.0%} to {most:.0%} of its width."
        return work.fine_tuned(self.name, trial, (said,) if shares else ())


def narrowed_uniformly(widths: Mapping[str, int], share: float, multiple: int) -> dict[str, int]:
    """Each width at that share, rounded up to the target's multiple; groups that keep all are left out."""
    found: dict[str, int] = {}
    for name, width in widths.items():
        step = level_step(width, multiple)
        narrow = min(width, ceil(max(1.0, share * width) / step) * step)
        if narrow < width:
            found[name] = narrow
    return found


def plan_uniform_width(planner: Planner, label: str) -> Trial:
    """The widest uniform width that keeps the budgets when measured, or the nearest one.

    The search starts from predicted sums; each measurement corrects them, as for a plan.
    """
    setting = planner.setting
    tables = Tables(setting, Configuration(), widths=True, low_rank=False)
    whole = planner.plan_whole(Configuration(), f"{label}-whole")
    best = whole
    if whole.keeps_all:
        return whole
    widths = {name: levels[0] for name, levels in tables.levels.items()}
    nodes = [node for node in calls(setting.graph) if node.name in tables.kernels]
    factor, tried = whole.factor, 0
    for share in SHARES:
        structure = Structure(widths=narrowed_uniformly(widths, share, setting.multiple))
        at = {**widths, **structure.widths}
        chosen = [tables.options(node, at)[0] for node in nodes]
        raw = setting.model.overhead("float").cost + sum(option.cost for option in chosen)
        saved = sum(tables.options(n, widths)[0].size_bytes for n in nodes) - sum(
            o.size_bytes for o in chosen
        )
        if not planner.promises(raw * factor, whole.size_bytes - saved):
            continue
        trial = planner.measure(structure, raw * factor, raw, f"{label}-{share:g}")
        tried, factor = tried + 1, trial.factor
        if trial.excess < best.excess:
            best = trial
        if trial.keeps_all or tried == ROUNDS:
            break
    return best


STRATEGY = UniformWidth()

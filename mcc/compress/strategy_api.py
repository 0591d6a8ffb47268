"""What a strategy is: one way to compress, which every job holds against the others.

A new strategy is one file in `mcc/compress/strategies/`; CONTRIBUTING shows how. It says what it decides and
what it makes of that; the order of strategies, resuming, and fine-tuning several candidates at a time are the
runner's (`mcc.compress.runner`), and what a strategy computes with is `mcc.compress.workspace.Work`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mcc.budget import Budget
from mcc.compress.outcome import Outcome
from mcc.compress.parallel_training import FineTuning
from mcc.compress.planning import Trial
from mcc.compress.workspace import Work
from mcc.search.space import Configuration, Space


@dataclass(frozen=True)
class Row:
    """One line of the report, as it is made.

    Attributes:
        name: of the outcome, and of its folder.
        make: computes it.
        again: plans it once more for a tightened budget, under another label; None where that makes no sense.
    """

    name: str
    make: Callable[[], Outcome]
    again: Callable[[Budget, str], Outcome] | None = None


class Strategy(ABC):
    """One way to compress.

    Attributes:
        name: in options and reports; that of its file, in kebab case.
        order: place among the others: 0 is the original, 90 the joint plan.
        is_reference: whether it is the original network, which others may not lose accuracy against.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    is_reference: ClassVar[bool] = False

    @abstractmethod
    def run(self, work: Work) -> Outcome:
        """Decide, build, fine-tune; `work` does all of that but the decision."""

    def rows(self, work: Work) -> list[Row]:
        """What it adds to the report: usually one line."""
        return [Row(self.name, lambda: self.run(work))]

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """What can be planned before any strategy has run: a pool of workers fine-tunes all of it at once."""
        return ()


class PlannedStrategy(Strategy):
    """A strategy that plans in a space of its own, for the first budget that the job plans for."""

    @abstractmethod
    def space(self, configurations: tuple[Configuration, ...]) -> Space:
        """The choices that are open to it, of what target and network allow."""

    def notes(self, work: Work) -> tuple[str, ...]:
        """Sentences for the report, beside its figures."""
        return ()

    def run(self, work: Work) -> Outcome:
        """The first plan that keeps the budgets, fine-tuned; else the fastest, as it is."""
        return work.fine_tuned(self.name, self._plan(work), self.notes(work))

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """The plan, where it keeps the budgets and changes something."""
        trial = self._plan(work)
        return [FineTuning(trial.structure, 1.0, self.name)] if trial.is_worth_training else []

    def _plan(self, work: Work) -> Trial:
        planner = work.planner_for(work.goals[0])
        trials = work.plans(planner, self.space(work.configurations), self.name, first_that_keeps=True)
        return next((t for t in trials if t.keeps_all), min(trials, key=lambda t: t.speed.latency_us))

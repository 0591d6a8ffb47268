"""Base classes of strategies: one strategy is one way to compress, compared with the others in every job.

A new strategy is one file in `mcc/compress/strategies/`; see CONTRIBUTING. It defines the decisions and the
use made of them; the order of strategies, resuming, and parallel fine-tuning belong to the runner
(`mcc.compress.runner`), and the operations of a strategy to `mcc.compress.workspace.Work`.
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
    """One line of the report, and the function that computes it.

    Attributes:
        name: Name of the outcome, and of its folder.
        make: Computes the outcome.
        again: Plans again for a tightened budget, under another label; None if the strategy has no plan.
    """

    name: str
    make: Callable[[], Outcome]
    again: Callable[[Budget, str], Outcome] | None = None


class Strategy(ABC):
    """One way to compress.

    Attributes:
        name: Name in options and reports; that of its file, in kebab case.
        order: Position among the strategies: 0 is the original, 90 the joint plan.
        is_reference: Whether it is the original network, from which loss of accuracy is counted.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    is_reference: ClassVar[bool] = False

    @abstractmethod
    def run(self, work: Work) -> Outcome:
        """Decide, build, fine-tune; `work` does all of that except the decision."""

    def rows(self, work: Work) -> list[Row]:
        """Its lines of the report, usually one."""
        return [Row(self.name, lambda: self.run(work))]

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """Fine-tunings that can be planned before any strategy runs, for the worker pool."""
        return ()


class PlannedStrategy(Strategy):
    """A strategy that plans in its own space, for the first budget that the job plans for."""

    @abstractmethod
    def space(self, configurations: tuple[Configuration, ...]) -> Space:
        """Its choices, among those that target and network allow."""

    def notes(self, work: Work) -> tuple[str, ...]:
        """Sentences for the report, beside its figures."""
        return ()

    def run(self, work: Work) -> Outcome:
        """The first plan that keeps the budgets, fine-tuned; else the fastest one, untrained."""
        return work.fine_tuned(self.name, self._plan(work), self.notes(work))

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """The plan, if it keeps the budgets and changes something."""
        trial = self._plan(work)
        return [FineTuning(trial.structure, 1.0, self.name)] if trial.is_worth_training else []

    def _plan(self, work: Work) -> Trial:
        planner = work.planner_for(work.goals[0])
        trials = work.plans(planner, self.space(work.configurations), self.name, first_that_keeps=True)
        return next((t for t in trials if t.keeps_all), min(trials, key=lambda t: t.speed.latency_us))

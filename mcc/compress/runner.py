"""Runs the strategies of a job: their order, resuming, and parallel training of candidates."""

from __future__ import annotations

from dataclasses import replace

from mcc.compress.outcome import Outcome, remembered
from mcc.compress.parallel_training import FineTuning, fine_tune_all
from mcc.compress.strategies import strategies
from mcc.compress.strategy_api import Row, Strategy
from mcc.compress.workspace import Work
from mcc.errors import NotFiniteError


class Runner:
    """Runs the requested strategies of a job, one after the other."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.rows: dict[str, Row] = {}

    def run_all(self) -> list[Outcome]:
        """Outcomes of all strategies, the original first; with non-finite outputs, a warning instead."""
        job, work = self.work.job, self.work
        wanted = [s for s in strategies().values() if self._is_wanted(s)]
        if work.pool is not None and work.trainer.images:
            ahead: list[FineTuning] = [one for strategy in wanted for one in strategy.ahead(work)]
            fine_tune_all(job, work.planner.sensitivities, ahead, work.kept, work.pool)
        self.rows = {row.name: row for strategy in wanted for row in strategy.rows(work)}
        found: list[Outcome] = []
        for index, (name, row) in enumerate(self.rows.items()):
            job.progress("strategies", index, len(self.rows), name)
            with job.stage(f"strategy {name}"):
                try:
                    found.append(remembered(job.state / name, row.make))
                except NotFiniteError as error:
                    if index == 0:
                        raise
                    job.warn(f"The strategy {name} is left out: {error}.")
        job.progress("strategies", len(self.rows), len(self.rows))
        return found

    def _is_wanted(self, strategy: Strategy) -> bool:
        """Whether it is requested; the original always is, as the baseline of all others."""
        asked = self.work.job.request.strategies
        return not asked or strategy.order == 0 or strategy.name in asked

    def tighter(self, missed: Outcome, share: float) -> Outcome:
        """An outcome planned again, with its latency budgets tightened to a share.

        Args:
            missed: An outcome that kept the budgets as a trial, but missed them in the final measurement.
        """
        row = self.rows[missed.name]
        assert row.again is not None
        budget = self.work.goals[0].scaled(time=share)
        label, again = f"{missed.name}-at-{100 * share:.1f}", row.again
        found = remembered(self.work.job.state / label, lambda: again(budget, label))
        return replace(found, name=missed.name)

    def can_be_tighter(self, outcome: Outcome) -> bool:
        """Whether the outcome's strategy plans, so that another budget results in another plan."""
        return self.rows[outcome.name].again is not None and len(self.work.goals) == 1

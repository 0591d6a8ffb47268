"""Strategy joint: widths, ranks, zeros and precision decided together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from mcc.budget import Budget
from mcc.compress.build import Structure
from mcc.compress.job_trainer import Trainer
from mcc.compress.outcome import Outcome
from mcc.compress.parallel_training import FineTuning
from mcc.compress.plan_loop import plan_for
from mcc.compress.planning import Trial
from mcc.compress.progressive import in_steps, left_share
from mcc.compress.strategy_api import Row, Strategy
from mcc.compress.workspace import Work
from mcc.search.space import Space

TRIAL_SHARE = 0.1  # of the fine-tuning's images, for each configuration in the comparison


class Joint(Strategy):
    """Each configuration planned and briefly fine-tuned; the best of them fully fine-tuned."""

    name: ClassVar[str] = "joint"
    order: ClassVar[int] = 90

    def rows(self, work: Work) -> list[Row]:
        """One row for each goal; a given plan replaces them."""
        if work.given is not None:
            return [Row(self.name, partial(_follow, work, work.given))]
        return [
            Row(label, partial(self.plan, work, goal, label), partial(self.plan, work))
            for label, goal in self._labels(work).items()
        ]

    def run(self, work: Work) -> Outcome:
        """The first goal."""
        return self.plan(work, work.goals[0], self.name)

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """The short fine-tunings of each goal's plans."""
        found: list[FineTuning] = []
        if work.given is not None or work.job.request.steps > 1:
            return found
        for label, goal in self._labels(work).items():
            keeping = [trial for trial in _trials(work, goal, label) if trial.keeps_all]
            share = TRIAL_SHARE if len(keeping) > 1 else 1.0
            found += [FineTuning(t.structure, share, self.name) for t in keeping if t.is_worth_training]
        return found

    def _labels(self, work: Work) -> dict[str, Budget]:
        several = len(work.goals) > 1
        return {f"{self.name}-{g.speedup:g}x" if several else self.name: g for g in work.goals}

    def plan(self, work: Work, goal: Budget, label: str) -> Outcome:
        """The best plan for a goal after short fine-tunings, fully fine-tuned.

        Args:
            label: Name of its files and in the report.
        """
        if work.job.request.steps > 1 and work.start is None and work.trainer.images:
            return self._in_steps(work, goal, label)
        trials = _trials(work, goal, label)
        keeping = [t for t in trials if t.keeps_all]
        if not keeping:
            return work.fine_tuned(label, min(trials, key=lambda t: t.speed.latency_us))
        scores: dict[str, float] = {}
        best = _best(work, keeping, scores)
        plain = _without_pairs(work, goal, label, best) if best.structure.ranks else None
        if plain is not None and plain.keeps_all:
            keeping.append(plain)
            best = _best(work, [best, plain], scores)
        said = [f"{_words(t)}: {scores[t.structure.key()]:.4f}" for t in keeping if scores]
        judged = f"validation {work.job.task.metric.name}"
        note = f"Plans that keep the budgets, by {judged} after a short fine-tuning: {', '.join(said)}."
        return work.fine_tuned(label, best, (note,) if said else ())

    def _in_steps(self, work: Work, goal: Budget, label: str) -> Outcome:
        """A plan for a progressively pruned network; the images of the earlier steps are counted in."""
        steps = work.job.request.steps
        planner = in_steps(work.job, work.planner_for(goal), work.trainer, steps, label)
        stepped = planner.graph is not work.planner.graph  # the same without a budget of time
        trainer = Trainer(work.job, left_share(steps)) if stepped else work.trainer
        outcome = self.plan(work.going_on(planner, trainer), goal, label)
        said = (
            f"The budget was approached in {steps} steps."
            if stepped
            else "There was no latency budget to approach in steps."
        )
        return replace(outcome, notes=(*outcome.notes, said))


def _trials(work: Work, goal: Budget, label: str) -> list[Trial]:
    return work.plans(work.planner_for(goal), Space.whole(work.configurations), label, first_that_keeps=False)


def _best(work: Work, trials: Sequence[Trial], scores: dict[str, float]) -> Trial:
    """The best trial after a short fine-tuning, and the fastest of equally good ones; adds to the scores.

    Args:
        scores: Validation metrics known so far, by structure.
    """
    if len(trials) == 1:
        return trials[0]
    for trial in trials:
        if trial.structure.key() not in scores:
            scores[trial.structure.key()] = _tried_out(work, trial)
    merit = work.job.task.metric.merit
    return max(trials, key=lambda t: (merit(scores[t.structure.key()]), -t.speed.latency_us))


def _tried_out(work: Work, trial: Trial) -> float:
    """Validation metric of a structure after a short fine-tuning."""
    name = f"{trial.file.stem}-tried"
    return work.score(work.trained(trial.structure, name, TRIAL_SHARE), trial.file.with_name(name))


def _without_pairs(work: Work, goal: Budget, label: str, best: Trial) -> Trial:
    """The best plan without low-rank pairs.

    The loss of a low-rank pair is known before training only, and training recovers removed channels better
    than
    removed ranks: a short fine-tuning has to decide which is better.
    """
    space = replace(Space.whole(work.configurations), low_rank=False)
    structure = best.structure
    return plan_for(
        work.planner_for(goal),
        space,
        structure.configuration,
        f"{label}-no-pairs",
        regions=bool(structure.floats),
    )


def _words(trial: Trial) -> str:
    """The differences of a plan from the other trials, as text."""
    pairs = len(trial.structure.ranks)
    said = f", {pairs} low-rank pair{'s' if pairs > 1 else ''}" if pairs else ""
    return trial.structure.words + said


def _follow(work: Work, structure: Structure) -> Outcome:
    """A plan from a file, followed instead of a new one."""
    planner = work.planner
    raw = planner.predict(structure)
    whole = planner.plan_whole(structure.configuration, "given-whole")
    trial = planner.measure(structure, raw * whole.factor, raw, "given")
    return work.fine_tuned(Joint.name, trial, ("The plan was given, not computed.",))


STRATEGY = Joint()

"""The operations of strategies: planning, fine-tuning, lowering and measuring, with cached results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mcc.budget import Budget
from mcc.compress.bench import Bench
from mcc.compress.build import Structure, quantise, restructure, write_file
from mcc.compress.job import Job
from mcc.compress.job_trainer import Trainer
from mcc.compress.outcome import Outcome, reach
from mcc.compress.parallel_training import FineTuned, FineTuning, candidate_graph, fine_tune_all
from mcc.compress.plan_loop import plan_for
from mcc.compress.planning import Planner, Trial
from mcc.errors import NotFiniteError, TargetError
from mcc.ir.graph import Graph
from mcc.pipeline import deployment_form
from mcc.search.space import Configuration, Space
from mcc.search.worker_pool import WorkerPool

log = logging.getLogger(__name__)

GOALS = (1.5, 2.0, 3.0)  # speed-ups to plan for where no budget on cost was asked for


@dataclass(frozen=True)
class Work:
    """A job with its planner and trainer, and the results of the strategies so far.

    Attributes:
        job: The job.
        bench: Measures files.
        planner: Plans under the job's budgets.
        configurations: Configurations that the target and the network allow.
        trainer: Fine-tunes candidates.
        pool: Worker pool for fine-tuning several candidates at a time; None: sequentially, in this process.
        given: A plan to follow instead of the joint one.
        start: The network that structures are built from, if progressive pruning has changed it.
    """

    job: Job
    bench: Bench
    planner: Planner
    configurations: tuple[Configuration, ...]
    trainer: Trainer
    pool: WorkerPool | None = None
    given: Structure | None = None
    start: Graph | None = None
    _planned: dict[str, list[Trial]] = field(default_factory=lambda: {}, repr=False)
    _trained: dict[str, Graph] = field(default_factory=lambda: {}, repr=False)

    def going_on(self, planner: Planner, trainer: Trainer) -> Work:
        """A copy for the network after progressive pruning; earlier results are not reused for it."""
        return Work(self.job, self.bench, planner, self.configurations, trainer, start=planner.graph)

    @cached_property
    def goals(self) -> list[Budget]:
        """The budgets to plan for: those given, or several speed-ups where no budget on cost is given."""
        budget = self.job.cost_budget
        return [budget] if budget.of_cost.asked else [Budget(speedup=goal) for goal in GOALS]

    @cached_property
    def kept(self) -> FineTuned:
        """Fine-tuned graphs on disk."""
        return FineTuned(self.job.state / ("fine-tuned" if self.start is None else "fine-tuned-in-steps"))

    @cached_property
    def original(self) -> Graph:
        """The original in deployment form."""
        return deployment_form(self.job.graph)

    # -- plans ---------------------------------------------------------------------------------------------

    def planner_for(self, goal: Budget) -> Planner:
        """The planner under another budget."""
        return replace(self.planner, budget=goal)

    def plans(self, planner: Planner, space: Space, label: str, *, first_that_keeps: bool) -> list[Trial]:
        """A plan for each configuration of a space, measured untrained; computed once for each label.

        Args:
            label: Name of the files; it identifies the planner's budget, too.
            first_that_keeps: Whether to stop at the first plan that keeps the budgets.
        """
        if label in self._planned:
            return self._planned[label]
        found = self._planned[label] = []
        for index, configuration in enumerate(space.configurations):
            self.job.progress("plan", index, len(space.configurations), f"{label}: {configuration}")
            try:
                found.append(plan_for(planner, space, configuration, f"{label}-{index}"))
            except TargetError as error:  # LiteRT's sparse path refuses some networks on ARM64
                if configuration.sparse is None:
                    raise
                log.warning(
                    "%s: %s is left out, since the runtime fails on it: %s", label, configuration, error
                )
                continue
            if first_that_keeps and found[-1].keeps_all:
                break
            if space.mixed and configuration.precision != "float":
                in_part = plan_for(planner, space, configuration, f"{label}-{index}-in-part", regions=True)
                if in_part.structure.floats:  # otherwise equal to the one before, or to the float plan
                    found.append(in_part)
        if not found:
            found.append(planner.plan_whole(Configuration(), f"{label}-plain"))
        self.job.progress("plan", len(space.configurations), len(space.configurations), label)
        return found

    # -- from a structure to an outcome --------------------------------------------------------------------

    def fine_tuned(self, name: str, trial: Trial, notes: Sequence[str] = ()) -> Outcome:
        """The outcome of a plan: fine-tuned if it keeps the budgets, otherwise untrained, with the reason."""
        said = [*notes, *reach(trial, given=bool(self.job.cost_budget.of_cost.asked))]
        if trial.structure.is_original:
            return self.finished(name, trial.structure, self.original, trial, said)
        if not trial.keeps_all:
            return self.finished(name, trial.structure, self.untrained(trial.structure), trial, said)
        graph = self.trained(trial.structure, name)
        if trial.structure.removes_nothing and self.trainer.images:
            graph, more = self._unless_better_before(name, trial.structure, graph)
            said += more
        return self.finished(name, trial.structure, graph, trial, said)

    def finished(
        self,
        name: str,
        structure: Structure,
        graph: Graph,
        plan: Trial | None = None,
        notes: Sequence[str] = (),
    ) -> Outcome:
        """An outcome of a graph in deployment form, lowered into the strategy's folder."""
        job = self.job
        path = write_file(graph, job.target, job.state / name / "model", job.data, job.task.output)
        predicted = plan.predicted_cost if plan else None
        return Outcome(name, structure, graph, path, predicted, plan, tuple(notes))

    def untrained(self, structure: Structure) -> Graph:
        """A structure built, with batch-norm statistics re-estimated, and quantised; not trained."""
        known = self.planner.sensitivities
        built = self.start or self.job.graph
        if structure != Structure(structure.configuration) or structure.configuration.sparse is not None:
            built = restructure(built, structure, known, self.planner.calibration[:1], verify=True)
        if not structure.removes_nothing:
            built = self.trainer.settle(built)
        return quantise(deployment_form(built), structure.configuration, self.planner.calibration)

    def trained(self, structure: Structure, label: str, share: float = 1.0) -> Graph:
        """A structure built and fine-tuned, once for each structure and share of the job's images."""
        share = share if self.trainer.images else 1.0  # without training a trial is the whole
        wanted = FineTuning(structure, share, label)
        if wanted.key not in self._trained:
            self._trained[wanted.key] = self.kept.get(wanted.key) or self._train(wanted)
        return self._trained[wanted.key]

    def score(self, graph: Graph, path: Path) -> float:
        """Validation metric of a graph, lowered into that file; the worst value if outputs are not finite."""
        file = write_file(graph, self.job.target, path, self.job.data, self.job.task.output)
        try:
            return self.bench.metric(file, self.job.data, "validation")
        except NotFiniteError as error:  # the worst value; the stored score says why
            log.warning("%s: %s", path.name, error)
            return self.job.task.metric.worst

    def _train(self, wanted: FineTuning) -> Graph:
        known = self.planner.sensitivities
        if self.pool is not None:
            fine_tune_all(self.job, known, [wanted], self.kept, self.pool)
            found = self.kept.get(wanted.key)
            assert found is not None
            return found
        built = candidate_graph(self.job, wanted.structure, known, self.trainer, wanted.share, self.start)
        return self.trainer.train(built, wanted.structure, wanted.label, wanted.share)

    def _unless_better_before(
        self, name: str, structure: Structure, trained: Graph
    ) -> tuple[Graph, tuple[str, ...]]:
        """The trained network, or the untrained one if validation shows that training made it worse.

        Quantisation alone often loses nothing; training can then only lose accuracy.
        """
        before = self.untrained(structure)
        folder = self.job.state / name
        score, after = self.score(before, folder / "before"), self.score(trained, folder / "fine-tuned")
        metric = self.job.task.metric
        if metric.merit(score) <= metric.merit(after):
            return trained, ()
        said = (
            f"Fine-tuning took validation {metric.name} from {score:.4f} to {after:.4f}, so it was left out."
        )
        return before, (said,)

"""The strategies that every run compares, from the original to the joint plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mcc.budget import Budget
from mcc.compress.bench import Bench
from mcc.compress.candidate import Structure, deployment_form, quantise, restructure, write_file
from mcc.compress.even import plan_evenly
from mcc.compress.job import Job
from mcc.compress.outcome import Outcome, reach, remembered
from mcc.compress.planning import Planner, Trial
from mcc.compress.sequence import prune_then_quantise
from mcc.compress.steps import in_steps, left_share
from mcc.compress.summary import signal_of
from mcc.compress.training import Trainer
from mcc.compress.why import why_notes
from mcc.compress.workers import Repair, Repaired, candidate_graph, repair_all
from mcc.errors import NotFiniteError, TargetError
from mcc.ir.graph import Graph
from mcc.quant.noise import is_integer
from mcc.search.crew import Crew
from mcc.search.space import Regime, Space, StrategyName, strategy_space

log = logging.getLogger(__name__)

SINGLES: tuple[StrategyName, ...] = ("channel-pruning", "sparse-1x1", "low-rank")
TRIAL_SHARE = 0.1  # of the repair's images, for each regime that the joint plan tries out
GOALS = (1.5, 2.0, 3.0)  # speed-ups to plan for where no budget on cost was asked for


class Strategies:
    """Runs strategies one after the other; each distinct structure is trained once.

    Args:
        job: what is compressed.
        bench: measures.
        planner: plans under the job's budgets.
        regimes: that the target and the network allow.
        trainer: repairs.
        crew: repairs several candidates at a time; None: one after the other, here.
        start: the network that structures are made from, where steps before have changed it.
    """

    def __init__(
        self,
        job: Job,
        bench: Bench,
        planner: Planner,
        regimes: tuple[Regime, ...],
        trainer: Trainer,
        crew: Crew | None = None,
        *,
        start: Graph | None = None,
    ) -> None:
        self.job = job
        self.bench = bench
        self.planner = planner
        self.regimes = regimes
        self.trainer = trainer
        self.calibration = job.calibration()
        self.crew = crew
        self.start = start
        self.kept = Repaired(job.state / ("repaired" if start is None else "repaired-in-steps"))
        self.planned_before: dict[str, list[Trial]] = {}
        self.trained: dict[str, Graph] = {}

    def run_all(self, given: Structure | None = None) -> list[Outcome]:
        """The strategies asked for, the original first; a given plan takes the place of the joint one."""
        steps: list[tuple[str, Callable[[], Outcome]]] = [
            ("original", self.original),
            ("original-trained", self.original_trained),
            ("int8-ptq", self.int8_ptq),
            ("uniform-width", self.uniform_width),
            *[(name, partial(self.planned, name)) for name in SINGLES],
            ("prune-then-quantize", self.sequence),
        ]
        goals = self.goals()
        for goal in goals if given is None else ():
            name = self._goal_name(goal, goals)
            steps.append((name, partial(self.joint, name, goal)))
        if given is not None:
            steps.append(("joint", partial(self.given, given)))
        steps = [(name, step) for name, step in steps if self._wanted(name)]
        if self.crew is not None and self.trainer.images:
            self._repair_ahead(self.crew, goals if given is None and self.job.request.steps == 1 else [])
        found: list[Outcome] = []
        for index, (name, step) in enumerate(steps):
            self.job.progress("strategies", index, len(steps), name)
            with self.job.stage(f"strategy {name}"):
                try:
                    found.append(remembered(self.job.state / name, step))
                except NotFiniteError as error:
                    if name == "original":
                        raise
                    self.job.warn(f"The strategy {name} is left out: {error}.")
        self.job.progress("strategies", len(steps), len(steps))
        return found

    def _wanted(self, name: str) -> bool:
        """Whether a strategy was asked for; the original always is, since all others are held against it."""
        asked = self.job.request.strategies
        return (
            not asked
            or name == "original"
            or name in asked
            or ("joint" in asked and name.startswith("joint-"))
        )

    def goals(self) -> list[Budget]:
        """The budgets to plan for: those asked for, or a ladder of speed-ups where none is on cost."""
        budget = self.job.cost_budget
        if budget.of_cost.asked:
            return [budget]
        return [Budget(speedup=goal) for goal in GOALS]

    @staticmethod
    def _goal_name(goal: Budget, goals: Sequence[Budget]) -> str:
        return "joint" if len(goals) == 1 else f"joint-{goal.speedup:g}x"

    # -- strategies without a plan -------------------------------------------------------------------------

    def original(self) -> Outcome:
        """The model as it came."""
        return self._finish("original", Structure(), deployment_form(self.job.graph))

    def original_trained(self) -> Outcome:
        """The original given the same extra training: what the training alone is worth."""
        if self.trainer.images == 0:
            untrained = deployment_form(self.job.graph)
            notes = ("No training was asked for.",)
            return self._finish("original-trained", Structure(), untrained, notes=notes)
        return self._finish("original-trained", Structure(), self._trained(Structure(), "original-trained"))

    def int8_ptq(self) -> Outcome:
        """Quantised after training: ranges from calibration data, nothing repaired."""
        regime = next((r for r in self.regimes if r.precision != "float"), Regime("int8"))
        graph = quantise(deployment_form(self.job.graph), regime, self.calibration)
        self._check_early(graph)
        return self._finish("int8-ptq", Structure(regime), graph)

    def _check_early(self, graph: Graph) -> None:
        """Say at the first integer graph, and not after hours, that it loses the signal.

        Training may mend it, so that it is an error only where none follows; what is delivered is checked
        once more.
        """
        failure = signal_of(self.job, graph).failure() if is_integer(graph) else None
        if failure is None or self.job.request.allow_noise:
            return
        if self.trainer.images == 0:
            raise failure
        log.warning("%s: %s; training may mend it", failure.where, failure.message)

    # -- planned strategies --------------------------------------------------------------------------------

    def planned(self, name: StrategyName) -> Outcome:
        """One kind of move alone, planned for the first goal."""
        return self._repaired(
            name, self._single(name), why_notes(name, self.planner, self.job.target.facts())
        )

    def _single(self, name: StrategyName) -> Trial:
        planner = replace(self.planner, budget=self.goals()[0])
        trials = self._plans(planner, strategy_space(name, self.regimes), name, first_that_keeps=True)
        return next((t for t in trials if t.keeps_all), min(trials, key=lambda t: t.speed.latency_us))

    def _joint_trials(self, name: str, goal: Budget) -> list[Trial]:
        planner = replace(self.planner, budget=goal)
        return self._plans(planner, strategy_space("joint", self.regimes), name, first_that_keeps=False)

    def uniform_width(self) -> Outcome:
        """A narrower network of the same family, which needs no plan: what planning has to beat."""
        planner = replace(self.planner, budget=self.goals()[0])
        trial = plan_evenly(planner, "uniform-width")
        whole = {name: len(order) for name, order in self.planner.sensitivities.order.items()}
        shares = [width / whole[name] for name, width in trial.structure.widths.items()]
        said = (
            f"Every group of channels at {min(shares):.0%} to {max(shares):.0%} of its width."
            if shares
            else ""
        )
        return self._repaired("uniform-width", trial, (said,) if said else ())

    def sequence(self) -> Outcome:
        """Pruned for the budget as if nothing else came, then quantised: one technique after the other."""
        planner = replace(self.planner, budget=self.goals()[0])
        trial, said = prune_then_quantise(planner, self.regimes, "sequence")
        return self._repaired("prune-then-quantize", trial, said)

    def joint(self, name: str, goal: Budget) -> Outcome:
        """Everything at once: each regime planned and repaired a little, the best of them repaired whole."""
        if self.job.request.steps > 1 and self.start is None and self.trainer.images:
            return self._joint_in_steps(name, goal)
        trials = self._joint_trials(name, goal)
        keeping = [t for t in trials if t.keeps_all]
        if not keeping:
            nearest = min(trials, key=lambda t: t.speed.latency_us)
            return self._repaired(name, nearest)
        scores: dict[str, float] = {}
        best = self._best(keeping, scores)
        plain = self._without_pairs(name, goal, best) if best.structure.ranks else None
        if plain is not None and plain.keeps_all:
            keeping.append(plain)
            best = self._best([best, plain], scores)
        said = [f"{_words(t)}: {scores[t.structure.key()]:.4f}" for t in keeping if scores]
        judged = f"validation {self.job.task.metric.name}"
        note = f"Plans that keep the budgets, by {judged} after a short repair: {', '.join(said)}."
        return self._repaired(name, best, (note,) if said else ())

    def _best(self, trials: Sequence[Trial], scores: dict[str, float]) -> Trial:
        """The best after a short repair, of those as good the fastest; adds to the scores.

        Args:
            scores: validation metrics known so far, by structure.
        """
        if len(trials) == 1:
            return trials[0]
        for trial in trials:
            if trial.structure.key() not in scores:
                scores[trial.structure.key()] = self._try_out(trial)
        merit = self.job.task.metric.merit
        return max(trials, key=lambda t: (merit(scores[t.structure.key()]), -t.speed.latency_us))

    def _without_pairs(self, name: str, goal: Budget, best: Trial) -> Trial:
        """What the best plan would be without low-rank pairs.

        The loss that a pair adds is known before training only, and training gives removed channels back
        more than it gives removed ranks: a short repair has to say which is better.
        """
        planner = replace(self.planner, budget=goal)
        space = replace(strategy_space("joint", self.regimes), low_rank=False)
        structure = best.structure
        return planner.plan(space, structure.regime, f"{name}-no-pairs", regions=bool(structure.floats))

    def _joint_in_steps(self, name: str, goal: Budget) -> Outcome:
        """The joint plan for a network that went most of the way before; its images are counted in."""
        steps = self.job.request.steps
        planner = in_steps(self.job, replace(self.planner, budget=goal), self.trainer, steps, name)
        stepped = planner.graph is not self.planner.graph  # not without a budget of time
        trainer = Trainer(self.job, left_share(steps)) if stepped else self.trainer
        last = Strategies(self.job, self.bench, planner, self.regimes, trainer, start=planner.graph)
        outcome = last.joint(name, goal)
        said = (
            f"The budget was gone to in {steps} steps."
            if stepped
            else "There was no budget to go to in steps."
        )
        return replace(outcome, notes=(*outcome.notes, said))

    def tighter(self, missed: Outcome, share: float) -> Outcome:
        """The joint plan anew, for budgets on time tightened to a share: the last measurement missed them.

        Args:
            missed: the joint outcome that kept the budgets as a trial and missed them when all was measured.
        """
        budget = self.goals()[0].scaled(time=share)
        name = f"{missed.name}-at-{100 * share:.1f}"
        found = remembered(self.job.state / name, lambda: self.joint(name, budget))
        return replace(found, name=missed.name)

    def given(self, structure: Structure) -> Outcome:
        """A plan from a file, in place of the joint plan."""
        raw = self.planner.predict(structure)
        whole = self.planner.plan_whole(structure.regime, "given-whole")
        trial = self.planner.measure(structure, raw * whole.factor, raw, "given")
        return self._repaired("joint", trial, ("The plan was given, not made.",))

    def _plans(self, planner: Planner, space: Space, label: str, *, first_that_keeps: bool) -> list[Trial]:
        if label in self.planned_before:
            return self.planned_before[label]
        found = self.planned_before[label] = []
        for index, regime in enumerate(space.regimes):
            self.job.progress("plan", index, len(space.regimes), f"{label}: {regime}")
            try:
                found.append(planner.plan(space, regime, f"{label}-{index}"))
            except TargetError as error:  # LiteRT's sparse path refuses some networks on ARM64
                if regime.sparse is None:
                    raise
                log.warning("%s: %s is left out, since the runtime fails on it: %s", label, regime, error)
                continue
            if first_that_keeps and found[-1].keeps_all:
                break
            if space.mixed and regime.precision != "float":
                in_part = planner.plan(space, regime, f"{label}-{index}-in-part", regions=True)
                if in_part.structure.floats:  # else it is the one before, or the float one
                    found.append(in_part)
        if not found:
            found.append(planner.plan_whole(Regime(), f"{label}-plain"))
        self.job.progress("plan", len(space.regimes), len(space.regimes), label)
        return found

    def _try_out(self, trial: Trial) -> float:
        """Validation metric of a structure after a short repair."""
        graph = self._trained(trial.structure, f"{trial.file.stem}-tried", share=TRIAL_SHARE)
        return self._score(graph, trial.file.with_name(f"{trial.file.stem}-tried"))

    def _score(self, graph: Graph, path: Path) -> float:
        """Validation metric of a graph, lowered into that file; the worst where outputs are not finite."""
        file = write_file(graph, self.job.target, path, self.job.data, self.job.task.output)
        try:
            return self.bench.metric(file, self.job.data, "validation")
        except NotFiniteError as error:  # the worst that can be; what is kept of it says so
            log.warning("%s: %s", path.name, error)
            return self.job.task.metric.worst

    # -- from a structure to an outcome --------------------------------------------------------------------

    def _repaired(self, name: str, trial: Trial, notes: Sequence[str] = ()) -> Outcome:
        said = [*notes, *reach(trial)]
        if trial.structure.is_original:
            return self._finish(name, trial.structure, deployment_form(self.job.graph), trial, said)
        if not trial.keeps_all:
            return self._finish(name, trial.structure, self._untrained(trial.structure), trial, said)
        graph = self._trained(trial.structure, name)
        if trial.structure.removes_nothing and self.trainer.images:
            graph, more = self._unless_better_before(name, trial.structure, graph)
            said += more
        return self._finish(name, trial.structure, graph, trial, said)

    def _unless_better_before(
        self, name: str, structure: Structure, repaired: Graph
    ) -> tuple[Graph, tuple[str, ...]]:
        """The repaired network, or what it was made from where validation says that the repair made it worse.

        Quantising alone often loses nothing; training can then only lose what the network had learnt.
        """
        before = self._untrained(structure)
        folder = self.job.state / name
        score, after = self._score(before, folder / "before"), self._score(repaired, folder / "repaired")
        metric = self.job.task.metric
        if metric.merit(score) <= metric.merit(after):
            return repaired, ()
        said = (
            f"Repair took the validation {metric.name} from {score:.4f} to {after:.4f}, so it was left out."
        )
        return before, (said,)

    def _untrained(self, structure: Structure) -> Graph:
        known = self.planner.sensitivities
        built = self.start or self.job.graph
        if structure != Structure(structure.regime) or structure.regime.sparse is not None:
            built = restructure(built, structure, known, self.calibration[:1], verify=True)
        if not structure.removes_nothing:
            built = self.trainer.settle(built)
        return quantise(deployment_form(built), structure.regime, self.calibration)

    def _trained(self, structure: Structure, label: str, share: float = 1.0) -> Graph:
        share = share if self.trainer.images else 1.0  # without training a trial is the whole
        repair = Repair(structure, share, label)
        if repair.key not in self.trained:
            self.trained[repair.key] = self.kept.get(repair.key) or self._train(repair)
        return self.trained[repair.key]

    def _train(self, repair: Repair) -> Graph:
        known = self.planner.sensitivities
        if self.crew is not None:
            repair_all(self.job, known, [repair], self.kept, self.crew)
            found = self.kept.get(repair.key)
            assert found is not None
            return found
        built = candidate_graph(self.job, repair.structure, known, self.trainer, repair.share, self.start)
        return self.trainer.train(built, repair.structure, repair.label, repair.share)

    def _repair_ahead(self, crew: Crew, goals: Sequence[Budget]) -> None:
        """Plan what can be planned by now, and repair all of it at once: the steps then find it done."""
        name = "original-trained"
        wanted = [Repair(Structure(), 1.0, name)] if self._wanted(name) else []
        for name in SINGLES:
            trial = self._single(name) if self._wanted(name) else None
            if trial and trial.keeps_all and not trial.structure.is_original:
                wanted.append(Repair(trial.structure, 1.0, name))
        for goal in goals:
            keeping = [t for t in self._joint_trials(self._goal_name(goal, goals), goal) if t.keeps_all]
            share = TRIAL_SHARE if len(keeping) > 1 else 1.0
            wanted += [Repair(t.structure, share, "joint") for t in keeping if not t.structure.is_original]
        repair_all(self.job, self.planner.sensitivities, wanted, self.kept, crew)

    def _finish(
        self,
        name: str,
        structure: Structure,
        graph: Graph,
        plan: Trial | None = None,
        notes: Sequence[str] = (),
    ) -> Outcome:
        job = self.job
        path = write_file(graph, job.target, job.state / name / "model", job.data, job.task.output)
        predicted = plan.predicted_us if plan else None
        return Outcome(name, structure, graph, path, predicted, plan, tuple(notes))


def _words(trial: Trial) -> str:
    """What sets a plan apart from the others tried out."""
    pairs = len(trial.structure.ranks)
    said = f", {pairs} low-rank pair{'s' if pairs > 1 else ''}" if pairs else ""
    return trial.structure.words + said

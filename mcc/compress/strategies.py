"""The strategies that every run compares, from the original to the joint plan."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mcc.compress.bench import Bench
from mcc.compress.candidate import Structure, deployment_form, quantise, restructure, write_file
from mcc.compress.even import plan_evenly
from mcc.compress.job import Job, save_json
from mcc.compress.planning import Planner, Trial
from mcc.compress.training import Trainer
from mcc.compress.why import why_notes
from mcc.ir.graph import Graph
from mcc.ir.storage import load_graph, save_graph
from mcc.report.schema import Budget
from mcc.report.words import LABELS
from mcc.search.space import Regime, Space, StrategyName, strategy_space

log = logging.getLogger(__name__)

TRIAL_SHARE = 0.1  # of the repair's images, for each regime that the joint plan tries out
GOALS = (1.5, 2.0, 3.0)  # speed-ups to plan for where no budget on cost was asked for
COST_BUDGETS = ("latency_us", "speedup", "size_bytes", "memory_bytes")


@dataclass(frozen=True)
class Outcome:
    """A strategy's finished model.

    Attributes:
        name: of the strategy.
        structure: what was decided.
        graph: in deployment form, quantised where it is to be, trained.
        file: lowered.
        predicted_us: latency written down before the structure was first timed, None for the original.
        plan: the accepted trial, None where nothing was planned.
        notes: sentences for the report.
    """

    name: str
    structure: Structure
    graph: Graph
    file: Path
    predicted_us: float | None = None
    plan: Trial | None = None
    notes: tuple[str, ...] = ()


class Strategies:
    """Runs strategies one after the other; each distinct structure is trained once.

    Args:
        job: what is compressed.
        bench: measures.
        planner: plans under the job's budgets.
        regimes: that the target and the network allow.
        trainer: repairs.
    """

    def __init__(
        self, job: Job, bench: Bench, planner: Planner, regimes: tuple[Regime, ...], trainer: Trainer
    ) -> None:
        self.job = job
        self.bench = bench
        self.planner = planner
        self.regimes = regimes
        self.trainer = trainer
        self.calibration = job.calibration()
        self.trained: dict[str, Graph] = {}

    def run_all(self, given: Structure | None = None) -> list[Outcome]:
        """Every strategy, the original first; a given plan takes the place of the joint one."""
        steps: list[tuple[str, Callable[[], Outcome]]] = [
            ("original", self.original),
            ("original-trained", self.original_trained),
            ("int8-ptq", self.int8_ptq),
            ("uniform-width", self.uniform_width),
            ("channel-pruning", lambda: self.planned("channel-pruning")),
            ("sparse-1x1", lambda: self.planned("sparse-1x1")),
            ("low-rank", lambda: self.planned("low-rank")),
            ("prune-then-quantize", self.sequence),
        ]
        goals = self.goals()
        for goal in goals if given is None else ():
            name = "joint" if len(goals) == 1 else f"joint-{goal.speedup:g}x"
            steps.append((name, partial(self.joint, name, goal)))
        if given is not None:
            steps.append(("joint", partial(self.given, given)))
        found: list[Outcome] = []
        for index, (name, step) in enumerate(steps):
            self.job.progress("strategies", index, len(steps), name)
            with self.job.stage(f"strategy {name}"):
                found.append(self._remembered(name, step))
        self.job.progress("strategies", len(steps), len(steps))
        return found

    def goals(self) -> list[Budget]:
        """The budgets to plan for: those asked for, or a ladder of speed-ups where none is on cost."""
        budget = self.job.request.budget
        if any(getattr(budget, name) is not None for name in COST_BUDGETS):
            return [budget]
        return [Budget(speedup=goal) for goal in GOALS]

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
        return self._finish("int8-ptq", Structure(regime), graph)

    # -- planned strategies --------------------------------------------------------------------------------

    def planned(self, name: StrategyName) -> Outcome:
        """One kind of move alone, planned for the first goal."""
        space = strategy_space(name, self.regimes)
        planner = replace(self.planner, budget=self.goals()[0])
        trials = self._plans(planner, space, name, first_that_keeps=True)
        chosen = next((t for t in trials if t.keeps_all), min(trials, key=lambda t: t.speed.latency_us))
        return self._repaired(name, chosen, why_notes(name, self.planner, self.job.target.facts()))

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
        """Prune for the budget as if nothing else came, then quantise: one technique after the other."""
        regime = next((r for r in self.regimes if r.precision != "float"), Regime("int8"))
        whole = self.planner.plan_whole(regime, "sequence-int8")
        budget = self.goals()[0]
        gain = max(1.0, whole.speed.speedup)
        eased = _eased(budget, gain, whole.size_bytes / max(1, self.bench.baseline.stat().st_size))
        planner = replace(self.planner, budget=eased)
        pruned = planner.plan(strategy_space("channel-pruning", self.regimes), Regime(), "sequence")
        structure = Structure(regime, pruned.structure.widths)
        raw = self.planner.predict(structure)
        trial = self.planner.measure(structure, raw * whole.factor, raw, "sequence-final")
        said = ()
        if not trial.keeps_all and pruned.keeps_all:
            said = (f"Quantising the pruned network gains less than quantising the original ({gain:.2f}x).",)
        return self._repaired("prune-then-quantize", trial, said)

    def joint(self, name: str, goal: Budget) -> Outcome:
        """Everything at once: each regime planned and repaired a little, the best of them repaired whole."""
        planner = replace(self.planner, budget=goal)
        trials = self._plans(planner, strategy_space("joint", self.regimes), name, first_that_keeps=False)
        keeping = [t for t in trials if t.keeps_all]
        if not keeping:
            nearest = min(trials, key=lambda t: t.speed.latency_us)
            return self._repaired(name, nearest)
        if len(keeping) == 1:
            return self._repaired(name, keeping[0])
        scores = {t.structure.key(): self._try_out(t) for t in keeping}
        best = max(keeping, key=lambda t: (scores[t.structure.key()], -t.speed.latency_us))
        words = ", ".join(f"{t.structure.words}: {scores[t.structure.key()]:.4f}" for t in keeping)
        note = f"Regimes that keep the budgets, by validation accuracy after a short repair: {words}."
        return self._repaired(name, best, (note,))

    def tighter(self, missed: Outcome, share: float) -> Outcome:
        """The joint plan anew, for budgets on time tightened to a share: the last measurement missed them.

        Args:
            missed: the joint outcome that kept the budgets as a trial and missed them when all was measured.
        """
        budget = self.goals()[0]
        changes: dict[str, Any] = {}
        if budget.latency_us is not None:
            changes["latency_us"] = budget.latency_us * share
        if budget.speedup is not None:
            changes["speedup"] = budget.speedup / share
        name = f"{missed.name}-at-{100 * share:.1f}"
        found = self._remembered(name, lambda: self.joint(name, budget.model_copy(update=changes)))
        return replace(found, name=missed.name)

    def given(self, structure: Structure) -> Outcome:
        """A plan from a file, in place of the joint plan."""
        raw = self.planner.predict(structure)
        whole = self.planner.plan_whole(structure.regime, "given-whole")
        trial = self.planner.measure(structure, raw * whole.factor, raw, "given")
        return self._repaired("joint", trial, ("The plan was given, not made.",))

    def _plans(self, planner: Planner, space: Space, label: str, *, first_that_keeps: bool) -> list[Trial]:
        found: list[Trial] = []
        for index, regime in enumerate(space.regimes):
            self.job.progress("plan", index, len(space.regimes), f"{label}: {regime}")
            found.append(planner.plan(space, regime, f"{label}-{index}"))
            if first_that_keeps and found[-1].keeps_all:
                break
            if space.mixed and regime.precision != "float":
                in_part = planner.plan(space, regime, f"{label}-{index}-in-part", regions=True)
                if in_part.structure.floats:  # else it is the one before, or the float one
                    found.append(in_part)
        self.job.progress("plan", len(space.regimes), len(space.regimes), label)
        return found

    def _try_out(self, trial: Trial) -> float:
        """Validation accuracy of a structure after a short repair, of the lowered file in the runtime."""
        graph = self._trained(trial.structure, f"{trial.file.stem}-tried", share=TRIAL_SHARE)
        path = write_file(
            graph, self.job.target, trial.file.with_name(f"{trial.file.stem}-tried"), self.job.data
        )
        return self.bench.metric(path, self.job.data, "validation")

    # -- from a structure to an outcome --------------------------------------------------------------------

    def _repaired(self, name: str, trial: Trial, notes: Sequence[str] = ()) -> Outcome:
        said = list(notes)
        if trial.structure.is_original:
            said.append("The original keeps the budgets without any change.")
            return self._finish(name, trial.structure, deployment_form(self.job.graph), trial, said)
        if not trial.keeps_all:
            missed = " and ".join(LABELS[k] for k, kept in trial.kept.items() if not kept)
            said.append(f"The budget of {missed} is out of its reach, so it was not repaired.")
            return self._finish(name, trial.structure, self._untrained(trial.structure), trial, said)
        return self._finish(name, trial.structure, self._trained(trial.structure, name), trial, said)

    def _untrained(self, structure: Structure) -> Graph:
        built = self._built(structure)
        built = self.trainer.settle(built)
        return quantise(deployment_form(built), structure.regime, self.calibration)

    def _trained(self, structure: Structure, label: str, share: float = 1.0) -> Graph:
        share = share if self.trainer.images else 1.0  # without training a trial is the whole
        key = f"{structure.key()} {share}"
        if key not in self.trained:
            gradual = self.trainer.settings(structure, share).sparsity_ramp is not None
            built = self._built(structure, thin=not gradual)
            self.trained[key] = self.trainer.train(built, structure, label, share)
        return self.trained[key]

    def _built(self, structure: Structure, *, thin: bool = True) -> Graph:
        if structure == Structure(structure.regime) and structure.regime.sparse is None:
            return self.job.graph
        known = self.planner.sensitivities
        return restructure(self.job.graph, structure, known, self.calibration[:1], verify=True, thin=thin)

    def _finish(
        self,
        name: str,
        structure: Structure,
        graph: Graph,
        plan: Trial | None = None,
        notes: Sequence[str] = (),
    ) -> Outcome:
        path = write_file(graph, self.job.target, self.job.state / name / "model", self.job.data)
        predicted = plan.predicted_us if plan else None
        return Outcome(name, structure, graph, path, predicted, plan, tuple(notes))

    # -- going on after a kill -----------------------------------------------------------------------------

    def _remembered(self, name: str, step: Callable[[], Outcome]) -> Outcome:
        """What an earlier run finished, or the step itself."""
        mark = self.job.state / name / "outcome.json"
        if mark.exists():
            raw: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8"))
            graph = load_graph(mark.with_name("model.mcc"))
            structure = Structure.from_json(raw["structure"], str(mark))
            file = mark.with_name(raw["file"])
            return Outcome(
                raw["name"], structure, graph, file, raw["predicted_us"], None, tuple(raw["notes"])
            )
        outcome = step()
        save_graph(outcome.graph, mark.with_name("model.mcc"))
        save_json(
            mark,
            {
                "name": outcome.name,
                "structure": outcome.structure.as_json(),
                "file": outcome.file.name,
                "predicted_us": outcome.predicted_us,
                "notes": list(outcome.notes),
            },
        )
        return outcome


def _eased(budget: Budget, gain: float, size_share: float) -> Budget:
    """The budget that pruning must keep when quantising afterwards is trusted to bring the rest."""
    changes: dict[str, Any] = {}
    if budget.latency_us is not None:
        changes["latency_us"] = budget.latency_us * gain
    if budget.speedup is not None:
        changes["speedup"] = budget.speedup / gain
    if budget.size_bytes is not None:
        changes["size_bytes"] = int(budget.size_bytes / size_share)
    return budget.model_copy(update=changes)

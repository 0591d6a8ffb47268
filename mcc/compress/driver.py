"""The main job: a model and constraints in, a deployable model and its report out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcc.budget import Budget, Figures
from mcc.calibrate.entry import predict_graph
from mcc.compress.alternatives import Choice, explained
from mcc.compress.bench import Bench
from mcc.compress.candidate import Structure, deployment_form, sparse_form, write_file
from mcc.compress.costs import Costs
from mcc.compress.eligible import exact_passes, sparse_words
from mcc.compress.final import unsure
from mcc.compress.job import Job, Progress, open_job, save_json, silent
from mcc.compress.losses import measured_sensitivities
from mcc.compress.measured import MeasuredFiles
from mcc.compress.outcome import Outcome
from mcc.compress.plan_file import read_plan
from mcc.compress.planning import Planner, available_regimes, planned_integers, target_cluster
from mcc.compress.request import Request, known_strategies
from mcc.compress.strategies import Strategies
from mcc.compress.summary import (
    check_file,
    decisions_of,
    predicted_figure,
    result_of,
    tested,
    versions_of,
)
from mcc.compress.training import Trainer
from mcc.data import Preprocessing
from mcc.data.stated import Asked, asked_for
from mcc.errors import ConstraintError, DataError
from mcc.files import write_beside
from mcc.ir.diff import diff_graphs
from mcc.ir.storage import save_graph
from mcc.lower.formats import get_format
from mcc.metric import ACCURACY
from mcc.quant.regions import integer_nodes
from mcc.report.choose import check_budget, choose, mark, metric_reference, nearest
from mcc.report.doubt import chance_sentence
from mcc.report.html import write_html
from mcc.report.pairs import Pairs, memorised_words
from mcc.report.schema import PreprocessingInfo, Report, StrategyResult, TargetInfo
from mcc.report.verdict import missed_words, with_verdicts
from mcc.search.crew import make_crew
from mcc.search.sensitivity import Sensitivities
from mcc.search.space import Regime
from mcc.search.tables import Setting

log = logging.getLogger(__name__)

ORIGINALS = ("original", "original-trained")
RETRIES = 2
CARE = 0.98  # of what a plan missed its budget by is asked for more, when it is made once again
NARROW = 0.85  # of the budget: what is missed by more was out of reach, and planning once more will not help
FINAL_SECONDS = 4.0  # of measuring for each file in the last, common measurement


def compress(
    model: str,
    data: str,
    target: str,
    *,
    latency_us: float | None = None,
    model_cycles: float | None = None,
    speedup: float | None = None,
    size_bytes: int | None = None,
    memory_bytes: int | None = None,
    max_drop: float | None = None,
    epochs: float | None = None,
    threads: int = 1,
    weights: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    cut: Sequence[str] = (),
    out: Path | str = "out",
    resume: bool = False,
    plan: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
    command: str = "",
    workers: int | None = None,
    ray: str | None = None,
    steps: int = 1,
    strategies: Sequence[str] = (),
    preprocessing: Preprocessing | Asked | None = None,
    task: str | None = None,
    judge: str | int | None = None,
    ignore_labels: bool = False,
    allow_noise: bool = False,
    force: bool = False,
) -> Report:
    """Compress a model for a target under budgets; leave the model and its report in a folder.

    Args:
        model: `package.module:factory`, a `.pt2`, `.onnx` or `.mcc` file, see `mcc.frontend.load.load_model`.
        data: `digits`, `cifar10:DIR`, `imagefolder:DIR` or `package.module:factory`.
        target: see `mcc targets`.
        latency_us: of one inference, in microseconds; the upper 95 % bound of its median counts.
        model_cycles: of one inference, on a simulated core, in place of a latency.
        speedup: over the original float model, lowered the same way and measured in turns with it.
        size_bytes, memory_bytes: of the file, and of the peak memory of a fresh runner.
        max_drop: of the validation metric that may be lost: points of a fraction (an accuracy), else in its
            unit.
        epochs: passes over the training data for each strategy's repair.
        threads: of one inference.
        weights: loaded into a factory's module (safetensors, or a weights-only state dict).
        input_shape: where the model does not say.
        cut: where the model ends, see `mcc.frontend.load.load_model`.
        out: the folder.
        resume: go on from the state in it.
        plan: a plan.json to follow.
        seed: of everything random.
        progress: called with stage, done, total and a few words.
        command: for the report, how to repeat the run.
        workers: processes for sensitivities and repairs, of one thread each; None: this process alone.
        steps: in which the joint plan goes to its budget of time, with a little repair after each.
        ray: address of a Ray cluster for them instead; `local` starts one here.
        strategies: to compare with the original, names of `mcc.compress.request.STRATEGY_NAMES`; empty: all.
        preprocessing: of the pictures; None: what the model states, else what is customary for the data.
        task: what the network is for, see `mcc.data.load_task`; None: as the data says.
        judge: name or place of the output that the metric is read from; None: chosen by shape and name.
        ignore_labels: whether class names that the model's file states may be other than the data's.
        allow_noise: only warn where an integer result loses the signal of its weights in float.
        force: whether files in the folder that mcc did not make may be overwritten.

    Raises:
        ConstraintError: no strategy keeps every budget. The report and the strategy that misses them by least
            are in the folder all the same, the report is the error's `report`, and the hint names the nearest
            feasible budgets.
        MccError: anything that cannot be used or failed a check.
    """
    budget = Budget.asked_for(
        latency_us=latency_us, model_cycles=model_cycles, speedup=speedup, size_bytes=size_bytes,
        memory_bytes=memory_bytes, max_drop=max_drop,
    )  # fmt: skip
    followed = None if plan is None else read_plan(plan)
    given = None if followed is None else followed.structure
    request = Request(
        model=model, data=data, target=target, budget=budget, epochs=epochs, threads=threads, seed=seed,
        weights=Path(weights) if weights else None, input_shape=input_shape,
        plan="" if given is None else given.key(), cut=tuple(cut), workers=workers, ray=ray, steps=steps,
        strategies=known_strategies(strategies), pictures=asked_for(preprocessing),
        task=task, judge=None if judge is None else str(judge), ignore_labels=ignore_labels,
        allow_noise=allow_noise,
    )  # fmt: skip
    job = open_job(
        request, Path(out), resume=resume, progress=progress, force=force, plan_file=plan,
        check=None if followed is None else followed.check,
    )  # fmt: skip
    try:
        return Run(job, command).compress(given)
    finally:
        job.release()


class Run:
    """One job from the original to the report; `measures`: whether speeds may be measured on the target."""

    def __init__(self, job: Job, command: str, *, measures: bool = True) -> None:
        self.job = job
        self.command = command
        self.calibration = job.calibration()
        self.deployed = deployment_form(job.graph)
        self.integer = planned_integers(self.deployed, self.calibration)
        self.passes = exact_passes(job.graph, job.target.facts())
        self.cluster = target_cluster(sparse_form(job.graph, self.passes), job.target.facts())
        with job.stage("lower the original"):
            self.baseline = write_file(
                self.deployed, job.target, job.folder / "baseline", job.data, job.task.output
            )
            save_graph(job.graph, job.folder / "before.mcc", job_notes(job))
        shared = MeasuredFiles(job.target.fingerprint(job.request.threads).key())
        self.bench = Bench(
            job.target, job.request.threads, self.baseline, job.state / "measurements.json", shared,
            task=job.task, outputs=job.outputs,
        )  # fmt: skip
        self.at_chance = self._doubt_original()
        self.measures = measures
        self.costs = Costs(job, measures=measures)
        self.crew = make_crew(job.request.workers, job.request.ray)

    def _doubt_original(self) -> bool:
        """Whether the original is no better than guessing; that is said at once, before the long work."""
        job = self.job
        stage = f"validation {job.task.metric.name} of the original"
        with job.stage(stage):
            job.progress(stage, 0, 1)
            chance = self.bench.chance(self.baseline, job.data, "validation")
            job.progress(stage, 1, 1)
        if chance is not None:
            job.warn(chance_sentence("The original", chance, job.circumstances()))
        for sentence in job.warnings:
            log.warning("%s", sentence)
        return chance is not None

    def regimes(self) -> tuple[Regime, ...]:
        """What the target and the network allow."""
        return available_regimes(self.cluster, self.integer, self.job.target.facts(), self.passes)

    def planner(self) -> Planner:
        """Measure what planning rests on: the baseline, the kernels, the sensitivities."""
        job = self.job
        baseline_us = self._original_us() if self.measures else 0.0
        with job.stage("calibrate"):
            self.costs.calibrate(self.deployed, self.regimes())
        if not self.measures:
            baseline_us = predict_graph(self.deployed, job.target, model=self.costs.model).latency_us
        with job.stage("sensitivities"):
            sensitivities = self._sensitivities()
        setting = Setting(
            self.deployed, self.integer, self.cluster, self.costs.model, sensitivities,
            job.target.facts().channel_multiple,
            get_format(job.target.format).storage,
        )  # fmt: skip
        return Planner(
            job.graph, setting, self.bench, job.cost_budget, job.data, self.calibration,
            job.state / "trials", baseline_us, self.costs.ask, job.task.output, times=self.measures,
        )  # fmt: skip

    def _original_us(self) -> float:
        """Measured latency of the original."""
        with self.job.stage("measure the original"):
            self.job.progress("measure the original", 0, 1)
            found = self.bench.original(budget_s=FINAL_SECONDS).latency_us
            self.job.progress("measure the original", 1, 1)
        return found

    def _sensitivities(self) -> Sensitivities:
        path = self.job.state / "sensitivities.json"
        if path.exists():
            try:
                return Sensitivities.load(path)
            except DataError as error:
                log.warning("%s: measured again", error.message if error.where is None else error)
        found = measured_sensitivities(self.job, self.regimes(), self.integer, self.crew)
        found.save(path)
        return found

    def compress(self, given: Structure | None) -> Report:
        """Run every strategy, choose, and write everything."""
        self.made = self.planner()
        strategies = Strategies(self.job, self.bench, self.made, self.regimes(), Trainer(self.job), self.crew)
        outcomes = strategies.run_all(given)
        results, share = self._measure_all(outcomes), 1.0
        planned = given is None and outcomes[-1].name == "joint"
        for _ in range(RETRIES if planned else 0):
            missed = self._missed_share(results[-1])
            if missed is None:
                break
            share *= missed  # of the budget as asked: what the plan before this one aimed at missed as well
            outcomes[-1] = strategies.tighter(outcomes[-1], share)
            results = self._measure_all(outcomes)
        return self._conclude(outcomes, results)

    def _missed_share(self, joint: StrategyResult) -> float | None:
        """By how much to tighten time for the joint plan where it missed the budget narrowly, else None.

        It kept the budget as a trial, and two measurements of a shared machine differ by a few percent, or
        more where others work on it. A miss that noise alone may have made was timed again by now, as every
        result near a limit is, and all sessions count: see `mcc.compress.final`.
        """
        latency, sure = joint.latency_us, joint.speedup_ci95
        figures = Figures(latency.upper if latency else None, speedup=sure[0] if sure else None)
        excess = self.job.request.budget.of_time.excess(figures)
        return CARE / excess if 1.0 < excess < 1 / NARROW else None

    def _measure_all(self, outcomes: Sequence[Outcome]) -> list[StrategyResult]:
        """Figures of all strategies, every file timed in turns with all others, in this run."""
        job = self.job
        with job.stage("measure all strategies"):
            job.progress("measure all strategies", 0, 1)
            files = [outcome.file for outcome in outcomes]
            speeds = self.bench.final_speeds(
                files, budget_s=FINAL_SECONDS * len(files), doubtful=lambda s: unsure(s, job.request.budget)
            )
            found: list[StrategyResult] = []
            for index, (outcome, speed) in enumerate(zip(outcomes, speeds, strict=True)):
                found.append(result_of(job, self.bench, outcome, speed))
                job.progress("measure all strategies", index + 1, len(outcomes), outcome.name)
        return found

    def _conclude(self, outcomes: Sequence[Outcome], results: Sequence[StrategyResult]) -> Report:
        job, budget = self.job, self.job.request.budget
        original = results[0]
        reference = metric_reference(results, ORIGINALS)
        marked = mark(results, budget, baseline=original.result, reference=reference)
        pairs = self._pairs(outcomes)
        failure: ConstraintError | None = None
        try:
            chosen = choose(
                marked, budget, baseline=original.result, reference=reference,
                difference=pairs.difference,
            )  # fmt: skip
        except ConstraintError as error:
            error.where = job.name
            failure, chosen = error, nearest(marked, budget, baseline=original.result, reference=reference)
            job.warnings.insert(0, missed_words(chosen, budget))
        outcome = next(o for o in outcomes if o.name == chosen.name)
        with job.stage("check the delivered file"):
            checks = check_file(job, outcome, allow_noise=job.request.allow_noise)
        with job.stage(f"test {job.task.metric.name}"):
            files = {o.name: o.file for o in outcomes}
            marked = tuple(tested(m, self.bench, job, files[m.name]) for m in marked)
            marked = pairs.filled_in(marked, ORIGINALS, chosen.name)
            self._warn_of_memorised(outcomes[0].file)
            baseline = marked[0].result
            compressed = next(m for m in marked if m.name == chosen.name).result
        integer = frozenset(node.name for node in integer_nodes(outcome.graph))
        report = Report(
            model=job.name,
            data=job.data.name,
            metric=job.task.metric.name,
            target=_target_info(job),
            baseline=baseline,
            compressed=compressed,
            speedup=chosen.speedup or 1.0,
            speedup_ci95=chosen.speedup_ci95,
            predicted_latency_us=chosen.predicted_latency_us,
            predicted_model_cycles=chosen.predicted_model_cycles,
            budget=budget,
            met=check_budget(chosen, budget, baseline=original.result, reference=reference),
            accuracy_reference=reference if job.task.metric == ACCURACY else None,
            metric_reference=reference,
            validation_images=len(job.data.validation),
            test_images=len(job.data.test),
            chosen_on=job.data.chosen_on,
            strategies=tuple(m.model_copy(update={"chosen": m.name == chosen.name}) for m in marked),
            decisions=decisions_of(job, outcome, self.costs.model, integer, self.costs.dates()),
            stages={name: round(seconds, 1) for name, seconds in job.stages.items()},
            seed=job.request.seed,
            versions=versions_of(job),
            command=self.command,
            checks=checks,
            warnings=tuple(job.warnings),
            at_chance=self.at_chance,
            preprocessing=PreprocessingInfo(**job.stated.to_json()),
            output=job.judged.name if len(job.outputs) > 1 else None,
            verdicts=sparse_words(job, self.passes),
            timed_at=self.bench.final.date,
            remembered=self.bench.remembered,
        )
        report = self._write(with_verdicts(report), outcome)
        if failure is not None:
            failure.report = report
            raise failure
        return report

    def _pairs(self, outcomes: Sequence[Outcome]) -> Pairs:
        """What each validation image scored under each strategy."""
        data, bench = self.job.data, self.bench
        return Pairs({o.name: bench.statistics(o.file, data, "validation") for o in outcomes}, self.job.task)

    def _warn_of_memorised(self, original: Path) -> None:
        """Say where the original seems to have been trained on the images for choices."""
        data, bench = self.job.data, self.bench
        validation, test = (bench.statistics(original, data, split) for split in ("validation", "test"))
        sentence = memorised_words(validation, test, self.job.task)
        if sentence:
            self.job.warn(sentence)

    def _write(self, report: Report, outcome: Outcome) -> Report:
        """Everything `mcc compress` leaves; report.json last, so that it stands for all of it."""
        folder = self.job.folder
        save_graph(outcome.graph, folder / "after.mcc", job_notes(self.job))
        model = folder / f"model{outcome.file.suffix}"
        write_beside(model, lambda p: shutil.copyfile(outcome.file, p))
        choices = explained(self.made, outcome.structure, self.regimes())
        save_json(folder / "plan.json", plan_content(self.job, outcome, report, choices))
        write_html(report, folder / "report.html", diff_graphs(self.job.graph, outcome.graph))
        report.save(folder / "report.json")
        self.bench.final.forget()
        return report


def job_notes(job: Job) -> dict[str, Any]:
    """What a .mcc of the job holds beside the graph."""
    return {"preprocessing": job.data.preprocessing.to_json(), "judged": job.task.output}


def plan_content(job: Job, outcome: Outcome, report: Report, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """What plan.json holds: the structure, each decision with its predicted cost and its source, and what
    else could have been decided (`mcc explain`)."""
    return {
        "target": job.target.spec,
        "model": job.name,
        "strategy": outcome.name,
        "structure": outcome.structure.as_json(),
        **predicted_figure(job.target, outcome.predicted_us),
        "decisions": [decision.to_dict() for decision in report.decisions],
        "alternatives": {name: choice.to_dict() for name, choice in choices.items()},
    }


def _target_info(job: Job) -> TargetInfo:
    known = job.target.fingerprint(job.request.threads)
    return TargetInfo(
        name=known.target,
        runtime=known.runtime,
        version=known.version,
        device=known.device,
        threads=known.threads,
    )

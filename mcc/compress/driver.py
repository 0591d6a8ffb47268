"""The driver of a job: run the strategies, measure, choose, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcc.budget import Figures
from mcc.compress.build import Structure
from mcc.compress.final_measurement import unsure
from mcc.compress.job import Place
from mcc.compress.job_trainer import Trainer
from mcc.compress.outcome import Outcome
from mcc.compress.plan_file import read_plan
from mcc.compress.report_builder import check_file, result_of, tested
from mcc.compress.request import Request
from mcc.compress.results import Delivered, write_results
from mcc.compress.runner import Runner
from mcc.compress.session import Session, opened
from mcc.compress.strategies import strategies
from mcc.compress.workspace import Work
from mcc.errors import ConstraintError
from mcc.report.choose import choose, mark, metric_reference, nearest
from mcc.report.pairs import Pairs, memorised_words
from mcc.report.schema import Report, StrategyResult
from mcc.report.verdict import missed_words

RETRIES = 2
CARE = 0.98  # a plan that missed its budget is planned again, for 2 % more than it missed by
NARROW = 0.85  # of the budget: a larger miss was out of reach, and planning again will not help


def compress_one(request: Request, place: Place, *, plan_file: Path | None = None) -> Report:
    """Compress for one target.

    Args:
        plan_file: Path of a plan.json to follow; None: a plan is computed.

    Raises:
        MccError: As `mcc.compress.compress`.
    """
    if plan_file is None:
        with opened(request, place) as session:
            return run_job(session, command=place.command)
    plan = read_plan(plan_file)
    request = replace(request, plan=plan.structure.key())
    with opened(request, place, plan_file=plan_file, check=plan.check) as session:
        return run_job(session, plan.structure, place.command)


def run_job(session: Session, given: Structure | None = None, command: str = "") -> Report:
    """Run all requested strategies, choose one result, and write everything.

    Args:
        given: A plan to follow instead of the joint one.
        command: Command line that repeats the run, for the report.

    Raises:
        ConstraintError: No strategy keeps every budget, see `mcc.compress.compress`.
    """
    job, planner = session.job, session.planner()
    work = Work(job, session.bench, planner, session.configurations, Trainer(job), session.pool, given)
    runner = Runner(work)
    outcomes = runner.run_all()
    results = measured(session, outcomes)
    for index, outcome in enumerate(outcomes):
        if runner.can_be_tighter(outcome):
            outcomes, results = _within_budget(session, runner, outcomes, results, index)
    return _delivered(session, work, outcomes, results, command)


def _within_budget(
    session: Session, runner: Runner, outcomes: list[Outcome], results: list[StrategyResult], index: int
) -> tuple[list[Outcome], list[StrategyResult]]:
    """The outcomes; one that missed latency budgets narrowly is planned again under tighter ones."""
    share = 1.0
    for _ in range(RETRIES):
        missed = missed_share(session, results[index])
        if missed is None:
            break
        share *= missed  # relative to the given budget: the target of the previous plan was missed as well
        again = runner.tighter(outcomes[index], share)
        outcomes = [*outcomes[:index], again, *outcomes[index + 1 :]]
        results = measured(session, outcomes)
    return outcomes, results


def missed_share(session: Session, result: StrategyResult) -> float | None:
    """The factor by which to tighten latency for a plan that missed the budget narrowly, else None.

    It kept the budget as a trial, and two measurements on a shared machine differ by a few percent or more.
    A miss within the noise has already been timed again, as every result near a limit is, and all sessions
    count: see `mcc.compress.final_measurement`.
    """
    latency, sure = result.latency_us, result.speedup_ci95
    figures = Figures(latency.upper if latency else None, speedup=sure[0] if sure else None)
    excess = session.job.request.budget.of_time.excess(figures)
    return CARE / excess if 1.0 < excess < 1 / NARROW else None


def measured(session: Session, outcomes: Sequence[Outcome]) -> list[StrategyResult]:
    """Figures of all strategies, every file timed in turns with all others, in this run."""
    job, bench = session.job, session.bench
    with job.stage("measure all strategies"):
        job.progress("measure all strategies", 0, 1)
        speeds = bench.final_speeds(
            [outcome.file for outcome in outcomes], doubtful=lambda s: unsure(s, job.request.budget)
        )
        found: list[StrategyResult] = []
        for index, (outcome, speed) in enumerate(zip(outcomes, speeds, strict=True)):
            found.append(result_of(job, bench, outcome, speed))
            job.progress("measure all strategies", index + 1, len(outcomes), outcome.name)
    return found


def _delivered(
    session: Session, work: Work, outcomes: Sequence[Outcome], results: Sequence[StrategyResult], command: str
) -> Report:
    """Choose, check the chosen file, read the test split once, and write everything."""
    job, bench, budget = session.job, session.bench, session.job.request.budget
    references = tuple(name for name, strategy in strategies().items() if strategy.is_reference)
    limits: dict[str, Any] = {
        "baseline": results[0].result, "reference": metric_reference(results, references)
    }  # fmt: skip
    marked = mark(results, budget, **limits)
    statistics = {o.name: bench.statistics(o.file, job.data, "validation") for o in outcomes}
    pairs = Pairs(statistics, job.task)
    failure: ConstraintError | None = None
    try:
        chosen = choose(marked, budget, difference=pairs.difference, **limits)
    except ConstraintError as error:
        error.where = job.name
        failure, chosen = error, nearest(marked, budget, **limits)
        job.warnings.insert(0, missed_words(chosen, budget))
    outcome = next(o for o in outcomes if o.name == chosen.name)
    with job.stage("check the delivered file"):
        checks = check_file(job, outcome, allow_noise=job.request.allow_noise)
    with job.stage(f"test {job.task.metric.name}"):
        files = {o.name: o.file for o in outcomes}
        marked = tuple(tested(m, bench, job, files[m.name]) for m in marked)
        marked = pairs.filled_in(marked, references, chosen.name)
        _warn_of_memorised(session, outcomes[0])
    delivered = Delivered(outcome, chosen, marked, limits["reference"], checks)
    report = write_results(session, work.planner, delivered, command)
    if failure is not None:
        failure.report = report
        raise failure
    return report


def _warn_of_memorised(session: Session, original: Outcome) -> None:
    """Warn if the original seems to have been trained on the validation images."""
    job, bench = session.job, session.bench
    validation, test = (bench.statistics(original.file, job.data, s) for s in ("validation", "test"))
    sentence = memorised_words(validation, test, job.task)
    if sentence:
        job.warn(sentence)

"""Writes the results of a job into its folder: the model, the graphs before and after, plan and report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcc.app.writer import write_app
from mcc.compress.app_facts import app_facts
from mcc.compress.explanation import Choice, explained
from mcc.compress.folder import APP
from mcc.compress.job import Job, save_json
from mcc.compress.outcome import Outcome
from mcc.compress.planning import Planner
from mcc.compress.report_builder import decisions_of, predicted_figure, versions_of
from mcc.compress.session import Session
from mcc.compress.sparse_preparation import sparse_words
from mcc.files import write_beside
from mcc.ir.diff import diff_graphs
from mcc.ir.storage import save_graph
from mcc.metric import ACCURACY
from mcc.quant.regions import integer_nodes
from mcc.report.choose import check_budget
from mcc.report.html import write_html
from mcc.report.schema import PreprocessingInfo, Report, StrategyResult, TargetInfo
from mcc.report.side_by_side import side_by_side
from mcc.report.verdict import with_verdicts


@dataclass(frozen=True)
class Delivered:
    """The chosen result, and all results that it was chosen from.

    Attributes:
        outcome: The delivered outcome.
        chosen: Its figures on the validation split.
        strategies: Figures of all strategies, with those on the test split, the original first.
        reference: Validation metric from which loss is counted.
        checks: Checks of the delivered file as text, by name.
    """

    outcome: Outcome
    chosen: StrategyResult
    strategies: tuple[StrategyResult, ...]
    reference: float | None
    checks: Mapping[str, str]


def write_results(session: Session, planner: Planner, delivered: Delivered, command: str) -> Report:
    """Write all files of `mcc compress`; report.json last: its presence means that all are written."""
    job, outcome = session.job, delivered.outcome
    folder = job.folder
    report = with_verdicts(_report(session, delivered, command))
    save_graph(outcome.graph, folder / "after.mcc", session.notes)
    model = folder / f"model{outcome.file.suffix}"
    write_beside(model, lambda p: shutil.copyfile(outcome.file, p))
    write_app(folder / APP, model, app_facts(job, model, outcome.graph))
    choices = explained(
        planner, outcome.structure, session.configurations, job.task.divergence_unit, session.costs.dates()
    )
    save_json(folder / "plan.json", plan_content(job, outcome, report, choices))
    with job.stage("test pictures"):
        pictures = side_by_side(
            job.target, session.baseline, model, job.data, job.task, job.outputs, job.request.threads
        )
    write_html(report, folder / "report.html", diff_graphs(job.graph, outcome.graph), pictures)
    report.save(folder / "report.json")
    session.bench.final.forget()
    return report


def _report(session: Session, delivered: Delivered, command: str) -> Report:
    job, outcome, chosen = session.job, delivered.outcome, delivered.chosen
    budget, first = job.request.budget, delivered.strategies[0]
    integer = frozenset(node.name for node in integer_nodes(outcome.graph))
    return Report(
        model=job.name,
        data=job.data.name,
        metric=job.task.metric.name,
        target=_target_info(job),
        baseline=first.result,
        compressed=next(m for m in delivered.strategies if m.name == chosen.name).result,
        speedup=chosen.speedup or 1.0,
        speedup_ci95=chosen.speedup_ci95,
        predicted_latency_us=chosen.predicted_latency_us,
        predicted_model_cycles=chosen.predicted_model_cycles,
        budget=budget,
        met=check_budget(chosen, budget, baseline=first.result, reference=delivered.reference),
        accuracy_reference=delivered.reference if job.task.metric == ACCURACY else None,
        metric_reference=delivered.reference,
        validation_images=len(job.data.validation),
        test_images=len(job.data.test),
        chosen_on=job.data.chosen_on,
        strategies=tuple(
            m.model_copy(update={"chosen": m.name == chosen.name}) for m in delivered.strategies
        ),
        decisions=decisions_of(job, outcome, session.costs.model, integer, session.costs.dates()),
        stages={name: round(seconds, 1) for name, seconds in job.stages.items()},
        seed=job.request.seed,
        versions=versions_of(job),
        command=command,
        checks=dict(delivered.checks),
        warnings=tuple(job.warnings),
        at_chance=session.at_chance,
        preprocessing=PreprocessingInfo(**job.stated.to_json()),
        output=job.judged.name if len(job.outputs) > 1 else None,
        verdicts=sparse_words(job, session.passes),
        timed_at=session.bench.final.date,
        remembered=session.bench.remembered,
    )


def plan_content(job: Job, outcome: Outcome, report: Report, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Content of plan.json: the structure, each decision with its predicted cost and source, and the
    alternatives (`mcc explain`)."""
    return {
        "target": job.target.spec,
        "model": job.name,
        "strategy": outcome.name,
        "structure": outcome.structure.as_json(),
        **predicted_figure(job.target, outcome.predicted_cost),
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

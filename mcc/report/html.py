"""`report.html`: a self-contained page without scripts or external resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcc.data.preprocessing import Preprocessing
from mcc.files import write_text
from mcc.ir.diff import GraphDiff
from mcc.metric import ACCURACY, Metric
from mcc.report.formatting import (
    bytes_words,
    constraint_words,
    count_words,
    cycles_words,
    figure_words,
    latency_words,
    time_words,
)
from mcc.report.page import render
from mcc.report.plot import pareto_svg
from mcc.report.schema import Cost, Decision, Report, Result
from mcc.report.side_by_side import SideBySide
from mcc.report.tables import budget_marks, speedup_of
from mcc.report.verdict import headline, with_verdicts

DEFINITIONS = {
    "latency": "median time of one inference in a fresh process, in this run, after warm-up, files taking "
    "turns so that drifts of the machine affect all; outliers are kept. A budget is kept when the upper "
    "95 % bound of the median keeps it; files for which noise could decide that are timed again.",
    "speed-up": "latency of the original float model, lowered the same way, over that of this one.",
    "size": "of the file; kB and MB are powers of ten.",
    "peak memory": "growth of the peak resident memory (in a browser, of the used WebAssembly memory) of a "
    "fresh runner, from before loading the file to after the tenth inference.",
    "MACs, parameters": "multiply-accumulates of one inference, zeros included; weights that are not zero.",
    "cost, measured": "the operator was timed alone in this runtime on this device, on the day named.",
    "cost, fitted": "interpolated by a model fitted to operators that were timed.",
}


def _definitions(metric: Metric) -> dict[str, str]:
    """Definitions of the figures, those of the metric first."""
    way = "" if metric.higher_is_better else " Lower is better."
    good = "accurate" if metric == ACCURACY else f"good in {metric.name}"
    return {
        f"validation {metric.name}": "of the lowered file run in the target's runtime, on images that the "
        f"network was not trained on. All choices use it.{way}",
        f"test {metric.name}": "the same on the test images, computed once, after every choice was made.",
        **DEFINITIONS,
        "Pareto": f"no other strategy is at least as fast and at least as {good}, and better in one of the "
        "two.",
    }


SIMULATED = {
    "model cycles": "a model's estimate for one processor core, from counted instructions, without caches or "
    "memory. It ranks alternatives; it is not a time.",
}


def render_html(report: Report, diff: GraphDiff | None = None, pictures: SideBySide | None = None) -> str:
    """Render the page.

    Args:
        diff: Difference between the graph before and after; None: not shown.
        pictures: Test pictures with the answers before and after; None: not shown.
    """
    from markupsafe import Markup

    report = with_verdicts(report)
    title = headline(report)
    values: dict[str, Any] = {
        "report": report,
        "headline": title,
        "sentences": [sentence for sentence in report.verdicts if sentence != title],
        "budgets": _budgets(report),
        "figures": _figures(report),
        "strategies": _strategies(report),
        "speed_word": "model cycles" if report.simulated else "latency",
        "plot": Markup(pareto_svg(report)),  # generated here; every text in it is escaped
        "has_limit": any(getattr(report.budget, n) for n in ("latency_us", "model_cycles", "speedup")),
        "decisions": _decisions(report),
        "decision_summary": _decision_summary(report),
        "diff": diff,
        "pictures": pictures,
        "preprocessing": _preprocessing(report),
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "remembered": ", ".join(f"{name} of {days}" for name, days in report.remembered.items()),
        "kept": all(report.met.values()),
        "stages": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.stages.items()),
        "definitions": {**_definitions(report.kind), **(SIMULATED if report.simulated else {})},
        "metric": report.kind,
        "most_accurate": "the most accurate"
        if report.kind == ACCURACY
        else f"the best in {report.kind.name}",
    }
    return render("report.html.j2", values)


def _preprocessing(report: Report) -> str:
    """Preprocessing of the images and its source; empty if the report does not state it."""
    found = report.preprocessing
    if found is None:
        return ""
    fields = found.model_dump(exclude={"source"})
    return f"{Preprocessing(**fields).words} ({found.source})"


def write_html(
    report: Report, path: Path | str, diff: GraphDiff | None = None, pictures: SideBySide | None = None
) -> None:
    """Write the page atomically. Raises DataError if it cannot be written."""
    write_text(Path(path), render_html(report, diff, pictures))


def _budgets(report: Report) -> list[dict[str, Any]]:
    return [
        {"words": constraint_words(name, getattr(report.budget, name)), "met": met}
        for name, met in report.met.items()
    ]


def _figures(report: Report) -> list[dict[str, str]]:
    """Each figure before and after, if both are known."""

    def row(label: str, result: Result) -> dict[str, str | None]:
        memory = result.peak_memory_bytes
        split = "validation" if result.test is None else "test"
        return {
            "model cycles" if report.simulated else "latency": latency_words(
                result.latency_us, result.model_cycles
            ),
            "file size": bytes_words(result.size_bytes),
            "peak memory": None if memory is None else bytes_words(memory),
            f"{split} {report.kind.name}": figure_words(result.test or result.validation),
            "MACs": count_words(result.macs),
            "parameters": count_words(result.params),
        }

    before, after = row("before", report.baseline), row("after", report.compressed)
    return [
        {"label": label, "before": was, "after": now}
        for label, now in after.items()
        if now is not None and (was := before.get(label)) is not None
    ]


def _strategies(report: Report) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for strategy in report.strategies:
        speedup, memory = speedup_of(report.baseline, strategy), strategy.peak_memory_bytes
        rows.append(
            {
                "name": strategy.name,
                "chosen": strategy.chosen,
                "front": strategy.on_pareto_front,
                "validation": figure_words(strategy.validation),
                "test": figure_words(strategy.test),
                "latency": latency_words(strategy.latency_us, strategy.model_cycles),
                "speedup": "–" if speedup is None else f"{speedup:.2f}x",
                "size": bytes_words(strategy.size_bytes),
                "memory": "–" if memory is None else bytes_words(memory),
                "budgets": budget_marks(strategy),
            }
        )
    return rows


def _cost_words(cost: Cost | None) -> str:
    if cost is None:
        return "–"
    return time_words(cost.value) if cost.latency_us is not None else cycles_words(cost.value)


def _implementation(decision: Decision) -> str:
    if decision.implementation == "sparse":
        pattern = f", in blocks of {decision.block}" if decision.block and decision.block > 1 else ""
        return f"sparse, {100 * decision.sparsity:.0f} % zeros{pattern}"
    if decision.implementation == "low-rank" and decision.rank is not None:
        return f"low-rank, {decision.rank} inner channels"
    return decision.implementation


def _decisions(report: Report) -> list[dict[str, Any]]:
    largest = max(
        (cost.value for d in report.decisions for cost in (d.cost_before, d.cost_after) if cost), default=0.0
    )

    def share(cost: Cost | None) -> float | None:
        return None if cost is None or not largest else round(100 * cost.value / largest, 1)

    return [
        {
            "node": d.node,
            "kind": d.kind,
            "note": d.note,
            "channels": str(d.channels_after) if d.channels_after == d.channels_before
            else f"{d.channels_before} → {d.channels_after}",
            "implementation": _implementation(d),
            "precision": d.precision,
            "before": _cost_words(d.cost_before),
            "after": _cost_words(d.cost_after),
            "before_share": share(d.cost_before),
            "after_share": share(d.cost_after),
            "source": _source(d.cost_after),
        }
        for d in report.decisions
    ]  # fmt: skip


def _source(cost: Cost | None) -> str:
    """Source of a cost, with the day of measurement: operators may have been timed in an earlier run."""
    if cost is None:
        return "–"
    return f"{cost.source} {cost.measured_on}" if cost.measured_on else cost.source


def _decision_summary(report: Report) -> str:
    """Numbers of layers that were pruned, made sparse, low-rank and int8."""
    decisions = report.decisions
    counts = {
        "narrower": sum(d.channels_after < d.channels_before for d in decisions),
        "sparse": sum(d.implementation == "sparse" for d in decisions),
        "low-rank": sum(d.implementation == "low-rank" for d in decisions),
        "on integers": sum(d.precision != "float" for d in decisions),
    }
    parts = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    return f"Of {len(decisions)} layers: {parts or 'none was changed'}."

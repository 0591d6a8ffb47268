"""The verdict as text: gains, costs, and strategies that did not help, with reasons.

Every sentence is derived from the figures of the report, so that it never claims more than they do.
"""

from __future__ import annotations

from mcc.budget import Budget
from mcc.report.figures import MetricFigure
from mcc.report.formatting import (
    bytes_words,
    constraint_label,
    constraint_words,
    cycles_words,
    figure_words,
    is_nothing,
    latency_words,
    loss_words,
    number_words,
    time_words,
    value_words,
)
from mcc.report.schema import Report, StrategyResult
from mcc.report.tables import speedup_of

UNIFORM_WIDTH = "uniform-width"
"""Name of the strategy with uniform width."""


NOTHING = 0.05
"""A speed-up within 5 % of one is reported as none: it would not be noticed."""


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    if report.chosen is not None and report.chosen.name == "original":
        return "No strategy beats the original under these budgets: it is delivered unchanged."
    gains = [_speed_gain(report), _share_gain(report)]
    gained = " and ".join(gain for gain in gains if gain) or "Neither faster nor smaller"
    return f"{gained[0].upper()}{gained[1:]}, {_price(report)}."


def _speed_gain(report: Report) -> str:
    if report.speedup >= 1 + NOTHING:
        return f"{report.speedup:.2f}x faster"
    return f"{1 / report.speedup:.2f}x slower" if report.speedup <= 1 - NOTHING else ""


def _share_gain(report: Report) -> str:
    share = 1 - report.compressed.size_bytes / max(1, report.baseline.size_bytes)
    return f"{100 * share:.0f} % smaller" if share >= NOTHING else ""


def _price(report: Report) -> str:
    metric = report.kind
    if report.at_chance:
        level = "above" if metric.higher_is_better else "better than"
        return f"and the cost in {metric.name} is unknown, since the original is not {level} chance"
    before, after, where = report.baseline.test, report.compressed.test, "test"
    if before is None or after is None:
        before, after, where = report.baseline.validation, report.compressed.validation, "validation"
    if before is None or after is None:
        return f"at a cost in {metric.name} that was not measured"
    lost = metric.lost(before.value, after.value)
    if is_nothing(metric, lost, before.value):
        return (
            f"at no loss of {where} {metric.name}" if metric.higher_is_better else _same(where, metric.name)
        )
    amount = loss_words(metric, abs(lost))
    if not metric.higher_is_better:
        return f"and its {where} {metric.name} is {amount} {'higher' if lost > 0 else 'lower'}"
    return (
        f"and {amount} of {where} {metric.name} gained"
        if lost < 0
        else f"for {amount} of {where} {metric.name}"
    )


def _same(where: str, name: str) -> str:
    return f"and its {where} {name} is no higher"


def verdicts(report: Report) -> tuple[str, ...]:
    """All sentences: headline, speed, size and memory, metric, budgets, prediction, strategies."""
    sentences = [headline(report), _speed(report), _size(report), _metric(report), _budgets(report)]
    sentences += [_prediction(report), _family(report)]
    sentences += [_unhelpful(report, strategy) for strategy in report.strategies]
    return tuple(sentence for sentence in sentences if sentence)


def with_verdicts(report: Report) -> Report:
    """The report with verdicts computed from its figures, before those that it has already."""
    derived = verdicts(report)
    added = tuple(sentence for sentence in report.verdicts if sentence not in derived)
    return report.model_copy(update={"verdicts": derived + added})


def _speed(report: Report) -> str:
    after = latency_words(report.compressed.latency_us, report.compressed.model_cycles)
    before = latency_words(report.baseline.latency_us, report.baseline.model_cycles)
    interval = report.speedup_ci95
    sure = f" (95 % interval {interval[0]:.2f}x to {interval[1]:.2f}x)" if interval else ""
    verb = "is modelled as" if report.simulated else "takes"
    return f"One inference {verb} {after} instead of {before}: a ratio of {report.speedup:.2f}{sure}."


def _size(report: Report) -> str:
    before, after = report.baseline, report.compressed
    share = 100 * after.size_bytes / max(1, before.size_bytes)
    text = f"The file has {bytes_words(after.size_bytes)} instead of {bytes_words(before.size_bytes)}"
    text += f" ({share:.0f} %)"
    if before.peak_memory_bytes is not None and after.peak_memory_bytes is not None:
        peak = f"{bytes_words(after.peak_memory_bytes)} instead of {bytes_words(before.peak_memory_bytes)}"
        text += f", and the runtime needs {peak} of memory at its peak"
    return text + "."


def _metric(report: Report) -> str:
    """The metric before and after on the test images, and against the reference on the validation images."""
    before, after, metric = report.baseline.test, report.compressed.test, report.kind
    if before is None or after is None:
        return ""
    images = f" on {report.test_images:,} test images" if report.test_images else ""
    text = f"The {report.metric}{images} is {figure_words(after)}{_sure(report, after)} instead of "
    text += figure_words(before)
    valid, reference = report.compressed.validation, report.reference
    if valid is not None and reference is not None:
        lost = metric.lost(reference, valid.value)
        word = f"{loss_words(metric, abs(lost))} {_lost_word(report, lost)}"
        word = "nothing lost" if is_nothing(metric, lost, reference) else word
        text += f"; on the validation images, {word} against the best the original reaches, trained on or not"
        chosen = report.chosen
        if chosen is not None and chosen.lost_ci95 is not None:
            low, high = chosen.lost_ci95
            text += f" (lost in pairs on the same images: 95 % interval {_ends(report, low, high)})"
    return text + (". Lower is better." if not metric.higher_is_better else ".")


def _lost_word(report: Report, lost: float) -> str:
    if report.kind.higher_is_better:
        return "lost" if lost > 0 else "gained"
    return "more" if lost > 0 else "less"


def _ends(report: Report, low: float, high: float) -> str:
    """Both ends of an interval of a loss, with signs and the unit."""
    if report.kind.is_fraction:
        return f"{low:+.2f} to {high:+.2f} points"
    signed = [f"{'-' if end < 0 else '+'}{number_words(abs(end))}" for end in (low, high)]
    return f"{signed[0]} to {signed[1]} {report.kind.unit}".strip()


def _sure(report: Report, figure: MetricFigure) -> str:
    """The 95 % interval of a test metric as text; empty if unknown."""
    low, high = figure.low, figure.high
    if (low is None or high is None) and figure.name == "accuracy" and report.test_images:
        from mcc.data.interval import wilson

        found = wilson(round(figure.value * report.test_images), report.test_images)
        low, high = found.low, found.high
    if low is None or high is None:
        return ""
    return f" (95 % interval {value_words(figure.metric, low)} to {value_words(figure.metric, high)})"


def _budgets(report: Report) -> str:
    if not report.met:
        return ""
    missed = [name for name, held in report.met.items() if not held]
    asked = [constraint_words(name, getattr(report.budget, name)) for name in (missed or report.met)]
    return f"{'Not kept' if missed else 'Every budget is kept'}: {', '.join(asked)}."


def missed_words(delivered: StrategyResult, budget: Budget) -> str:
    """The warning of a report in which no strategy keeps every budget."""
    missed = [name for name, held in delivered.keeps_budgets.items() if not held]
    asked = ", ".join(constraint_words(name, getattr(budget, name)) for name in missed)
    return (
        f"No result keeps every budget. The delivered one ({delivered.name}) comes nearest, and does not "
        f"keep {asked}."
    )


def _prediction(report: Report) -> str:
    measured = report.compressed.cost
    predicted = report.predicted_latency_us or report.predicted_model_cycles
    if predicted is None or measured is None:
        return ""
    words = time_words(predicted) if report.predicted_latency_us else cycles_words(predicted)
    off = 100 * (predicted / measured - 1)
    side = "above" if off >= 0 else "below"
    return (
        f"The prediction before the first measurement was {words}: {abs(off):.1f} % {side} the final figure."
    )


def _family(report: Report) -> str:
    """Whether a uniform width, which needs no plan, would do as well."""
    even = next((s for s in report.strategies if s.name == UNIFORM_WIDTH), None)
    chosen = report.chosen
    if even is None or chosen is None or chosen.name in (UNIFORM_WIDTH, "original", "original-trained"):
        return ""
    if not even.keeps_all:
        return "No uniform width that was tried keeps the budgets." if even.keeps_budgets else ""
    theirs, ours, name = even.validation, chosen.validation, report.kind.name
    if theirs is None or ours is None or even.behind_ci95 is None:
        return ""
    figures = f"with uniform width and the same training, it keeps the budgets at {figure_words(theirs)}"
    if even.behind_ci95[0] <= 0:  # the same images do not tell them apart
        return f"A narrower network of the same family would do as well: {figures} validation {name}."
    instead = f"validation {name}, not {figure_words(ours)}"
    return f"A narrower network of the same family does less well: {figures} {instead}."


def _unhelpful(report: Report, strategy: StrategyResult) -> str:
    """A sentence on a strategy without speed-up, or with notes; empty for the others."""
    speedup = speedup_of(report.baseline, strategy)
    notes = " ".join(strategy.notes)
    if strategy.name.startswith("original") or speedup is None or strategy.chosen:
        return notes
    if speedup <= 1 - NOTHING:
        return f"{strategy.name}: slower than the original here, {speedup:.2f}x. {notes}".strip()
    if speedup < 1 + NOTHING:
        return f"{strategy.name}: no faster than the original here, {speedup:.2f}x. {notes}".strip()
    kept = strategy.keeps_budgets
    missed = [constraint_label(name, report.kind) for name, held in kept.items() if not held]
    if not missed:
        return f"{strategy.name}: {notes}" if notes else ""
    return (
        f"{strategy.name}: {speedup:.2f}x, but misses the budget for {' and '.join(missed)}. {notes}".strip()
    )

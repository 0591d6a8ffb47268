"""The Pareto plot as an accessible inline SVG in the page's colours."""

from __future__ import annotations

import html
import io
import re
from typing import Any

from mcc.metric import Metric
from mcc.report.formatting import figure_words, latency_words
from mcc.report.schema import Report, StrategyResult

LABEL_SHARE = 0.035  # of the plot's width and height: about the size of a two-digit label
INCHES = (5.4, 3.7)  # 389 points wide: text of 12 points stays readable on a phone 390 pixels wide

# Placeholders for matplotlib, replaced by the page's own colours.
COLOURS = {
    "#010101": "currentColor",
    "#020202": "var(--line)",
    "#030303": "var(--accent)",
    "#040404": "var(--muted)",
    "#050505": "var(--bad)",
}
TEXT, LINE, ACCENT, MUTED, BAD = COLOURS


def pareto_svg(report: Report) -> str:
    """Speed against the validation metric of all strategies, numbered as in the table; "" without figures."""
    points = [
        (number, strategy)
        for number, strategy in enumerate(report.strategies, 1)
        if strategy.cost is not None and strategy.validation is not None
    ]
    if not points:
        return ""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mcc",
        "font.size": 12,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(settings):
        figure = _draw(report, points)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), f"Speed against {report.kind.name}", describe(report))


def describe(report: Report) -> str:
    """Text description of the plot."""
    words: list[str] = []
    for number, strategy in enumerate(report.strategies, 1):
        if strategy.cost is None or strategy.validation is None:
            continue
        speed = latency_words(strategy.latency_us, strategy.model_cycles)
        marks = ", chosen" if strategy.chosen else ", on the front" if strategy.on_pareto_front else ""
        words.append(f"{number} {strategy.name}: {speed}, {figure_words(strategy.validation)}{marks}")
    return "; ".join(words)


def _scale(report: Report) -> tuple[float, str]:
    """Divisor of the speed figures, and label of the axis."""
    if report.simulated:
        return 1e6, "million model cycles per inference"
    largest = max(s.cost for s in report.strategies if s.cost is not None)
    return (1e3, "milliseconds per inference") if largest >= 2000 else (1.0, "microseconds per inference")


def _draw(report: Report, points: list[tuple[int, StrategyResult]]) -> Any:
    from matplotlib.figure import Figure

    divisor, label = _scale(report)
    figure = Figure(figsize=INCHES, layout="constrained")
    axes: Any = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LINE)
    axes.tick_params(colors=TEXT, color=LINE)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(label, color=TEXT)
    axes.set_ylabel(_metric_label(report.kind), color=TEXT)
    axes.margins(0.12)
    front = sorted(_place(s, divisor) for _, s in points if s.on_pareto_front)
    if front:
        axes.step([cost for cost, _ in front], [value for _, value in front], where="post",
                  color=ACCENT, linewidth=1.4, alpha=0.7)  # fmt: skip
    limit = report.budget.time_limit(report.baseline.cost)
    if limit is not None:
        axes.axvline(limit / divisor, color=BAD, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate("budget", (limit / divisor, 0), xycoords=("data", "axes fraction"), color=BAD,
                      xytext=(4, 3), textcoords="offset points", va="bottom")  # fmt: skip
    for _, strategy in sorted(points, key=lambda point: point[1].chosen):  # the star is drawn last
        _point(axes, strategy, divisor)
    for numbers, strategies in _together(points):
        _label(axes, numbers, strategies, divisor)
    return figure


def _metric_label(metric: Metric) -> str:
    """Label of the metric's axis."""
    unit = "%" if metric.is_fraction else metric.unit
    way = "" if metric.higher_is_better else f" ({metric.direction})"
    return f"validation {metric.name}{f', {unit}' if unit else ''}{way}"


def _height(strategy: StrategyResult) -> float:
    """The validation metric in units of the axis: fractions in percent."""
    found = strategy.validation
    return 0.0 if found is None else found.metric.scale * found.value


def _place(strategy: StrategyResult, divisor: float) -> tuple[float, float]:
    return (strategy.cost or 0.0) / divisor, _height(strategy)


def _point(axes: Any, strategy: StrategyResult, divisor: float) -> None:
    colour = ACCENT if strategy.chosen or strategy.on_pareto_front else MUTED
    axes.plot(*_place(strategy, divisor), marker="*" if strategy.chosen else "o",
              markersize=15 if strategy.chosen else 8, color=colour, linestyle="none")  # fmt: skip


def _together(points: list[tuple[int, StrategyResult]]) -> list[tuple[list[int], list[StrategyResult]]]:
    """Groups of points whose labels would overlap; each group gets one label."""
    costs = [s.cost or 0.0 for _, s in points]
    scores = [_height(s) for _, s in points]
    wide = (max(costs) - min(costs)) or 1.0
    high = (max(scores) - min(scores)) or 1.0
    groups: list[tuple[list[int], list[StrategyResult]]] = []
    for number, strategy in points:
        for numbers, strategies in groups:
            first = strategies[0]
            across = abs((first.cost or 0.0) - (strategy.cost or 0.0)) / wide
            up = abs(_height(first) - _height(strategy)) / high
            if across < LABEL_SHARE and up < LABEL_SHARE:
                numbers.append(number)
                strategies.append(strategy)
                break
        else:
            groups.append(([number], [strategy]))
    return groups


def _label(axes: Any, numbers: list[int], strategies: list[StrategyResult], divisor: float) -> None:
    chosen = any(strategy.chosen for strategy in strategies)
    right = max(strategies, key=lambda s: s.cost or 0.0)
    axes.annotate(", ".join(map(str, numbers)), _place(right, divisor), xytext=(7, 5), color=TEXT,
                  textcoords="offset points", fontweight="bold" if chosen else "normal")  # fmt: skip


def _inline(svg: str, title: str, description: str) -> str:
    """The bare `<svg>` element: no prologue, no metadata, page colours, a title and a description."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    # In an inline SVG, styles would affect the page, and namespaces are not needed; the page's font is used.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]+", "font-family: inherit", svg)
    title = html.escape(title)
    titles = f"<title>{title}</title><desc>{html.escape(description)}</desc>"
    head, rest = svg.split(">", 1)
    return f'{head} role="img" aria-label="{title} of the strategies">{titles}{rest}'.strip()

"""Measure loading and scrolling of the page of `mcc diff --html` for two graphs of 1,000 nodes, in Chromium.

    python -m tools.checks.diff_page [-o docs/results/diff_page.md] [--picture diff.png]

The second graph is the first with its batch norms folded and half of its channels removed, so that most rows
contain a change; unchanged ones are shown, too. The page is scrolled from top to bottom by half a screen per
frame. Frames are late on a busy machine, so the processor time of the browser's main thread is reported as
well: 16.7 ms per frame allow 60 frames a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcc.ir.diff import diff_views, view_graph
from mcc.pipeline import Pipeline, RunOptions
from mcc.report.diff_html import write_diff_html
from tests.property.networks import chain
from tests.runtime.chromium import opened

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession

OPERATORS = 1000
CHANGES = "fold-batch-norm,prune-channels{keep=0.5}"
LONG_MS = 50.0

LOADED = "(() => { const n = performance.getEntriesByType('navigation')[0]; return n.loadEventEnd; })()"
SCROLL = """() => new Promise(done => {
  const steps = [], half = innerHeight / 2;
  let last = performance.now();
  function step(now) {
    steps.push(now - last);
    last = now;
    const end = document.documentElement.scrollHeight - innerHeight;
    if (scrollY >= end - 1) return done({steps: steps.slice(1), height: end + innerHeight});
    scrollTo(0, scrollY + half);
    requestAnimationFrame(step);
  }
  requestAnimationFrame(now => { last = now; requestAnimationFrame(step); });
})"""


def write_page(path: Path) -> int:
    """Write the page of the two graphs; returns the number of pairs of nodes."""
    before = chain(OPERATORS)
    after = Pipeline.parse(CHANGES).run(before, options=RunOptions(verify=False)).graph
    found = diff_views(view_graph(before), view_graph(after))
    write_diff_html(found, path, "before.mcc", "after.mcc")
    return len(found.entries)


def look(path: Path, picture: Path | None) -> dict[str, Any]:
    """Open the page, show all rows, scroll to the end; returns the browser's measurements."""
    with opened("about:blank") as page:
        browser = page.context.new_cdp_session(page)
        browser.send("Performance.enable")
        page.goto(path.as_uri(), wait_until="load")
        loaded = float(page.evaluate(LOADED))
        opening_s = _thread_s(browser)
        page.check("#same")
        before_s = _thread_s(browser)
        scrolled = page.evaluate(SCROLL)
        scrolling_s = _thread_s(browser) - before_s
        if picture is not None:
            page.evaluate("scrollTo(0, 1500)")
            page.screenshot(path=picture)
    return {"loaded_ms": loaded, "opening_s": opening_s, "scrolling_s": scrolling_s, **scrolled}


def _thread_s(browser: CDPSession) -> float:
    """Processor time of the page's main thread so far."""
    metrics = browser.send("Performance.getMetrics")["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "ThreadTime")


def main() -> None:
    """Measure, print, and optionally write the page of results."""
    parser = argparse.ArgumentParser(description="how the page of mcc diff --html opens and scrolls")
    parser.add_argument("-o", "--output", type=Path, help="write the table there")
    parser.add_argument("--picture", type=Path, help="write a screenshot there")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "diff.html"
        rows = write_page(path)
        size = path.stat().st_size
        runs = [look(path, options.picture) for _ in range(options.repeats)]
    lines = [
        f"{rows} rows, {size / 1e6:.2f} MB, {runs[0]['height']:.0f} pixels high; load average "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        "",
        "| run | loaded, ms | processor, ms | frames | processor, ms a frame | median frame, ms "
        "| frames of 50 ms and more |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for number, run in enumerate(runs, 1):
        steps = [float(step) for step in run["steps"]]
        cells = [
            *(f"{run['loaded_ms']:.0f}", f"{1e3 * run['opening_s']:.0f}", f"{len(steps)}"),
            *(f"{1e3 * run['scrolling_s'] / len(steps):.1f}", f"{statistics.median(steps):.1f}"),
            f"{sum(step >= LONG_MS for step in steps)}",
        ]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if options.output is not None:
        head = "# `mcc diff --html` of two large graphs\n\n" + " ".join(
            (__doc__ or "").split("\n\n")[2].split()
        )
        options.output.write_text(f"{head} By `python -m tools.checks.diff_page`.\n\n{table}")


if __name__ == "__main__":
    main()

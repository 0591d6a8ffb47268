"""Scaling of passes with the graph: CPU seconds on chains and trees of 1,000 to 10,000 operators.

    python -m tools.growth
    python -m tools.growth --network tv/resnet50    capture, prune, verify, print one network of the zoo at
    224

Passes run unverified; the last column is prune-channels with verification, for the smallest and largest
graph. The last row for each kind of graph is the ratio of the largest to the smallest: n log n allows 13.3
from 1,000 to 10,000.
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import time
from collections.abc import Callable

import torch

from mcc.analysis.channel_groups import analyse_channels
from mcc.frontend import capture
from mcc.ir.graph import Graph
from mcc.ir.text import print_graph
from mcc.pipeline import Pipeline, RunOptions
from tests.property.networks import chain, tree
from tools.public_models.catalogue import Architecture

SIDE = 224  # pixels
SIZES = (1000, 2000, 5000, 10_000)
PIPELINES = (
    *("prune-channels{keep=0.5}", "sparsify-1x1{sparsity=0.5}", "factorize-1x1{rank=0.25}"),
    *("fold-batch-norm", "fuse-activation", "drop-identity", "drop-dead-code", "fold-constants"),
    *("equalise-cross-layer", "decompose{of=all}", "replace-activation{of=relu6}"),
)


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Least CPU time of several calls, with the collector of cyclic garbage disabled.

    Other processes do not change CPU time itself, but they empty the caches; and the collector's time depends
    on all earlier objects, not on the call.
    """
    least = math.inf
    for _ in range(repeats):
        gc.collect()
        gc.disable()
        start = time.process_time()
        run()
        least = min(least, time.process_time() - start)
        gc.enable()
    return least


def measure(graph: Graph, proved: bool, repeats: int) -> list[float]:
    """CPU seconds of the channel analysis, of each pass, and optionally of verified pruning."""
    row = [cpu_seconds(lambda: analyse_channels(graph), repeats)]
    for text in PIPELINES:
        pipeline, options = Pipeline.parse(text), RunOptions(verify=False)
        row.append(cpu_seconds(lambda p=pipeline, o=options: p.run(graph, None, o), repeats))
    if proved:
        pruning = Pipeline.parse(PIPELINES[0])
        row.append(cpu_seconds(lambda: pruning.run(graph), 1))
    return row


def one_network(name: str) -> str:
    """Seconds and peak memory of this process for capturing, pruning, verifying and printing a network."""
    begin, at = time.perf_counter(), time.process_time()
    module = Architecture(name, side=SIDE).build()
    spent: dict[str, float] = {}

    def lap(label: str) -> None:
        nonlocal at
        spent[label], at = time.process_time() - at, time.process_time()

    lap("build")
    graph = capture(module, (torch.zeros(1, 3, SIDE, SIDE),))
    lap("capture")
    pruned = Pipeline.parse(PIPELINES[0]).run(graph).graph
    lap("prune and verify")
    text = print_graph(pruned)
    lap("print")
    words = ", ".join(f"{label} {seconds:.1f} s" for label, seconds in spent.items())
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return (
        f"{name} at {SIDE}x{SIDE}: {time.perf_counter() - begin:.1f} s, of one processor {words}; "
        f"at most {peak_gb:.2f} GB; {len(text.splitlines())} lines"
    )


def main() -> None:
    """Print a table in Markdown, or the figures of one network."""
    parser = argparse.ArgumentParser(description="scaling of passes with the graph")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs, of which the fastest counts")
    parser.add_argument("--network", metavar="NAME", help="architecture of the zoo to run instead")
    options = parser.parse_args()
    repeats = options.repeats
    torch.set_num_threads(1)
    if options.network:
        print(one_network(options.network))
        return
    columns = ["graph", "analysis", *PIPELINES, "proved"]
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    for make in (chain, tree):
        rows: list[list[float]] = []
        for size in SIZES:
            rows.append(measure(make(size), size in (SIZES[0], SIZES[-1]), repeats))
            cells = [f"{seconds:.3f}" for seconds in rows[-1]] + [""] * (len(columns) - 1 - len(rows[-1]))
            print(f"| {make.__name__} {size} | {' | '.join(cells)} |", flush=True)
        times = " | ".join(f"{last / first:.1f}" for first, last in zip(rows[0], rows[-1], strict=True))
        print(f"| {make.__name__}, times | {times} |", flush=True)


if __name__ == "__main__":
    main()

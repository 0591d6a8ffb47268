"""How passes grow with the graph: CPU seconds on chains and trees of 1,000 to 10,000 operators.

    python -m tools.growth

Passes run unverified; the last column is prune-channels with its proof, of the smallest and largest graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from mcc.analysis.channel_groups import analyse_channels
from mcc.pipeline import Pipeline, RunOptions
from tests.property.networks import chain, tree

SIZES = (1000, 2000, 5000, 10_000)
PIPELINES = (
    *("prune-channels{keep=0.5}", "sparsify-1x1{sparsity=0.5}", "factorize-1x1{rank=0.25}"),
    *("fold-batch-norm", "fuse-activation", "drop-identity", "drop-dead-code", "fold-constants"),
    *("equalise-cross-layer", "decompose{of=all}", "replace-activation{of=relu6}"),
)


def cpu_seconds(run: Callable[[], object]) -> str:
    """CPU time of one call, which other processes do not change."""
    start = time.process_time()
    run()
    return f"{time.process_time() - start:.2f}"


def main() -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    columns = ["graph", "analysis", *PIPELINES, "proved"]
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    for make in (chain, tree):
        for size in SIZES:
            graph = make(size)
            row = [cpu_seconds(lambda graph=graph: analyse_channels(graph))]
            for text in PIPELINES:
                pipeline, options = Pipeline.parse(text), RunOptions(verify=False)
                row.append(cpu_seconds(lambda p=pipeline, g=graph, o=options: p.run(g, None, o)))
            if size in (SIZES[0], SIZES[-1]):
                pruning = Pipeline.parse(PIPELINES[0])
                row.append(cpu_seconds(lambda p=pruning, g=graph: p.run(g)))
            print(f"| {make.__name__} {size} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

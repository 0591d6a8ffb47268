"""Verify every pass on random graphs over the whole op table; graph number n is always the same.

    python -m tools.random_graphs --count 10000
    python -m tools.random_graphs --count 10000 --state long.json   the same, resumable
    python -m tools.random_graphs --start 1234 --count 1 --show     one graph again, printed

Each pass runs verified (structure, shapes at two batch sizes, values against its exact twin) and a second
time, which must change nothing. Ends with a table and exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from mcc.errors import MccError, Refusal
from mcc.ir.canonical import check_shapes, check_structure
from mcc.ir.graph import Graph, copy_graph, inputs
from mcc.ir.text import parse_graph, print_graph, text_constants
from mcc.pass_api import PassContext, all_passes
from mcc.pipeline import Pipeline, RunOptions, differs
from tests.property.graphs import (
    Seeded,
    batch_of,
    random_graph,
    with_constant_calls,
    with_dead_code,
    with_frozen_nodes,
    with_keep_notes,
)

# Passes that do nothing with their defaults; all others run with them.
OPTIONS = {
    "prune-channels": ("{keep=0.5}", "{keep=0.7 round=2}", ""),
    "replace-activation": ("", "{of=relu6}"),
    "decompose": ("{of=all}", "{of=int8}"),
    "freeze-nodes": ("{match=*2d*}",),
    "factorize-1x1": ("{rank=0.3}",),
    "sparsify-1x1": ("{sparsity=0.5}", "{sparsity=0.75 block=2}"),
}


def pipelines() -> list[str]:
    """Every pass of `passes/`, with options with which it has an effect."""
    return [name + options for name in all_passes() for options in OPTIONS.get(name, ("",))]


@functools.cache
def parsed(text: str) -> Pipeline:
    """Parse a pipeline; cached, since finding the passes takes as long as some of them."""
    return Pipeline.parse(text)


def graph_number(seed: int, steps: int, without: Sequence[str] = ()) -> Graph:
    """Random graph `seed`; of every three one has notes of channels to keep, and one also frozen nodes.

    Every fifth has operators without readers, and weights that are computed from constants.
    """
    graph = random_graph(Seeded(seed), steps, without)
    if seed % 3:
        with_keep_notes(graph, Seeded(-seed))
    if seed % 3 == 2:
        with_frozen_nodes(graph, Seeded(-seed))
    if seed % 5 == 0:
        with_dead_code(with_constant_calls(graph, Seeded(seed)), Seeded(seed))
    return graph


def prove(graph: Graph, text: str, seed: int, before: Graph | None = None) -> str:
    """Run a pipeline of one pass. Returns `changed`, `unchanged`, `refused`, or the failure.

    Args:
        before: Copy of the graph, which the pass must not change; one copy serves all passes.
    """
    batch = (batch_of(graph, 4, seed)[0],) if len(inputs(graph)) == 1 else ()
    pipeline, context = parsed(text), PassContext(batch)
    before = before or copy_graph(graph)
    try:
        result = pipeline.run(graph, context)
        if differs(before, graph):
            return "FAILED: the pass changed the graph that it was given"
        if not result.reports[0].changed:  # text and constants are equal: a second run would be the same run
            return "unchanged"
        again = pipeline.run(result.graph, context, RunOptions(verify=False))
    except Refusal:
        return "refused"
    except MccError as error:
        unproved = "no output is finite" in error.message
        return "unprovable" if unproved else f"FAILED: {error}"
    return "FAILED: a second run changes the graph" if again.reports[0].changed else "changed"


def print_and_parse(graph: Graph) -> str:
    """Whether the graph is canonical, prints and parses back to itself."""
    check_structure(graph)
    check_shapes(graph)
    printed = print_graph(graph)
    same = print_graph(parse_graph(printed, text_constants(graph))) == printed
    return "unchanged" if same else "FAILED: it does not parse back to itself"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=int, default=0, help="first graph")
    parser.add_argument("--count", type=int, default=1000, help="number of graphs")
    parser.add_argument("--steps", type=int, default=12, help="maximum number of random steps of a graph")
    parser.add_argument("--show", action="store_true", help="print each graph")
    parser.add_argument("--out", type=Path, help="write the table there, too")
    parser.add_argument("--state", type=Path, help="file for the state, to resume")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Counter[str]] = {text: Counter() for text in ("print and parse", *pipelines())}
    done, before = read_state(options.state, options.start, found)
    began = time.monotonic() - before
    for seed in range(options.start + done, options.start + options.count):
        graph = graph_number(seed, options.steps)
        if options.show:
            print(print_graph(graph))
        copied = copy_graph(graph)
        for text, counts in found.items():
            said = print_and_parse(graph) if text == "print and parse" else prove(graph, text, seed, copied)
            counts[said.split(":")[0]] += 1
            if said.startswith("FAILED"):
                print(f"graph {seed}, {text}: {said}", flush=True)
        done += 1
        if options.state and (done % 20 == 0 or done == options.count):
            write_state(options.state, options.start, done, time.monotonic() - began, found)
    table = report(found, options.start, options.count, time.monotonic() - began)
    print(table)
    if options.out:
        options.out.write_text(table)
    return 1 if any(counts["FAILED"] for counts in found.values()) else 0


def read_state(path: Path | None, start: int, found: dict[str, Counter[str]]) -> tuple[int, float]:
    """Number of graphs of an earlier run and its seconds; its counts are added to `found`.

    Raises SystemExit if it had another start or other passes.
    """
    if path is None or not path.exists():
        return 0, 0.0
    state = json.loads(path.read_text())
    if state["start"] != start or set(state["counts"]) != set(found):
        raise SystemExit(f"{path}: belongs to another start or other passes; name another --state")
    for text, counts in state["counts"].items():
        found[text].update(counts)
    return int(state["done"]), float(state["seconds"])


def write_state(path: Path, start: int, done: int, seconds: float, found: dict[str, Counter[str]]) -> None:
    """Write the state atomically."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps({"start": start, "done": done, "seconds": seconds, "counts": found}))
    beside.replace(path)


def report(found: dict[str, Counter[str]], start: int, count: int, seconds: float) -> str:
    """The table, as Markdown."""
    columns = ("changed", "unchanged", "refused", "unprovable", "FAILED")
    lines = [
        f"Graphs {start} to {start + count - 1}, torch {torch.__version__}, {seconds:.0f} s:",
        f"`python -m tools.random_graphs --start {start} --count {count}`",
        "",
        f"| pass | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for text, counts in found.items():
        lines.append(f"| {text} | " + " | ".join(str(counts[column]) for column in columns) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

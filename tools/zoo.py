"""The zoo: public architectures with random weights through the complete toolchain, one process each.

    python -m tools.zoo                          all of them; resumable
    python -m tools.zoo tv/resnet18 timm/dla34   run these again
    python -m tools.zoo --pruning                the 76 networks of Torch-Pruning's list, pruned by half
    python -m tools.zoo --memory 20 --seconds 900 tv/regnet_y_128gf     one that is larger than the rest
    python -m tools.zoo --page                   only write docs/results/zoo.md from the results

torchvision and timm are installed by `bash tools/test`. Results are in out/zoo/, one JSON file for each
network; a network with a result is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from tools.public_models.catalogue import ALL, TORCHVISION
from tools.public_models.chain import serve
from tools.public_models.page import pruning_part, write_page

POLL_S = 0.2
RESULTS = Path("out/zoo")
PAGE = Path("docs/results/zoo.md")

Stages = dict[str, dict[str, Any]]

# glibc keeps freed blocks of up to 32 MB once it has seen such large ones, and most weights are smaller. With
# a fixed threshold, memory that a network freed counts as freed.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 20))

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tools.public_models.preload"])


def run_one(name: str, pruning: bool, memory: int, cpu_s: float) -> Stages:
    """Run one architecture in a fresh process under limits; returns its results and how it ended."""
    source, sink = FORKS.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r", suffix=".log") as complaints:
        process = FORKS.Process(target=serve, args=(name, pruning, sink, complaints.name), daemon=True)
        process.start()
        sink.close()
        stages, stopped = _watch(process, source, memory, cpu_s)
        last = (complaints.read().strip().splitlines() or [""])[-1][:300]
    if stopped or process.exitcode:
        open_stage = next(
            (stage for stage, found in stages.items() if found.get("state") == "begun"), "captured"
        )
        why = stopped or f"the process ended with status {process.exitcode}: {last}"
        stages.setdefault(open_stage, {}).update(state="limit" if stopped else "failed", why=why)
    return stages


def _watch(process: BaseProcess, source: Connection, memory: int, cpu_s: float) -> tuple[Stages, str | None]:
    """Collect a process's reports until it ends; stop it beyond its limits, with a reason."""
    stages: Stages = {}
    stopped: str | None = None
    watched = psutil.Process(process.pid)
    alive = True
    while alive:
        alive = process.is_alive()  # asked before the last reports are taken, so that none is missed
        with contextlib.suppress(EOFError, OSError):
            while source.poll(POLL_S if alive else 0):
                stage, found = source.recv()
                stages.setdefault(stage, {}).update(found)
        with contextlib.suppress(psutil.Error):
            stopped = stopped or _beyond(watched, memory, cpu_s)
        if stopped:
            process.kill()
        if not source.poll(0) and alive:
            time.sleep(POLL_S)  # a closed connection answers at once
    process.join()
    return stages, stopped


def _beyond(process: psutil.Process, memory: int, cpu_s: float) -> str | None:
    times = process.cpu_times()
    if process.memory_info().rss > memory:
        return f"needs more than {memory / 1e9:g} GB of memory"
    return f"needs more than {cpu_s:g} s of processor time" if times.user + times.system > cpu_s else None


def result_file(name: str, pruning: bool) -> Path:
    """Path of an architecture's result."""
    return RESULTS / ("pruning" if pruning else "chain") / f"{name.replace('/', '-')}.json"


def run_all(names: Sequence[str], pruning: bool, again: bool, memory: int, cpu_s: float) -> None:
    """Run architectures without a result, and write each result when it is finished."""
    for index, name in enumerate(names):
        path = result_file(name, pruning)
        if path.is_file() and not again:
            continue
        start = time.monotonic()
        stages = run_one(name, pruning, memory, cpu_s)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(stages, indent=1))
        beside.replace(path)
        words = (
            ", ".join(f"{stage} {found['why']}" for stage, found in stages.items() if "why" in found)
            or "well"
        )
        print(f"{index + 1}/{len(names)} {name}: {time.monotonic() - start:.0f} s, {words}", flush=True)


def results(names: Sequence[str], pruning: bool) -> dict[str, Stages]:
    """The existing results, by architecture."""
    found = {name: result_file(name, pruning) for name in names}
    return {name: json.loads(path.read_text()) for name, path in found.items() if path.is_file()}


def main() -> None:
    """Read the command line, run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures to run again; default: all")
    parser.add_argument("--pruning", action="store_true", help="only prune the 76 of Torch-Pruning's list")
    parser.add_argument("--memory", type=float, default=2.5, metavar="GB", help="limit of memory")
    parser.add_argument("--seconds", type=float, default=180, metavar="N", help="limit of processor time")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"no such architecture: {', '.join(unknown)}; there are {', '.join(ALL)}")
    listed = [entry.name for entry in TORCHVISION] if options.pruning else list(ALL)
    if not options.page:
        again = bool(options.names)
        memory = int(options.memory * 1e9)
        run_all(options.names or listed, options.pruning, again, memory, options.seconds)
    chain, networks = results(list(ALL), False), [entry.name for entry in TORCHVISION]
    shared = {name: pruning_part(stages) for name, stages in chain.items() if name in networks}
    write_page(PAGE, chain, {**shared, **results(networks, True)}, len(ALL))


if __name__ == "__main__":
    main()

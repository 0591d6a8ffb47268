"""The zoo: public architectures with random weights through the whole chain, each in a process of its own.

    python -m tools.zoo                          all of them; goes on where it was stopped
    python -m tools.zoo tv/resnet18 timm/dla34   these again
    python -m tools.zoo --pruning                the 76 networks of Torch-Pruning's list, pruned by half
    python -m tools.zoo --page                   only writes docs/results/zoo.md from what was found

torchvision and timm are installed by `bash tools/test`. Results lie in out/zoo/, one JSON file for each
network; a network whose file is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tools.public_models.catalogue import ALL, TORCHVISION
from tools.public_models.page import write_page

MEMORY_LIMIT_BYTES = 2_500_000_000
CPU_LIMIT_S = 180.0
POLL_S = 0.2
RESULTS = Path("out/zoo")
PAGE = Path("docs/results/zoo.md")

Stages = dict[str, dict[str, Any]]


def run_one(name: str, pruning: bool, memory: int = MEMORY_LIMIT_BYTES, cpu_s: float = CPU_LIMIT_S) -> Stages:
    """One architecture in a fresh process under limits; what it reported, and how it ended."""
    command = [sys.executable, "-m", "tools.public_models.chain", name, *(["--pruning"] if pruning else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        stopped = _watch(psutil.Process(process.pid), memory, cpu_s)
        out, err = process.communicate()
    stages: Stages = {}
    for line in out.splitlines():
        found = json.loads(line)
        stages.setdefault(found.pop("stage"), {}).update(found)
    open_stage = next((stage for stage, found in stages.items() if found.get("state") == "begun"), None)
    if stopped or process.returncode:
        last = (err.strip().splitlines() or [""])[-1][:300]
        why = stopped or f"the process ended with status {process.returncode}: {last}"
        stages.setdefault(open_stage or "captured", {}).update(
            state="limit" if stopped else "failed", why=why
        )
    return stages


def _watch(process: psutil.Process, memory: int, cpu_s: float) -> str | None:
    """Wait for a process; stop it beyond its limits, and say so in one sentence."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            resident = process.memory_info().rss
            times = process.cpu_times()
        except psutil.Error:
            return None
        if resident > memory:
            process.kill()
            return f"needs more than {memory / 1e9:g} GB of memory"
        if times.user + times.system > cpu_s:
            process.kill()
            return f"needs more than {cpu_s:g} s of processor time"
        time.sleep(POLL_S)
    return None


def result_file(name: str, pruning: bool) -> Path:
    """Where an architecture's result is kept."""
    return RESULTS / ("pruning" if pruning else "chain") / f"{name.replace('/', '-')}.json"


def run_all(names: Sequence[str], pruning: bool, again: bool) -> None:
    """Run what has no result yet, and write each result when it is there."""
    for index, name in enumerate(names):
        path = result_file(name, pruning)
        if path.is_file() and not again:
            continue
        start = time.monotonic()
        stages = run_one(name, pruning)
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
    """The results that are there, by architecture."""
    found = {name: result_file(name, pruning) for name in names}
    return {name: json.loads(path.read_text()) for name, path in found.items() if path.is_file()}


def main() -> None:
    """Read the command line, run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures to run again; all if none")
    parser.add_argument("--pruning", action="store_true", help="only prune, the 76 of Torch-Pruning's list")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"no such architecture: {', '.join(unknown)}; there are {', '.join(ALL)}")
    listed = [entry.name for entry in TORCHVISION] if options.pruning else list(ALL)
    if not options.page:
        run_all(options.names or listed, options.pruning, bool(options.names))
    pruning = results([entry.name for entry in TORCHVISION], True)
    write_page(PAGE, results(list(ALL), False), pruning, len(ALL))


if __name__ == "__main__":
    main()

"""Kill `mcc compress` at random moments, resume it, and compare its results with an undisturbed run.

    python tools/checks/kill_resume.py --kills 20 --seed 0

First the job runs until the table contains all measurements that it needs; then once undisturbed; then once
for each kill, with a copy of the same table: SIGKILL at a random moment, `--resume`, perhaps again.
Structure, graph and weights of every strategy must be equal to the byte. The choice among them depends on
times that each run measures itself, and may differ. Exit status 1 if anything else differs.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
MODEL = f"{ROOT / 'tests' / 'compress' / 'networks.py'}:tiny"
COMPARED = ("baseline.*", "state/*/outcome.json", "state/*/model.*")
TIGHTER = "-at-"  # a joint plan made again after it missed the last measurement: different in every run
WARM_RUNS = 4  # each may plan with kernels that the previous one measured, and so need others
KILL_AGAIN = 0.4  # of the resumed runs are killed as well
MOST_KILLS = 3  # of one job
# The job with short measurements: to fill the table, not for exact figures.
HURRIED = (
    "import sys, mcc.calibrate.timing_by_profile as kernels, mcc.compress.bench as bench\n"
    "kernels.WHOLE_S = 0.1\n"
    "bench.FINAL_SECONDS = 0.2\n"
    "bench.TRIAL_SECONDS = 0.2\n"
    "from mcc.cli.main import main\n"
    "sys.argv[0] = 'mcc'\n"
    "main()\n"
)


@dataclass(frozen=True)
class Check:
    """A job to kill.

    Attributes:
        words: Arguments of `mcc compress` without the folder.
        work: Folder for all files.
    """

    words: tuple[str, ...]
    work: Path

    @property
    def table(self) -> Path:
        """The folder of the table that every run starts from."""
        return self.work / "table"

    def start(self, folder: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
        """Start the job in its own process."""
        command = [sys.executable, "-c", HURRIED, "compress", *self.words, "-q", "-o", str(folder), *more]
        return subprocess.Popen(
            command,
            env={**os.environ, "MCC_CACHE_DIR": str(cache)},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, folder: Path, cache: Path, *more: str) -> None:
        """Run the job to its end. Raises ClickException with its last output if it fails."""
        process = self.start(folder, cache, *more)
        _, said = process.communicate()
        if process.returncode != 0:
            raise click.ClickException(f"{folder.name} ended with {process.returncode}: {said.strip()}")

    def warm(self) -> int:
        """Run until nothing new is measured; returns the number of runs."""
        for index in range(WARM_RUNS):
            before = rows_of(self.table)
            self.finish(self.work / f"warm-{index}", self.table)
            if rows_of(self.table) == before:
                return index + 1
        raise click.ClickException(f"after {WARM_RUNS} runs the job still measures something new")

    def copy_of_table(self, name: str) -> Path:
        """A copy of the table for one run."""
        return Path(shutil.copytree(self.table, self.work / f"table-{name}"))

    def killed(self, name: str, seconds: float, chance: random.Random) -> tuple[list[float], dict[str, str]]:
        """Run one job with its kills; returns their times, and the digests of its results.

        Args:
            seconds: Duration of an undisturbed run.
        """
        folder, cache, kills = self.work / name, self.copy_of_table(name), list[float]()
        resumed: tuple[str, ...] = ()
        while len(kills) < MOST_KILLS and (not kills or chance.random() < KILL_AGAIN):
            moment = chance.uniform(0.0, seconds)
            process = self.start(folder, cache, *resumed)
            try:
                process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            kills.append(moment)
            resumed = ("--resume",)
        self.finish(folder, cache, "--resume")
        return kills, digests(folder)


def rows_of(table: Path) -> frozenset[tuple[object, ...]]:
    """Every row of a table, to detect added rows; empty if there is no table."""
    path = table / "latencies.sqlite"
    if not path.exists():
        return frozenset()
    found: set[tuple[object, ...]] = set()
    with closing(sqlite3.connect(path)) as connection:
        names = [
            str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for name in names:
            found.update((name, *row) for row in connection.execute(f'SELECT * FROM "{name}"'))
    return frozenset(found)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each compared file, and of the names of half-written files."""
    files = sorted(path for pattern in COMPARED for path in folder.glob(pattern))
    files = [path for path in files if TIGHTER not in path.parent.name]
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    found["half-written"] = ", ".join(sorted(path.name for path in folder.rglob(".*.part")))
    return found


def check(job: Check, kills: int, seed: int, say: Callable[[str], None], *, warm: bool) -> list[str]:
    """Run everything; returns the names of jobs that ended differently from the undisturbed one."""
    if warm:
        say(f"the table is complete after {job.warm()} runs")
    else:
        job.table.mkdir(parents=True)
    begin = time.monotonic()
    job.finish(job.work / "undisturbed", job.copy_of_table("undisturbed"))
    seconds = time.monotonic() - begin
    wanted = digests(job.work / "undisturbed")
    say(f"undisturbed: {seconds:.1f} s, {len(wanted) - 1} files compared")
    chance, different = random.Random(seed), list[str]()
    for index in range(kills):
        name = f"killed-{index:02d}"
        moments, found = job.killed(name, seconds, chance)
        unlike = sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))
        if unlike:
            different.append(name)
        else:
            shutil.rmtree(job.work / name)
        shutil.rmtree(job.work / f"table-{name}")
        when = ", ".join(f"{moment:.1f}" for moment in moments)
        say(f"{name}  killed at {when} s  {'equal' if not unlike else 'differs in ' + ', '.join(unlike)}")
    return different


@click.command()
@click.option("--kills", default=20, show_default=True, help="Jobs to kill.")
@click.option("--seed", default=0, show_default=True, help="Seed of the moments.")
@click.option("--model", default=MODEL, show_default=True)
@click.option("--data", default="digits", show_default=True)
@click.option("--target", default="litert-host", show_default=True)
@click.option("--epochs", default="0.3", show_default=True, help="Epochs of each fine-tuning.")
@click.option("--speedup", default="1.2x", show_default=True)
@click.option("--strategies", help="As of mcc compress; all if left out.")
@click.option("--no-warm", is_flag=True, help="Start from an empty table: for strategies without a plan.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for all files.")
def main(
    kills: int, seed: int, output: Path | None, strategies: str | None, no_warm: bool, **given: str
) -> None:
    """Kill the main job at random moments, resume it, and compare plan and weights."""
    words: Sequence[str] = [given["model"]]
    for name in ("data", "target", "epochs", "speedup"):
        words = [*words, f"--{name}", given[name]]
    if strategies is not None:
        words = [*words, "--strategies", strategies]
    with tempfile.TemporaryDirectory(prefix="mcc-kill-resume-") as scratch:
        different = check(
            Check(tuple(words), output or Path(scratch)), kills, seed, click.echo, warm=not no_warm
        )
    if different:
        click.echo(f"{len(different)} of {kills} ended differently: {', '.join(different)}")
        raise SystemExit(1)
    click.echo(f"all {kills} ended in the same plan and weights")


if __name__ == "__main__":
    main()

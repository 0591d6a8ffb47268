"""Interleaved timing: in every round, each file has one short turn in its own runner process.

Changes of the machine during the measurement (its clock, other programs) then affect all files alike, so
ratios of their medians are valid even if the medians drift. The order of the files rotates between rounds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mcc.runtime.process import load
from mcc.runtime.samples import LatencySamples, LoadWatch, MachineLoad, median_interval
from mcc.runtime.session import Runner, RunnerSource

log = logging.getLogger(__name__)

TURN_US = 40_000.0  # recorded time of a turn: long compared with the switch to it, short compared with drifts
SAMPLES_PER_TURN = 3  # minimum, unless a single one is longer than a turn
SETTLE_US = 4_000.0  # unrecorded at the start of a turn, to fill the caches
MIN_ROUNDS = 10  # with fewer, resampling of turns is unreliable
WARM_TURNS = 3  # warm when the medians of that many turns in a row...
WARM_SPREAD = 0.03  # ...differ by at most this share
WARM_LIMIT_S = 3.0  # or after that time, if they never do


@dataclass
class Contender:
    """One file during a measurement."""

    file: Path
    runner: Runner
    model: int
    per_sample: int = 1
    samples: int = SAMPLES_PER_TURN
    settle: int = 1
    warmup_runs: int = 0
    turns: list[list[float]] = field(default_factory=list)

    def take_turn(self) -> list[float]:
        """Run one turn; returns samples in microseconds per inference."""
        request = {
            "op": "turn",
            "model": self.model,
            "settle": self.settle,
            "per_sample": self.per_sample,
            "samples": self.samples,
        }
        answer, _ = self.runner.request(request, where=str(self.file))
        return [float(value) for value in answer["us"]]

    def warm_up(self, sample_us: float) -> None:
        """Run until the time of an inference is stable, then size the turns."""
        begin, medians = time.monotonic(), list[float]()
        while time.monotonic() - begin < WARM_LIMIT_S:
            medians.append(median(self.take_turn()))
            self.warmup_runs += self.settle + self.samples * self.per_sample
            self._size_turns(min(medians), sample_us)  # not the last: a disturbed one would shorten turns
            last = medians[-WARM_TURNS:]
            if len(last) == WARM_TURNS and max(last) <= min(last) * (1 + WARM_SPREAD):
                return

    def _size_turns(self, inference_us: float, sample_us: float) -> None:
        inference_us = max(inference_us, 0.1)
        self.per_sample = max(1, math.ceil(sample_us / inference_us))
        took_us = self.per_sample * inference_us
        self.samples = 1 if took_us > TURN_US else max(SAMPLES_PER_TURN, round(TURN_US / took_us))
        self.settle = max(1, round(SETTLE_US / inference_us))

    def halfwidth(self) -> float:
        """Half the 95 % interval of the median relative to the median, so far."""
        low, high = median_interval(self.turns)
        return (high - low) / 2 / median([value for turn in self.turns for value in turn])

    def result(self, load: MachineLoad) -> LatencySamples:
        """The measurement."""
        return LatencySamples.from_turns(
            self.turns, per_sample=self.per_sample, warmup_runs=self.warmup_runs, load=load
        )


def time_files(
    target: RunnerSource,
    files: Sequence[Path],
    *,
    threads: int,
    budget_s: float,
    precision: float,
    files_per_runner: int,
) -> list[LatencySamples]:
    """See `Target.time`; more files than fit at once are measured in groups."""
    group = target.runners_at_once * files_per_runner
    results: list[LatencySamples] = []
    with target.measuring():
        for begin in range(0, len(files), group):
            part = files[begin : begin + group]
            share = budget_s * len(part) / len(files)
            results += _time_group(target, part, threads, share, precision, files_per_runner)
    return results


def _time_group(
    target: RunnerSource,
    files: Sequence[Path],
    threads: int,
    budget_s: float,
    precision: float,
    per_runner: int,
) -> list[LatencySamples]:
    with ExitStack() as stack:
        contenders: list[Contender] = []
        for index, file in enumerate(files):
            if index % per_runner == 0:
                runner = target.start_runner()
                stack.callback(runner.close)
            else:
                runner = contenders[-1].runner
            load(runner, file, threads, index)
            contenders.append(Contender(file, runner, index))
        watch = LoadWatch(sorted({c.runner.pid for c in contenders}))
        for contender in contenders:
            contender.warm_up(target.sample_us)
        run_rounds(contenders, budget_s, precision)
        machine = watch.stop()
        return [contender.result(machine) for contender in contenders]


def run_rounds(contenders: Sequence[Contender], budget_s: float, precision: float) -> None:
    """Run rounds until every median has `precision`, or `budget_s` and `MIN_ROUNDS` are reached."""
    begin, rounds = time.monotonic(), 0
    while True:
        shift = rounds % len(contenders)
        for contender in [*contenders[shift:], *contenders[:shift]]:
            contender.turns.append(contender.take_turn())
        rounds += 1
        if rounds < MIN_ROUNDS:
            continue
        if time.monotonic() - begin > budget_s:
            break
        if rounds % 5 == 0 and all(c.halfwidth() <= precision for c in contenders):
            break
    log.debug("%d rounds over %d files in %.1f s", rounds, len(contenders), time.monotonic() - begin)

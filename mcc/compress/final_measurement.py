"""Latency and memory for the report: measured in this run, and repeated by one rule for all results.

Measurements of other runs are not used here. All files are timed in turns, in sessions; a session is one
common measurement of every file and the original. Whether one session is enough is decided by the same rule
for results that keep a budget and for those that miss it: a file is *unsure* if the bound that is compared
with a budget (the upper end of the 95 % interval of its median, the lower end of its speed-up's) lies within
one width of that interval of the limit, on either side. Then everything is timed again, at most `SESSIONS`
times in all, and the result is the median of all samples of all sessions, with the interval from resampling
the turns of all of them. No session is ever left out. To time again only files that missed, and to take the
new figure if it keeps the budget, would let one in several files pass that misses it
(`tests/compress/test_final.py` counts them); a rule that treats both sides alike adds no such bias, and
pooling makes the interval narrower.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcc.budget import Budget, Figures
from mcc.compress.speed import Speed
from mcc.files import write_text
from mcc.runtime.samples import LatencySamples, MachineLoad

log = logging.getLogger(__name__)

SESSIONS = 3  # at most, of timing one file: a fourth would narrow the interval by another seventh only

Timer = Callable[[Sequence[Path]], Sequence[LatencySamples]]


def unsure(speed: Speed, budget: Budget) -> bool:
    """Whether noise alone may decide about a budget of time: within the same distance, kept or missed."""
    low, high = speed.speedup_ci95
    bounds, others = Figures(latency_us=speed.high_us, speedup=low), Figures(speed.low_us, speedup=high)
    return budget.unsure(bounds, others)


def pooled(sessions: Sequence[LatencySamples]) -> LatencySamples:
    """One measurement from the turns of several sessions."""
    if len(sessions) == 1:
        return sessions[0]
    first = sessions[0]
    busy = sum(one.load.others_cores for one in sessions) / len(sessions)
    load = MachineLoad(first.load.one_minute_before, sessions[-1].load.one_minute_after, busy)
    turns = [turn for one in sessions for turn in one.turns]
    return LatencySamples.from_turns(
        turns, per_sample=first.per_sample, warmup_runs=first.warmup_runs, load=load
    )


@dataclass(frozen=True)
class Session:
    """One common measurement.

    Attributes:
        date: Start time, ISO 8601 in UTC.
        baseline: Digest of the original's file.
        samples: Samples by the digest of each file.
    """

    date: str
    baseline: str
    samples: dict[str, LatencySamples]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        samples = {mark: asdict(one) for mark, one in self.samples.items()}
        return {"date": self.date, "baseline": self.baseline, "samples": samples}

    @staticmethod
    def from_json(raw: Any) -> Session:
        """Parse the result of `to_json`. Raises ValueError, TypeError, KeyError or AttributeError."""
        samples: dict[str, LatencySamples] = {}
        for mark, one in raw["samples"].items():
            found = LatencySamples.from_turns(
                [[float(value) for value in turn] for turn in one["turns"]],
                per_sample=int(one["per_sample"]),
                warmup_runs=int(one["warmup_runs"]),
                load=MachineLoad(**one["load"]),
            )
            if not 0 < found.median_us < float("inf"):
                raise ValueError("a time that is none")
            samples[mark] = found
        return Session(str(raw["date"]), str(raw["baseline"]), samples)


class FinalFigures:
    """Times and peak memory of the files in a report, all measured in this run.

    They are kept in the folder of the run until the report is written, so that an interrupted run can
    continue.

    Args:
        store: Path of the JSON file in the folder of the run.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.sessions: list[Session] = []
        self.peaks: dict[str, int] = {}
        self._read()

    @property
    def date(self) -> str:
        """Start time of the last session; empty if there was none."""
        return self.sessions[-1].date if self.sessions else ""

    def speeds(
        self, files: dict[str, Path], baseline: str, time: Timer, doubtful: Callable[[Speed], bool]
    ) -> dict[str, Speed]:
        """Speed of each file, from all of its sessions.

        Args:
            files: Paths by digest, including the original.
            baseline: Digest of the original.
            time: Measures files in turns.
            doubtful: Whether a figure calls for another session.
        """
        while True:
            counts = {mark: len(self._of(mark, baseline)) for mark in files}
            if all(counts.values()):
                found = {mark: self._speed(mark, baseline) for mark in files}
                if not any(doubtful(found[mark]) for mark in files if counts[mark] < SESSIONS):
                    return found
                log.info("timed again: a limit lies within the interval of a result")
            date = datetime.now(UTC).isoformat(timespec="seconds")
            samples = dict(zip(files, time(list(files.values())), strict=True))
            self.sessions.append(Session(date, baseline, samples))
            self._write()

    def _of(self, mark: str, baseline: str) -> list[Session]:
        return [one for one in self.sessions if one.baseline == baseline and mark in one.samples]

    def _speed(self, mark: str, baseline: str) -> Speed:
        sessions = self._of(mark, baseline)
        one = pooled([session.samples[mark] for session in sessions])
        original = pooled([session.samples[baseline] for session in sessions])
        return Speed.of(one, original, sessions[-1].date)

    def peak(self, mark: str, measure: Callable[[], int]) -> int:
        """Peak memory of the file with this digest."""
        if mark not in self.peaks:
            self.peaks[mark] = measure()
            self._write()
        return self.peaks[mark]

    def forget(self) -> None:
        """Delete the stored figures after the report is written: a new run in this folder measures again."""
        self.store.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {"sessions": [session.to_json() for session in self.sessions], "peaks": self.peaks}
        text = json.dumps(content)
        write_text(self.store, text)

    def _read(self) -> None:
        if not self.store.exists():
            return
        try:
            raw = json.loads(self.store.read_text(encoding="utf-8"))
            self.sessions = [Session.from_json(one) for one in raw["sessions"]]
            self.peaks = {str(mark): int(peak) for mark, peak in raw["peaks"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): everything is timed again", self.store, error)
            self.sessions, self.peaks = [], {}

"""Progress on stderr: a bar with the remaining time on a terminal, a line at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import click

from mcc.cli.output import drawing_stream, one_line
from mcc.cli.settings import Settings

LINE_EVERY_S = 15.0  # in a log file: a sign of life without hiding other lines


class Progress(Protocol):
    """Callback for the progress of long work.

    Called with the name of the stage, the amount done and the total (in any unit; 0 if unknown), and a short
    note.
    """

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report the progress of a stage; done >= total ends it."""
        ...


class Silent:
    """Discards all progress."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Discard the call."""


@dataclass
class _Stage:
    """Start, time of the last line and progress of a stage; a stage may run repeatedly."""

    begin: float
    last: float
    done: float = 0.0


class Lines:
    """Prints a line when a stage starts, resumes or ends, and one at intervals."""

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self.every_s = every_s
        self.current = ""
        self.stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        found = self.stages.get(stage)
        begins = found is None or done < found.done
        if found is None or begins:
            found = self.stages[stage] = _Stage(now, now)
        ended = bool(total) and done >= total
        switched, self.current = stage != self.current, stage
        found.done = done
        if begins and not ended:
            self._line(stage, note)
        elif ended or switched or now - found.last >= self.every_s:
            found.last = now
            self._line(f"{stage}: {self._state(now - found.begin, done, total, ended)}", note)

    def _state(self, spent: float, done: float, total: float, ended: bool) -> str:
        if ended:
            return f"done in {spent:.1f} s"
        if not total or not done:
            return f"{spent:.0f} s so far"
        return f"{100 * done / total:.0f} %, about {seconds_words(spent * (total - done) / done)} left"

    @staticmethod
    def _line(text: str, note: str) -> None:
        click.echo(f"{text}{f' ({one_line(note)})' if note else ''}", err=True)


class Bars:
    """A bar for each stage, drawn by rich."""

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn
        self.tasks: dict[str, Any] = {}
        self.done: dict[str, float] = {}

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Move the bar of the stage."""
        if stage not in self.tasks:
            self.tasks[stage] = self.drawn.add_task(stage, total=total or None, note="")
        elif done < self.done[stage]:  # the stage runs again
            self.drawn.reset(self.tasks[stage])
        self.done[stage] = done
        self.drawn.update(self.tasks[stage], completed=done, total=total or None, note=one_line(note))


def seconds_words(seconds: float) -> str:
    """`40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress_for(settings: Settings) -> Generator[Progress]:
    """The progress for the kind of stderr; drawn bars are always cleaned up at the end."""
    if settings.quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        with _rich_progress() as drawn:
            yield Bars(drawn)


def _rich_progress() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=Console(file=drawing_stream(sys.stderr)),
    )

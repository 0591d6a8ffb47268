"""The options of all commands: `--json`, `--seed`, `-q`, `-v`."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

import click

Callback = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Callback)

QUIET, NORMAL, VERBOSE, DEBUG = -1, 0, 1, 2
LEVELS = {QUIET: logging.ERROR, NORMAL: logging.WARNING, VERBOSE: logging.INFO, DEBUG: logging.DEBUG}
LARGEST_SEED = 2**32 - 1  # numpy's


@dataclass(frozen=True)
class Settings:
    """The common options of one command line.

    Attributes:
        json: Whether results are printed as JSON, and nothing else, on stdout.
        seed: Seed of all random number generators.
        verbosity: -1 quiet, 0, 1 with the log, 2 with the full log and tracebacks.
    """

    json: bool = False
    seed: int = 0
    verbosity: int = NORMAL

    @property
    def quiet(self) -> bool:
        """Whether progress is suppressed."""
        return self.verbosity <= QUIET


_current: ContextVar[Settings] = ContextVar("mcc_settings", default=Settings())  # noqa: B039  (frozen)


def current_settings() -> Settings:
    """The common options of the running command."""
    return _current.get()


def forget_settings() -> None:
    """Restore the defaults, before another command line is parsed in this process."""
    _current.set(Settings())


def common_options(callback: Callback) -> Callback:
    """Add the common options to a command; its callback receives them as the keyword `settings`."""

    @functools.wraps(callback)
    def wrapped(*, as_json: bool, seed: int, quiet: bool, verbose: int, **values: Any) -> Any:
        settings = Settings(as_json, seed, QUIET if quiet else min(verbose, DEBUG))
        _current.set(settings)
        _start_log(settings)
        return callback(settings=settings, **values)

    options = [
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.", is_eager=True,
                     callback=_note_json),
        click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True,
                     metavar="N", help="Seed of all random number generators."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, errors only."),
        click.option("-v", "--verbose", count=True, help="Show the log; twice: the full log."),
    ]  # fmt: skip
    decorated: Callback = wrapped
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _note_json(ctx: click.Context, parameter: click.Parameter, asked: bool) -> bool:
    """Store --json before the other options are parsed, so that their errors can be JSON, too."""
    _current.set(Settings(json=asked))
    return asked


class OneLineFormatter(logging.Formatter):
    """One line per message, even if it contains names with line breaks; a traceback keeps its lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        from mcc.cli.output import harmless, one_line

        text = super().format(record)
        message = record.getMessage()
        return harmless(text.replace(message, one_line(message), 1))


class _Handler(logging.StreamHandler[TextIO]):
    """The handler of a command, distinguished from those of an embedding program."""


def stop_log() -> None:
    """Remove the log handler from stderr."""
    root = logging.getLogger("mcc")
    for handler in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(handler)
        root.setLevel(logging.NOTSET)


def _start_log(settings: Settings) -> None:
    """Send the library's log, and warnings of other libraries, to stderr."""
    stop_log()
    handler = _Handler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("mcc")
    root.addHandler(handler)
    root.setLevel(LEVELS[settings.verbosity])
    if settings.verbosity < DEBUG and not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of torch and its exporters do not concern users

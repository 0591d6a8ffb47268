"""The options that every command has: `--json`, `--seed`, `-q`, `-v`."""

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
        json: results go to stdout as JSON, and nothing else does.
        seed: of everything random.
        verbosity: -1 quiet, 0, 1 with the log, 2 with the log of everything and tracebacks.
    """

    json: bool = False
    seed: int = 0
    verbosity: int = NORMAL

    @property
    def quiet(self) -> bool:
        """Whether progress is to be kept to oneself."""
        return self.verbosity <= QUIET


_current: ContextVar[Settings] = ContextVar("mcc_settings", default=Settings())  # noqa: B039  (frozen)


def current_settings() -> Settings:
    """The common options of the command that runs."""
    return _current.get()


def forget_settings() -> None:
    """Go back to the defaults, before another command line is read in this process."""
    _current.set(Settings())


def common_options(callback: Callback) -> Callback:
    """Give a command the common options; its callback receives them as the keyword `settings`."""

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
                     metavar="N", help="Seed of everything random."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, errors only."),
        click.option("-v", "--verbose", count=True, help="Show the log; twice for all of it."),
    ]  # fmt: skip
    decorated: Callback = wrapped
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _note_json(ctx: click.Context, parameter: click.Parameter, asked: bool) -> bool:
    """Remember --json before the other options are read, so that their errors can be JSON, too."""
    _current.set(Settings(json=asked))
    return asked


class OneLineFormatter(logging.Formatter):
    """One line for a message, whatever names of other people's it holds; a traceback keeps its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it."""
        from mcc.cli.output import harmless, one_line

        text = super().format(record)
        message = record.getMessage()
        return harmless(text.replace(message, one_line(message), 1))


class _Handler(logging.StreamHandler[TextIO]):
    """The handler of a command, told apart from those of whoever embeds mcc."""


def stop_log() -> None:
    """Take the log off stderr again."""
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
        warnings.simplefilter("ignore")  # those of torch and its exporters mean nothing to users

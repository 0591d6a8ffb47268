"""Handling of errors: one sentence on stderr, and the exit status."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

import click

from mcc.cli.settings import DEBUG, current_settings
from mcc.errors import MccError

INTERNAL = 1
WRONG_USE = 2
INTERRUPTED = 130  # 128 + SIGINT, as in shells
LONGEST_WORD = 300
"""Number of characters of a word that are shown: no path or name typed by a user is longer."""


class Interrupted(Exception):
    """Ctrl-C in a command that can be resumed; the message says how."""


def report(error: Exception) -> int:
    """Print the error, and return the exit status. `-vv` also shows the traceback."""
    if current_settings().verbosity >= DEBUG:
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return _say("stopped", INTERRUPTED)
    if isinstance(error, Interrupted):
        return _say(f"stopped; {error}", INTERRUPTED)
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, MccError):
        return _mcc(error)
    if isinstance(error, BrokenPipeError):  # the reader of the pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return INTERNAL
    if isinstance(error, OSError):
        return _system(error)
    return _internal(error)


def fail_after_result(error: MccError, *, shown: bool) -> int:
    """Print the error of a command that shows a result nevertheless; returns the exit status.

    Args:
        shown: Whether the result is on stdout: with --json, it is the only document there.
    """
    if not shown:
        raise error
    click.echo(f"mcc: error: {one_line(str(error))}", err=True)
    return error.exit_status


def one_line(sentence: str) -> str:
    """A sentence on one line, with overlong words cut in the middle."""
    half = LONGEST_WORD // 2
    words = (w if len(w) <= LONGEST_WORD else f"{w[:half]}...{w[-half:]}" for w in sentence.split())
    return " ".join(words)


def _say(sentence: str, status: int, machine: Mapping[str, object] | None = None) -> int:
    if current_settings().json:
        details = machine or {"code": "stopped", "message": sentence}
        click.echo(json.dumps({"error": details}, indent=2))
    click.echo(f"mcc: {one_line(sentence)}", err=True)
    return status


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        return WRONG_USE
    place = f"mcc {error.ctx.info_name}" if isinstance(error, click.UsageError) and error.ctx else "mcc"
    place = "mcc" if place == "mcc mcc" else place
    message = error.format_message().rstrip(".")
    machine = {"code": "usage", "message": message}
    if current_settings().json:
        click.echo(json.dumps({"error": machine}, indent=2))
    click.echo(
        f"{place}: {one_line(message)}" + (f" ({place} --help)" if "--help" not in message else ""),
        err=True,
    )
    return WRONG_USE


def _mcc(error: MccError) -> int:
    details = {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint}
    machine = {key: value for key, value in details.items() if value is not None}
    return _say(f"error: {one_line(str(error))}", error.exit_status, machine)


def _system(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    hint = "; free space or choose another -o" if error.errno == errno.ENOSPC else ""
    sentence = f"error: {where}{error.strerror or error}{hint}"
    return _say(sentence, WRONG_USE, {"code": "system", "message": sentence})


def _internal(error: Exception) -> int:
    """Report a bug in mcc: the traceback is written to a file, for the bug report."""
    reason = " ".join(str(error).split())[:200]
    sentence = f"internal error: {type(error).__name__}: {reason}"
    try:
        handle, name = tempfile.mkstemp(prefix="mcc-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(" ".join(sys.argv) + "\n\n")
            traceback.print_exception(error, file=file)
        sentence += f"; this is a bug in mcc, the traceback is in {Path(name)}"
    except OSError:
        sentence += "; this is a bug in mcc, -vv shows the traceback"
    return _say(sentence, INTERNAL, {"code": "internal", "message": sentence})

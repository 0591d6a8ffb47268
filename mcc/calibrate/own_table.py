"""The user's own table of measurements: a damaged one is moved aside, an unwritable one is replaced.

It is a cache: its content can be measured again, so no defect of it stops a job.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

log = logging.getLogger(__name__)

_instead: dict[Path, Path] = {}  # temporary tables of this process, in place of unwritable ones


def usable_table(path: Path, columns: Mapping[str, Sequence[str]], formats: Sequence[int]) -> Path:
    """The table, or its replacement, which is reported in one warning.

    Args:
        path: Path of the user's own table, which may not exist yet.
        columns: Expected columns of each table in it.
        formats: Supported formats of the file (`user_version`).
    """
    if path in _instead:
        return _instead[path]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        problem = _damage(path, columns, formats) if os.path.lexists(path) else None
        if problem is not None:
            aside = _aside(path)
            log.warning("%s is damaged (%s): it is now %s, and measured again", path, problem, aside.name)
        return path if _writable(path) else _without(path, "it cannot be written")
    except OSError as error:
        return _without(path, error.strerror or str(error))


def _damage(path: Path, columns: Mapping[str, Sequence[str]], formats: Sequence[int]) -> str | None:
    """The defect of a table's content; None if there is none, or if another process holds it."""
    if not path.is_file():
        return "no regular file"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version not in formats:
                return f"format {version}"
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                return str(found)
            for table, names in columns.items():
                there = [str(row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")')]
                if there and set(there) != set(names):
                    return f"other columns in {table}"
    except sqlite3.OperationalError:  # locked or inaccessible: neither is damage
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None


def _aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(found := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    path.rename(found)
    return found


def _writable(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=0.0)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    return True


def _without(path: Path, reason: str) -> Path:
    """A temporary table of this process, with the readable content of the unwritable one."""
    folder = Path(tempfile.mkdtemp(prefix="mcc-table-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    log.warning(
        "%s cannot be used (%s): what is measured is not kept; set MCC_CACHE_DIR to another folder",
        path, reason,
    )  # fmt: skip
    instead = folder / path.name
    try:
        shutil.copyfile(path, instead)
    except OSError:
        instead.unlink(missing_ok=True)
    _instead[path] = instead
    return instead

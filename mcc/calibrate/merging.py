"""Reading of tables to merge: without modifying them, and with every row checked before any is merged."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mcc.calibrate.rows import KINDS, checked
from mcc.errors import DataError
from mcc.ir.json_file import LARGEST_BYTES, parse_json, read_bounded

FORMAT = 1  # of tables; other formats are refused
MAGIC = b"SQLite format 3\0"
WHAT = "table of measured kernels"
HINT = "ask for a table that mcc calibrate --export wrote; nothing was merged"

Rows = dict[str, list[dict[str, Any]]]


def read_table(path: Path) -> Rows:
    """The rows of a table from another source, an SQLite file or exported JSON, by kind.

    Raises:
        DataError: The file does not exist or is no table, or a row is invalid; the message names the file,
            which is not modified.
    """
    raw = read_bounded(path, hint=HINT)
    content = _in_sqlite(path) if raw.startswith(MAGIC) else _in_json(raw, path)
    return {kind: checked(kind, content[kind], where=str(path), hint=HINT) for kind in KINDS}


def _in_json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        content = parse_json(raw)
    except ValueError as error:
        raise _no_table(path, "is neither SQLite nor JSON") from error
    if not isinstance(content, dict) or "format" not in content:
        raise _no_table(path, f"is no {WHAT}")
    if type(content["format"]) is not int or content["format"] != FORMAT:  # pyright: ignore[reportUnknownArgumentType]
        raise _no_table(path, f"is no {WHAT} of format {FORMAT}")
    expected = {"format", *KINDS}
    if set(content) != expected or not all(isinstance(content[kind], list) for kind in KINDS):  # pyright: ignore[reportUnknownArgumentType]
        raise _no_table(path, f"is no {WHAT}: it must hold the lists {' and '.join(KINDS)} and nothing else")
    return content  # pyright: ignore[reportUnknownVariableType]


def _in_sqlite(path: Path) -> Rows:
    for suffix in ("-wal", "-journal"):
        if Path(f"{path}{suffix}").exists():
            raise _no_table(path, f"is being written, as {path.name}{suffix} beside it shows")
    with _reading(path) as connection:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        # Views and virtual tables are excluded: reading one executes code of its author.
        listed = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        tables = {name for name, sql in listed if str(sql).upper().startswith("CREATE TABLE")}
        if version != FORMAT or not set(KINDS) <= tables:
            raise _no_table(path, f"is an SQLite file, but no {WHAT} of format {FORMAT}")
        return {kind: _rows(connection, kind, path) for kind in KINDS}


def _rows(connection: sqlite3.Connection, kind: str, path: Path) -> list[dict[str, Any]]:
    names = tuple(KINDS[kind].model_fields)
    found = [str(row[1]) for row in connection.execute(f"PRAGMA table_xinfo({kind})")]
    if sorted(found) != sorted(names):
        raise _no_table(path, f"is no {WHAT}: the columns of {kind} must be {', '.join(names)}")
    query = f"SELECT {', '.join(names)} FROM {kind} ORDER BY rowid"
    return [dict(zip(names, row, strict=True)) for row in connection.execute(query)]


@contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection]:
    """The file opened read-only, without a journal beside it."""
    try:
        place = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(place, uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_BYTES)
            yield connection
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        raise _no_table(path, f"is no {WHAT} that can be read: {str(error)[:100]}") from error


def _no_table(path: Path, sentence: str) -> DataError:
    return DataError(sentence, where=str(path), hint=HINT)

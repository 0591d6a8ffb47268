"""Measurements of whole files, shared by runs: a second table in the SQLite file of measured kernels.

A plan depends on the measurements of its candidates as it does on the kernels. With both in one file, the
same job with the same table makes the same plan and weights, in any run and after any number of
interruptions. The figures of a report are never taken from here.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcc.calibrate.store import WAIT_S, own_table
from mcc.errors import DataError
from mcc.runtime.holder import said_when_waiting

log = logging.getLogger(__name__)

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS files (fingerprint TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, "
    "date TEXT NOT NULL, PRIMARY KEY (fingerprint, key))"
)


@dataclass(frozen=True)
class Remembered:
    """A figure measured by an earlier run: plain JSON values, and its time, ISO 8601 in UTC."""

    value: Any
    date: str


def _checked_date(text: Any) -> str:
    datetime.fromisoformat(text)
    return str(text)


class MeasuredFiles:
    """Measurements of files under one fingerprint, by a key that contains the digests of their bytes.

    Args:
        fingerprint: Fingerprint of target, device, runtime, version and threads; other entries are ignored.
        path: Path of the SQLite file; None: the user's own table.
    """

    def __init__(self, fingerprint: str, path: Path | None = None) -> None:
        self.fingerprint = fingerprint
        self.path = path if path is not None else own_table()

    def get(self, key: str) -> Remembered | None:
        """The measurement; None if there is none, or none that can be read. Raises DataError."""
        query = "SELECT value, date FROM files WHERE fingerprint = ? AND key = ?"
        with self._open() as connection:
            found = connection.execute(query, (self.fingerprint, key)).fetchone()
        try:
            return None if found is None else Remembered(json.loads(found[0]), _checked_date(found[1]))
        except (ValueError, TypeError) as error:
            log.warning("%s holds a measurement that cannot be read (%s): it is made again", self.path, error)
            return None

    def put(self, key: str, value: Any) -> None:
        """Store a measurement, on disk when the call returns. Raises DataError."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        row = (self.fingerprint, key, json.dumps(value), date)
        with self._open() as connection, connection:
            connection.execute("INSERT OR REPLACE INTO files VALUES (?,?,?,?)", row)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with (
                closing(sqlite3.connect(self.path, timeout=WAIT_S)) as connection,
                said_when_waiting(self.path, "the table of measurements"),
            ):
                connection.execute(_SCHEMA)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"the table of measurements cannot be used: {error}",
                where=str(self.path),
                hint="set MCC_CACHE_DIR to a folder that can be written, or move the file away",
            ) from error

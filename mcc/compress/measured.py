"""Measurements of whole files that runs share: a second table in the SQLite file of measured kernels.

A plan rests on what its candidates measured, as it does on the kernels. With both in one file, the same job
with the same table measures nothing twice and comes to the same plan and weights, in whichever run and after
however many kills.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcc.calibrate.store import WAIT_S, default_path
from mcc.errors import DataError

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS files (fingerprint TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, "
    "date TEXT NOT NULL, PRIMARY KEY (fingerprint, key))"
)


class MeasuredFiles:
    """What was measured of files under one fingerprint, by a key that holds the digests of their bytes.

    Args:
        fingerprint: of target, device, runtime, version and threads; others' measurements are never seen.
        path: of the SQLite file; the user's own table if None.
    """

    def __init__(self, fingerprint: str, path: Path | None = None) -> None:
        self.fingerprint = fingerprint
        self.path = path if path is not None else default_path()

    def get(self, key: str) -> Any:
        """What was measured, as plain JSON values; None where nothing was. Raises DataError."""
        query = "SELECT value FROM files WHERE fingerprint = ? AND key = ?"
        with self._open() as connection:
            found = connection.execute(query, (self.fingerprint, key)).fetchone()
        try:
            return None if found is None else json.loads(found[0])
        except ValueError as error:
            raise DataError(
                f"holds a measurement that cannot be read: {error}", where=str(self.path)
            ) from error

    def put(self, key: str, value: Any) -> None:
        """Keep a measurement, on disk when the call returns. Raises DataError."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        row = (self.fingerprint, key, json.dumps(value), date)
        with self._open() as connection, connection:
            connection.execute("INSERT OR REPLACE INTO files VALUES (?,?,?,?)", row)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT_S)) as connection:
                connection.execute(_SCHEMA)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"the table of measurements cannot be used: {error}",
                where=str(self.path),
                hint="set MCC_CACHE_DIR to a folder that can be written, or move the file away",
            ) from error

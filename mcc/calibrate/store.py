"""The table of measurements: one SQLite file, shared by processes, that can be exported and merged.

Rows belong to a fingerprint (target, device, runtime, version, threads). Rows of other fingerprints stay in
the file and are never used for it; `Store.others` lists them.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import platformdirs

from mcc.calibrate.merging import FORMAT, read_table
from mcc.calibrate.own_table import usable_table
from mcc.calibrate.rows import QUANTITIES, checked, kernel_in
from mcc.cost_api import Measurement, Precision
from mcc.errors import DataError
from mcc.files import write_text
from mcc.runtime.holder import holder_words, holders_of, said_when_waiting

WAIT_S = 60.0  # for another process's write, which takes milliseconds

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS kernels (
    fingerprint TEXT NOT NULL, kernel TEXT NOT NULL, fields TEXT NOT NULL, latency_us REAL NOT NULL,
    low_us REAL NOT NULL, high_us REAL NOT NULL, runs INTEGER NOT NULL, date TEXT NOT NULL,
    others_cores REAL NOT NULL, PRIMARY KEY (fingerprint, kernel));
CREATE TABLE IF NOT EXISTS wholes (
    fingerprint TEXT NOT NULL, quantity TEXT NOT NULL, precision TEXT NOT NULL, value REAL NOT NULL,
    low REAL NOT NULL, high REAL NOT NULL, source TEXT NOT NULL, date TEXT NOT NULL,
    PRIMARY KEY (fingerprint, quantity, precision, source));
PRAGMA user_version = {FORMAT};
"""
_ROW = ("kernel", "fields", "latency_us", "low_us", "high_us", "runs", "date", "others_cores")
_COLUMNS = {
    "kernels": ("fingerprint", *_ROW),
    "wholes": ("fingerprint", "quantity", "precision", "value", "low", "high", "source", "date"),
}
FILES = {
    "files": ("fingerprint", "key", "value", "date")
}  # of `mcc.compress.measurement_store`, in the same file
_OWN_HINT = "take the row out, or move the file away: what it held is measured again"
_KEYS = {"kernels": ("fingerprint", "kernel"), "wholes": ("fingerprint", "quantity", "precision", "source")}


@dataclass(frozen=True)
class Whole:
    """A figure of whole networks.

    Attributes:
        quantity: `overhead` (microseconds outside the kernels), `correction` and `offset` (which fit the
            sums of kernels to networks), `excess` (microseconds that a profile adds) or `spread` (standard
            deviation of the logarithm of one file's latency).
        precision: Precision of the networks.
        value, low, high: The figure and its range.
        source: Subject of the figure: the shape of a network's input, a family of networks, or a kind of
            kernel.
        date: Time of the measurement, ISO 8601 in UTC.
    """

    quantity: str
    precision: Precision
    value: float
    low: float
    high: float
    source: str
    date: str

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity must be one of {', '.join(QUANTITIES)}, not {self.quantity!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"unknown precision {self.precision!r}")


def default_path() -> Path:
    """Default path of the table, in `MCC_CACHE_DIR` or the user's cache folder."""
    folder = os.environ.get("MCC_CACHE_DIR") or platformdirs.user_cache_dir("mcc")
    return Path(folder) / "latencies.sqlite"


def own_table() -> Path:
    """Path of the user's own table after the checks of `mcc.calibrate.own_table`."""
    return usable_table(default_path(), {**_COLUMNS, **FILES}, (0, FORMAT))


class Store:
    """An open table. Every row is on disk when its call returns; use it in a `with` statement.

    Args:
        path: Path of the SQLite file, which is created if necessary; the user's own table if None.

    Raises:
        DataError: The file cannot be opened, is no table, or has another format.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else own_table()
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=WAIT_S)
            version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
            if version not in (0, FORMAT):
                raise DataError(
                    f"is a table of format {version}, not {FORMAT}",
                    where=str(self.path),
                    hint="measure again into another file",
                )
            if version == 0:
                self._check_empty()
                self._connection.executescript(_SCHEMA)

    def _check_empty(self) -> None:
        """Raise DataError for a database of another program."""
        tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master")}
        foreign = {name for name in tables - set(FILES) if not name.startswith("sqlite_")}
        if foreign:
            raise DataError(
                f"is an SQLite file of another program (it holds {min(foreign)}), and no table of mcc",
                where=str(self.path), hint="it was not touched; set MCC_CACHE_DIR to a folder of mcc's own",
            )  # fmt: skip

    @contextmanager
    def _told(self) -> Generator[None]:
        """Convert failures of the file to a DataError."""
        try:
            with said_when_waiting(self.path, "the table of measured kernels"):
                yield
        except (sqlite3.Error, OSError) as error:
            held = f", held by {holder_words(self.path)}" if holders_of(self.path) else ""
            raise DataError(
                f"the table of measured kernels cannot be used: {error}{held}",
                where=str(self.path),
                hint="set MCC_CACHE_DIR to a folder that can be written, or move the file away",
            ) from error

    def add(self, fingerprint: str, rows: Iterable[Measurement]) -> None:
        """Store rows, replacing those of the same kernels. Raises DataError."""
        values = [
            (
                fingerprint, str(row.kernel), json.dumps(row.kernel.to_json()), row.latency_us, row.low_us,
                row.high_us, row.runs, row.date, row.others_cores,
            )
            for row in rows
        ]  # fmt: skip
        with self._told(), self._connection:
            self._connection.executemany(
                f"INSERT OR REPLACE INTO kernels (fingerprint, {', '.join(_ROW)}) VALUES (?,?,?,?,?,?,?,?,?)",
                values,
            )

    def rows(self, fingerprint: str) -> list[Measurement]:
        """All measured kernels of a fingerprint, in the order of their names. Raises DataError."""
        return [
            Measurement(kernel_in(row["fields"]), *(row[name] for name in _ROW[2:]))
            for row in self._own("kernels", fingerprint)
        ]

    def known(self, fingerprint: str) -> set[str]:
        """Names of the kernels measured under a fingerprint. Raises DataError."""
        query = "SELECT kernel FROM kernels WHERE fingerprint = ?"
        with self._told():
            return {str(row[0]) for row in self._connection.execute(query, (fingerprint,))}

    def set_whole(self, fingerprint: str, whole: Whole) -> None:
        """Store a figure of whole networks, replacing the one before. Raises DataError."""
        values = (
            fingerprint, whole.quantity, whole.precision, whole.value, whole.low, whole.high, whole.source,
            whole.date,
        )  # fmt: skip
        with self._told(), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO wholes VALUES (?,?,?,?,?,?,?,?)", values)

    def wholes(self, fingerprint: str) -> list[Whole]:
        """Figures of whole networks of a fingerprint. Raises DataError."""
        return [
            Whole(*(row[name] for name in _COLUMNS["wholes"][1:])) for row in self._own("wholes", fingerprint)
        ]

    def _own(self, table: str, fingerprint: str) -> list[dict[str, Any]]:
        """Checked rows of a fingerprint. Raises DataError, naming the figure, for an invalid one."""
        names = _COLUMNS[table]
        query = f"SELECT {', '.join(names)} FROM {table} WHERE fingerprint = ? ORDER BY 1, 2, 3, 7"
        with self._told():
            found = self._connection.execute(query, (fingerprint,)).fetchall()
        rows = [dict(zip(names, row, strict=True)) for row in found]
        return checked(table, rows, where=str(self.path), hint=_OWN_HINT, own=True)

    def forget(self, fingerprint: str) -> int:
        """Delete all rows of a fingerprint; returns the number of kernels. Raises DataError."""
        with self._told(), self._connection:
            self._connection.execute("DELETE FROM wholes WHERE fingerprint = ?", (fingerprint,))
            gone = self._connection.execute("DELETE FROM kernels WHERE fingerprint = ?", (fingerprint,))
            return gone.rowcount

    def others(self, fingerprint: str) -> dict[str, int]:
        """Number of rows of each other fingerprint of the same target: stale ones. Raises DataError."""
        target = fingerprint.split("|", maxsplit=1)[0]
        query = "SELECT fingerprint, COUNT(*) FROM kernels WHERE fingerprint != ? GROUP BY fingerprint"
        with self._told():
            found = self._connection.execute(query, (fingerprint,)).fetchall()
        return {key: int(count) for key, count in found if key.split("|", maxsplit=1)[0] == target}

    def export(self, path: Path | str, fingerprint: str | None = None) -> int:
        """Write rows as JSON for merging elsewhere, atomically; returns the number of kernels.

        Args:
            fingerprint: Fingerprint of the rows to write; all if None.

        Raises:
            MccError: The file cannot be written.
        """
        tables = {
            table: [row for row in self._dump(table) if fingerprint in (None, row["fingerprint"])]
            for table in _COLUMNS
        }
        text = json.dumps({"format": FORMAT, **tables}, indent=1)
        write_text(Path(path), text)
        return len(tables["kernels"])

    def merge(self, *paths: Path | str) -> int:
        """Merge the rows of other tables (SQLite or exported JSON); of two rows the later one is kept.

        All of them are read and checked before the first row is merged, in one transaction. The files
        themselves are not modified.

        Returns:
            Number of kernels that are new or newer.

        Raises:
            DataError: A file does not exist, is no table or has an invalid figure; nothing is merged.
        """
        contents = [read_table(Path(path)) for path in paths]
        with self._told(), self._connection:
            for content in contents:
                self._take("wholes", content["wholes"])
            return sum(self._take("kernels", content["kernels"]) for content in contents)

    def _dump(self, table: str) -> list[dict[str, Any]]:
        names = _COLUMNS[table]
        with self._told():
            found = self._connection.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2, 3, 4")
            return [dict(zip(names, row, strict=True)) for row in found]

    def _take(self, table: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Insert rows that are newer than those of the same key; returns their number."""
        names, key = _COLUMNS[table], _KEYS[table]
        newer = "excluded.date > date"
        query = (
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET "
            f"{', '.join(f'{name} = excluded.{name}' for name in names)} WHERE {newer}"
        )
        return sum(
            self._connection.execute(query, [row[name] for name in names]).rowcount > 0 for row in rows
        )

    def close(self) -> None:
        """Close the file; idempotent."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

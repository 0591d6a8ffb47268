"""The user's own table is a cache: a damaged one is set aside, one that cannot be written is done without."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mcc.calibrate import own_table
from mcc.calibrate.store import Store
from mcc.compress.measurement_store import MeasuredFiles


def _execute(*statements: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def _cut(path: Path) -> None:
    MeasuredFiles("a", path).put("key", "x" * 100_000)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no table": lambda path: path.write_text("my shopping list, which is a little longer than a header"),
    "cut": _cut,
    "another format": _execute("PRAGMA user_version = 99"),
    "other columns": _execute("DROP TABLE kernels", "CREATE TABLE kernels (a, b)"),
    "other columns of files": _execute("CREATE TABLE files (a, b)"),
    "a folder": _folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_set_aside_and_begun_again(
    damage: str, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = cache_dir / "latencies.sqlite"
    cache_dir.mkdir()
    Store(table).close()
    DAMAGE[damage](table)
    before = table.read_bytes() if table.is_file() else b""
    with Store() as store:
        assert store.rows("a") == []
    files = MeasuredFiles("a")
    files.put("key", 7)
    found = files.get("key")
    assert found is not None
    assert found.value == 7
    (aside,) = cache_dir.glob("*.damaged-1")
    assert not aside.is_file() or aside.read_bytes() == before
    assert len(caplog.records) == 1
    assert "latencies.sqlite is damaged" in caplog.text


def test_an_empty_file_is_an_empty_table(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache_dir.mkdir()
    (cache_dir / "latencies.sqlite").touch()
    with Store() as store:
        assert store.rows("a") == []
    assert not caplog.records


def test_a_cache_that_cannot_be_made_is_done_without(
    cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache_dir.write_text("a file where the folder should be")
    files = MeasuredFiles("a")
    files.put("key", 7)
    with Store() as store:
        assert store.path == files.path
    assert MeasuredFiles("a").get("key") is not None  # within this process
    assert cache_dir.read_text() == "a file where the folder should be"
    assert len(caplog.records) == 1
    assert "MCC_CACHE_DIR" in caplog.text


def test_a_table_that_cannot_be_written_is_read(
    cache_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    MeasuredFiles("a").put("key", 7)
    monkeypatch.setattr(own_table, "_writable", lambda path: False)
    files = MeasuredFiles("a")
    assert files.get("key") is not None
    files.put("other", 8)
    assert MeasuredFiles("a", cache_dir / "latencies.sqlite").get("other") is None
    assert len(caplog.records) == 1

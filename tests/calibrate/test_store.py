"""The table: what goes in comes out, tables merge, other versions do not count, processes share it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mcc.calibrate.store import Store, Whole, default_path
from mcc.cost_api import Kernel, Measurement
from mcc.errors import DataError
from mcc.ir.notes import SparseNote
from tests.calibrate.kernels import conv

FINGERPRINT = "litert-host|cpu|ai-edge-litert|2.3.0|1|linux"
NEWER_VERSION = "litert-host|cpu|ai-edge-litert|2.4.0|1|linux"
OTHER_TARGET = "ort-host|cpu|onnxruntime|1.32.0|1|linux"


def row(kernel: Kernel, us: float = 5.0, date: str = "2026-11-23T10:00:00+00:00") -> Measurement:
    return Measurement(kernel, us, us - 1, us + 1, 300, date, 0.25)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    kernels = [
        conv(16, 24),
        replace(conv(8, 8), layout="nchw", sparse=SparseNote(2, 0.8)),
        conv(4, 4, window=3),
    ]
    with Store(tmp_path / "t.sqlite") as store:
        store.add(FINGERPRINT, [row(kernel) for kernel in kernels])
    with Store(tmp_path / "t.sqlite") as store:
        assert {r.kernel: r for r in store.rows(FINGERPRINT)} == {k: row(k) for k in kernels}
        assert store.known(FINGERPRINT) == {str(kernel) for kernel in kernels}


def test_a_kernel_measured_again_replaces_its_row(tmp_path: Path) -> None:
    with Store(tmp_path / "t.sqlite") as store:
        store.add(FINGERPRINT, [row(conv(8, 8), 5.0)])
        store.add(FINGERPRINT, [row(conv(8, 8), 7.0)])
        assert [r.latency_us for r in store.rows(FINGERPRINT)] == [7.0]


def test_rows_of_another_version_do_not_count_and_are_reported(tmp_path: Path) -> None:
    with Store(tmp_path / "t.sqlite") as store:
        store.add(NEWER_VERSION, [row(conv(8, 8)), row(conv(8, 16))])
        store.add(OTHER_TARGET, [row(conv(8, 8))])
        assert store.rows(FINGERPRINT) == []
        assert store.others(FINGERPRINT) == {NEWER_VERSION: 2}
        assert store.forget(NEWER_VERSION) == 2
        assert store.others(FINGERPRINT) == {}


@pytest.mark.parametrize("exported", [True, False], ids=["json", "sqlite"])
def test_merging_takes_what_is_newer(tmp_path: Path, exported: bool) -> None:
    source = tmp_path / "a.sqlite"
    with Store(source) as store:
        store.add(FINGERPRINT, [row(conv(8, 8), 1.0, "2026-01-01"), row(conv(8, 16), 2.0, "2026-03-01")])
        store.set_whole(FINGERPRINT, Whole("overhead", "int8", 4.0, 3.0, 5.0, "input 1x3x8x8", "2026-03-01"))
        if exported:
            source = tmp_path / "a.json"
            assert store.export(source) == 2
    with Store(tmp_path / "b.sqlite") as store:
        store.add(FINGERPRINT, [row(conv(8, 8), 9.0, "2026-02-01")])
        assert store.merge(source) == 1
        assert {r.kernel.output[1]: r.latency_us for r in store.rows(FINGERPRINT)} == {8: 9.0, 16: 2.0}
        assert [w.value for w in store.wholes(FINGERPRINT)] == [4.0]
        assert store.merge(source) == 0


def test_what_is_no_table_is_refused_and_nothing_is_merged(tmp_path: Path) -> None:
    with Store(tmp_path / "t.sqlite") as store:
        store.export(tmp_path / "good.json")
        content = json.loads((tmp_path / "good.json").read_text())
        content["kernels"] = [{"fingerprint": FINGERPRINT, "kernel": "x", "fields": "{}", "date": "2026"}]
        for name, text in {"bad.json": json.dumps(content), "text": "hello", "list": "[]"}.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(DataError):
                store.merge(tmp_path / name)
        with pytest.raises(DataError, match="no such file"):
            store.merge(tmp_path / "missing")
        assert store.rows(FINGERPRINT) == []


def test_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "noise.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match="cannot be used"):
        Store(tmp_path / "noise.sqlite")
    connection = sqlite3.connect(tmp_path / "later.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataError, match="format 99"):
        Store(tmp_path / "later.sqlite")


def test_the_cache_folder_can_be_chosen(cache_dir: Path) -> None:
    with Store() as store:
        assert store.path == default_path() == cache_dir / "latencies.sqlite"
        assert store.path.is_file()


WRITER = """
import sys
from mcc.calibrate.store import Store
from tests.calibrate.kernels import conv
from tests.calibrate.test_store import FINGERPRINT, row
with Store(sys.argv[1]) as store:
    for made in range(1, 21):
        store.add(FINGERPRINT, [row(conv(int(sys.argv[2]), made))])
"""


@pytest.mark.slow
def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    commands = [[sys.executable, "-c", WRITER, str(path), str(number)] for number in (1, 2)]
    root = Path(__file__).parents[2]
    running = [subprocess.Popen(command, cwd=root) for command in commands]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    with Store(path) as store:
        assert len(store.rows(FINGERPRINT)) == 40

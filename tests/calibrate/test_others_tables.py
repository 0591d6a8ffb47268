"""Tables of others: a figure that cannot be refuses the whole merge, and their files are only read."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.calibrate.rows import check_kernel, kernel_in, moment
from mcc.calibrate.store import Store, Whole
from mcc.cli import main
from mcc.cost_api import Kernel, OperandShape, graph_kernels
from mcc.errors import DataError, MccError
from tests.calibrate.kernels import conv
from tests.calibrate.test_store import FINGERPRINT, row
from tests.property.graphs import seeded_graph

Content = dict[str, Any]
LATER = (datetime.now(UTC) + timedelta(days=3)).isoformat()


def exported(folder: Path) -> Content:
    """A sound table of two kernels and one whole."""
    with Store(folder / "sound.sqlite") as store:
        store.add(FINGERPRINT, [row(conv(8, 8)), row(conv(8, 16))])
        store.set_whole(FINGERPRINT, Whole("overhead", "int8", 4.0, 3.0, 5.0, "input 1x3x8x8", "2026-03-01"))
        store.export(folder / "sound.json")
    content: Content = json.loads((folder / "sound.json").read_text())
    return content


def changed_kernel(**changes: Any) -> Callable[[Content], object]:
    """An edit of the second kernel's own description, and of its name with it."""

    def edit(content: Content) -> None:
        entry = content["kernels"][1]
        entry["fields"] = json.dumps({**json.loads(entry["fields"]), **changes})
        with contextlib.suppress(ValueError):  # what is no kernel has no name
            entry["kernel"] = str(kernel_in(entry["fields"]))

    return edit


def field(name: str, value: Any, kind: str = "kernels") -> Callable[[Content], object]:
    """An edit of one field of a row."""
    return lambda content: content[kind][-1].update({name: value})


POSITIVE = "latency_us: must be greater than 0"
COUNT = "fingerprint: must hold a number of threads"

EDITS: dict[str, tuple[Callable[[Content], object], str]] = {
    "negative time": (field("latency_us", -5), f"row 2 of kernels .*{POSITIVE}, not -5"),
    "no time": (field("latency_us", 0), "latency_us: must be greater than 0, not 0"),
    "infinite time": (field("latency_us", float("inf")), "is neither SQLite nor JSON"),
    "time of ages": (field("latency_us", 1e300), "latency_us: must be less than"),
    "time as text": (field("latency_us", "5"), "latency_us: must be a valid number, not '5'"),
    "time as flag": (field("latency_us", True), "latency_us: must be a valid number"),
    "no figure": (field("latency_us", None), "latency_us: must be a valid number"),
    "huge integer": (field("runs", 10**400), "runs: "),
    "half a run": (field("runs", 1.5), "runs: "),
    "no run": (field("runs", 0), "runs: must be greater than or equal to 1"),
    "interval": (field("low_us", 7.0), "latency_us: must lie between low_us and high_us"),
    "load": (field("others_cores", -1.0), "others_cores: must be greater than or equal to 0"),
    "date": (field("date", "zzzz"), "date: must be a date like .* not 'zzzz'"),
    "date of tomorrow": (field("date", LATER), "date: must be a date from 2000 until today"),
    "date of old": (field("date", "0001-01-01"), "date: must be a date from 2000"),
    "no day": (field("date", "2026-02-30"), "date: must be a date like"),
    "date as number": (field("date", 2026), "date: must be a valid string"),
    "fingerprint": (field("fingerprint", "litert-host"), "fingerprint: must hold target | device"),
    "target": (field("fingerprint", "abacus|cpu|x|1|1|linux"), "names a target that is not mcc's"),
    "option": (field("fingerprint", "ort-host:x|cpu|x|1|1|linux"), "fingerprint: names a target"),
    "threads": (field("fingerprint", "ort-host|cpu|x|1|0|linux"), COUNT),
    "column more": (field("comment", "x"), "comment: Extra inputs are not permitted"),
    "column less": (lambda c: c["kernels"][-1].pop("runs"), "runs: Field required"),
    "no row": (lambda c: c["kernels"].append(3), "row 3 of kernels"),
    "no kernel": (field("fields", "{}"), "fields: describes no kernel"),
    "no JSON": (field("fields", "{"), "fields: describes no kernel"),
    "deep": (field("fields", "[" * 200_000), "fields: describes no kernel"),
    "operator": (changed_kernel(op="conv9d"), "fields: describes no kernel: operator 'conv9d'"),
    "precision": (changed_kernel(precision="int3"), "its precision is 'int3'"),
    "layout": (changed_kernel(layout="diagonal"), "its layout is 'diagonal'"),
    "sparsity": (changed_kernel(sparse=[1, 1.5]), "fields: describes no kernel"),
    "all zeros": (changed_kernel(sparse=[1, 1.0]), "its sparsity must lie in 0..1"),
    "width 0": (changed_kernel(output=[1, 0, 8, 8]), "one of its shapes is"),
    "width as text": (changed_kernel(output=["a"]), "one of its shapes is"),
    "output": (changed_kernel(output=[1, 17, 8, 8]), "makes .* of its operands, not"),
    "attributes": (changed_kernel(attributes=[["stride", [0, 0]]]), "describes no kernel"),
    "another name": (field("kernel", "conv2d()"), "kernel: is not the name of the kernel"),
    "quantity": (field("quantity", "luck", "wholes"), "row 1 of wholes: quantity: must be one of overhead"),
    "whole's precision": (field("precision", "int3", "wholes"), "precision: must be one of float"),
    "overhead": (field("value", -4.0, "wholes"), "value: an overhead must not be negative"),
    "correction": (
        lambda c: c["wholes"][0].update(quantity="correction", value=1e6),
        "value: a correction must lie in",
    ),
    "whole's range": (field("low", 9.0, "wholes"), "low: must not exceed high"),
    "whole's date": (field("date", "zzzz", "wholes"), "date: must be a date"),
    "format": (lambda c: c.update(format=2), "of format 1"),
    "format as flag": (lambda c: c.update(format=True), "of format 1"),
    "no wholes": (lambda c: c.pop("wholes"), "must hold the lists"),
    "table more": (lambda c: c.update(notes=[]), "must hold the lists"),
    "no list": (lambda c: c.update(kernels={}), "must hold the lists"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_figure_that_cannot_be_refuses_the_whole_merge(edit: str, tmp_path: Path) -> None:
    content = exported(tmp_path)
    change, complaint = EDITS[edit]
    change(content)
    (tmp_path / "edited.json").write_text(json.dumps(content))
    with Store(tmp_path / "mine.sqlite") as store:
        with pytest.raises(DataError, match=complaint) as caught:
            store.merge(tmp_path / "sound.json", tmp_path / "edited.json")
        assert str(caught.value).startswith(str(tmp_path / "edited.json"))
        assert "nothing was merged" in str(caught.value)
        assert store.known(FINGERPRINT) == set()  # not even of the sound one
        assert store.wholes(FINGERPRINT) == []
        assert store.merge(tmp_path / "sound.json") == 2


SQL_EDITS = {
    "UPDATE kernels SET latency_us = -5": "latency_us: must be greater than 0, not -5",
    "UPDATE kernels SET latency_us = 9e999": "latency_us: ",
    "UPDATE kernels SET latency_us = 'fast'": "latency_us: must be a valid number, not 'fast'",
    "UPDATE kernels SET date = 'zzzz'": "date: must be a date",
    "UPDATE kernels SET fields = x'ff'": "fields: ",
    "UPDATE wholes SET value = 9e999": "value: ",
    "ALTER TABLE kernels ADD COLUMN more": "the columns of kernels must be",
    "DROP TABLE wholes": "is an SQLite file, but no table",
    "PRAGMA user_version = 7": "is an SQLite file, but no table",
    "PRAGMA user_version = 0": "is an SQLite file, but no table",
    "DROP TABLE wholes; CREATE VIEW wholes AS WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n": "is an SQLite file, but no table",
}


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file in a folder."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("statement", SQL_EDITS)
def test_an_edited_sqlite_table_is_refused_and_not_touched(statement: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    exported(theirs)
    with sqlite3.connect(theirs / "sound.sqlite") as connection:
        connection.executescript(statement)
    connection.close()
    before = everything(theirs)
    with Store(tmp_path / "mine.sqlite") as store:
        with pytest.raises(DataError, match=SQL_EDITS[statement]):
            store.merge(theirs / "sound.sqlite")
        assert store.known(FINGERPRINT) == set()
    assert everything(theirs) == before


def test_other_peoples_files_are_only_read(tmp_path: Path, cache_dir: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    exported(theirs)
    with sqlite3.connect(theirs / "bookmarks.sqlite") as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    (theirs / "empty.sqlite").touch()
    os.chmod(theirs / "sound.sqlite", 0o444)
    before = everything(theirs)
    names = {"sound.sqlite": 0, "bookmarks.sqlite": 2, "empty.sqlite": 2}
    for name, status in names.items():
        words = ["calibrate", "--target", "litert-host", "--merge", str(theirs / name)]
        assert main.run(words) == status
        assert everything(theirs) == before


def test_a_table_that_is_being_written_or_no_file_is_refused(tmp_path: Path) -> None:
    exported(tmp_path)
    (tmp_path / "sound.sqlite-journal").write_bytes(b"half a change")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 30)
    with Store(tmp_path / "mine.sqlite") as store:
        for name, complaint in {
            "sound.sqlite": "is being written",
            "pipe": "is a named pipe",
            "large": "more than the .* that mcc reads",
            ".": "is a folder",
        }.items():
            with pytest.raises(DataError, match=complaint):
                store.merge(tmp_path / name)


def test_a_database_of_another_program_gets_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "latencies.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"another program \(it holds bookmarks\)"):
        Store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("statement", [s for s in SQL_EDITS if s.startswith("UPDATE") and "date" not in s])
def test_an_edited_row_of_ones_own_is_named(statement: str, tmp_path: Path) -> None:
    exported(tmp_path)
    with sqlite3.connect(tmp_path / "sound.sqlite") as connection:
        connection.executescript(statement)
    connection.close()
    with Store(tmp_path / "sound.sqlite") as store:
        with pytest.raises(DataError, match=SQL_EDITS[statement]) as caught:
            _ = store.rows(FINGERPRINT), store.wholes(FINGERPRINT)
        assert "what it held is measured again" in str(caught.value)


def test_the_later_of_two_rows_stays_whatever_the_time_zone(tmp_path: Path) -> None:
    content = exported(tmp_path)
    for name, date, us in (("a", "2026-03-01T23:00:00-05:00", 5.0), ("b", "2026-03-02T01:00:00+00:00", 5.5)):
        content["kernels"][0].update(date=date, latency_us=us)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with Store(tmp_path / "mine.sqlite") as store:
        store.merge(tmp_path / "a.json")
        store.merge(tmp_path / "b.json")
        assert store.rows(FINGERPRINT)[0].latency_us == 5.0  # 04:00 in UTC is the later one
    assert moment("2026-03-01T23:00:00-05:00") == "2026-03-02T04:00:00+00:00"


@pytest.fixture
def sound_table(tmp_path: Path) -> str:
    return json.dumps(exported(tmp_path))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)  # fmt: skip
@given(data=st.data())
def test_a_random_edit_works_or_is_one_sentence(
    data: st.DataObject, tmp_path: Path, sound_table: str
) -> None:
    content = json.loads(sound_table)
    kind = data.draw(st.sampled_from(["kernels", "wholes", "fields"]))
    entry = content["kernels" if kind == "fields" else kind][0]
    held = json.loads(entry["fields"]) if kind == "fields" else entry
    name = data.draw(st.sampled_from(sorted(held)))
    held[name] = data.draw(VALUES)
    if kind == "fields":
        entry["fields"] = json.dumps(held)
    (tmp_path / "edited.json").write_text(json.dumps(content))
    (tmp_path / "mine.sqlite").unlink(missing_ok=True)
    with Store(tmp_path / "mine.sqlite") as store:
        refused = ""
        try:
            store.merge(tmp_path / "edited.json")
        except MccError as error:
            refused = str(error)
        assert all(r.latency_us > 0 for r in store.rows(FINGERPRINT))
        if refused:
            assert "edited.json" in refused
            assert store.known(FINGERPRINT) == set()


@pytest.mark.parametrize("seed", range(20))
def test_kernels_of_real_networks_pass(seed: int) -> None:
    for kernel in graph_kernels(seeded_graph(seed)).values():
        check_kernel(kernel_in(json.dumps(kernel.to_json())))


@pytest.mark.parametrize("bounds", [(-math.inf, 1.0), (-1.5, math.inf)])
def test_a_clamp_with_one_bound_is_read_back(bounds: tuple[float, float]) -> None:
    x = OperandShape((1, 8, 4, 4))
    kernel = Kernel("clamp", (x,), x.shape, (("min", bounds[0]), ("max", bounds[1])))
    text = json.dumps(kernel.to_json(), allow_nan=False)
    assert kernel_in(text) == kernel
    check_kernel(kernel_in(text))

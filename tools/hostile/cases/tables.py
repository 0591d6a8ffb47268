"""Tables, plans, results of kits, and one's own cache."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.hostile.case import Case
from tools.hostile.inputs import PLAN, graph, plan, table

Make = Callable[[Path], None]
MERGE = "calibrate --target litert-host --merge t.json"
FOLLOW = "compress net.py:net --data data.py:data --target litert-host --plan plan.json -o ../out/job"
GIGABYTE = 1 << 30


def _table(**changes: Any) -> Make:
    return lambda folder: table(folder / "t.json", **changes)


def _plan(**changes: Any) -> Make:
    return lambda folder: plan(folder, **changes)


def _text(name: str, text: str) -> Make:
    """A file of that text, beside a sound network, its data and a plan."""

    def make(folder: Path) -> None:
        plan(folder)
        (folder / name).write_text(text)

    return make


def _large(name: str) -> Make:
    def make(folder: Path) -> None:
        plan(folder)
        (folder / name).write_text('{"structure": ')
        os.truncate(folder / name, GIGABYTE)

    return make


def _pipe(name: str) -> Make:
    def make(folder: Path) -> None:
        plan(folder)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def _database(name: str, *statements: str) -> Make:
    def make(folder: Path) -> None:
        graph(folder / "m.mcc")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path)
        with connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return make


def _own(latency_us: float) -> Make:
    """One's own cache, with a row of this machine edited."""

    def make(folder: Path) -> None:
        from mcc.calibrate.store import Store
        from mcc.cost_api import Kernel, Measurement, OperandShape
        from mcc.runtime.registry import get_target

        graph(folder / "m.mcc")
        kernel = Kernel("relu", (OperandShape((1, 8, 8, 8)),), (1, 8, 8, 8), ())
        row = Measurement(kernel, latency_us, 4.0, 6.0, 300, "2026-11-23T10:00:00+00:00", 0.0)
        with Store(folder.parent / "cache" / "latencies.sqlite") as store:
            store.add(get_target("litert-host").fingerprint(1).key(), [row])

    return make


def _noise(folder: Path) -> None:
    graph(folder / "m.mcc")
    (folder.parent / "cache" / "latencies.sqlite").write_bytes(b"no database at all" * 100)


def _foreign_cache(folder: Path) -> None:
    _database("../cache/latencies.sqlite", "CREATE TABLE bookmarks (url TEXT)")(folder)


def _results(**run: Any) -> Make:
    def make(folder: Path) -> None:
        kit = {"format": 1, "target": "litert-android", "version": "1", "threads": 1, "seed": 0,
               "networks": []}  # fmt: skip
        timed = {"file": "a.tflite", "kind": "timed", "round": 1, "reports": [{"ns": [1e6]}], **run}
        content = {
            "format": 1,
            "kit": [json.dumps(kit)],
            "facts": [],
            "before": [],
            "after": [],
            "runs": [timed],
        }
        (folder / "r.json").write_text(json.dumps(content))

    return make


def _explained(folder: Path) -> None:
    one = {"what": "dense", "latency_us": -5.0, "error_us": 1.0, "source": "measured", "size_bytes": 1.0,
           "loss": None, "taken": True, "why": ""}  # fmt: skip
    choice = {"node": "c", "kind": "conv2d", "forms": [one], "group": None, "widths": []}
    content = {"structure": PLAN, "alternatives": {"c": choice}}
    (folder / "plan.json").write_text(json.dumps(content))


_ENDLESS = (
    "CREATE TABLE kernels (a)",
    "PRAGMA user_version = 1",
    "CREATE VIEW wholes AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
)
_USE = "explain c m.mcc --target litert-host"
CASES = (
    Case("tables/time of -5", _table(latency_us=-5), MERGE, r"t\.json: row 1 .*latency_us.*-5"),
    Case("tables/time of 0", _table(latency_us=0), MERGE, r"t\.json: row 1 .*latency_us"),
    Case("tables/time without end", _table(latency_us=float("inf")), MERGE, r"t\.json"),
    Case("tables/date zzzz", _table(date="zzzz"), MERGE, r"t\.json: row 1 .*date.*zzzz"),
    Case("tables/date of the year 9000", _table(date="9000-01-01"), MERGE, r"t\.json: row 1 .*date"),
    Case("tables/a column more", _table(owner="me"), MERGE, r"t\.json: row 1 .*owner"),
    Case("tables/a kernel that cannot be", _table(fields='{"op": "x"}'), MERGE, r"t\.json: row 1 .*fields"),
    Case("tables/target that is not there", _table(fingerprint="abacus|a|b|c|1|d"), MERGE, "fingerprint"),
    Case("tables/a list", _text("t.json", "[]"), MERGE, r"t\.json: is no table"),
    Case("tables/a gigabyte", _large("t.json"), MERGE, r"t\.json"),
    Case("tables/a pipe", _pipe("t.json"), MERGE, r"t\.json"),
    Case("tables/bookmarks of a browser", _database("t.json", "CREATE TABLE bookmarks (url TEXT)"), MERGE,
         r"t\.json: is an SQLite file, but no table"),
    Case("tables/a view without end", _database("t.json", *_ENDLESS), MERGE,
         r"t\.json: is an SQLite file, but no table"),
    Case("kits/time of -5", _results(reports=[{"ns": [-5]}]), "calibrate --from r.json", "run 1: ns"),
    Case("kits/no JSON", _text("r.json", "{"), "calibrate --from r.json", r"r\.json"),
    Case("plans/sparsity of 1.5", _plan(sparse={"block": 1, "sparsity": 1.5}), FOLLOW, "sparse.sparsity"),
    Case("plans/width of 0", _plan(widths={"c": 0}), FOLLOW, r"widths\.c.*not 0"),
    Case("plans/wider than the layer", _plan(widths={"c": 9}), FOLLOW, r"widths\.c.*1\.\.8, not 9"),
    Case("plans/layer that is not there", _plan(widths={"nose": 4}), FOLLOW, r"widths\.nose"),
    Case("plans/rank beyond the layer's", _plan(ranks={"p": 99}), FOLLOW, r"ranks\.p.*not 99"),
    Case("plans/unknown precision", _plan(precision="int3"), FOLLOW, "precision"),
    Case("plans/text for a number", _plan(widths={"c": "4"}), FOLLOW, r"widths\.c"),
    Case("plans/a million brackets", _text("plan.json", "[" * 1_000_000), FOLLOW, r"plan\.json"),
    Case("plans/NaN", _text("plan.json", '{"structure": NaN}'), FOLLOW, r"plan\.json.*NaN"),
    Case("plans/a gigabyte", _large("plan.json"), FOLLOW, r"plan\.json"),
    Case("plans/a pipe", _pipe("plan.json"), FOLLOW, r"plan\.json"),
    Case("plans/explained with a time of -5", _explained, "explain c plan.json", "latency_us"),
    Case("cache/an edited row", _own(-5.0), _USE, r"latencies\.sqlite.*latency_us.*-5"),
    Case("cache/no database", _noise, _USE, r"latencies\.sqlite", frozenset({0, 2})),
    Case("cache/a database of another program", _foreign_cache, _USE, r"latencies\.sqlite.*bookmarks"),
)  # fmt: skip

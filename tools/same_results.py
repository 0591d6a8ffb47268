"""Compare the plans, files and figures of two checkouts: run at one, run at the other, compare.

    python -m tools.same_results run out/before --weights DIR --cifar DIR     at the commit before
    python -m tools.same_results run out/after --weights DIR --cifar DIR --tape out/before
    python -m tools.same_results compare out/before out/after

Each case is one `mcc.compress` with a fixed seed in an empty cache. Costs on `litert-arm64-sim:a76` are
counted and therefore equal. Those of `litert-host` are measured and recorded on a tape by the first run; the
second replays them, in the order in which a file was measured, and reports how often it had to measure
because the tape has no such file: that alone shows that another plan was made.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from pydantic import TypeAdapter

import mcc.compress
import mcc.compress.live_cost_model as costs
from mcc.calibrate.store import Store, Whole
from mcc.cost_api import Kernel, Measurement
from mcc.errors import ConstraintError
from mcc.runtime import get_target
from mcc.runtime.samples import LatencySamples
from mcc.runtime.session import OpTime
from mcc.runtime.target import Target
from tools.results.data import named

SIMULATED, HOST = "litert-arm64-sim:a76", "litert-host"
NETWORKS = "tools/baselines/networks.py"
IGNORED = ("stages", "versions", "command", "timed_at", "remembered", "target")
_SECONDS = re.compile(r"\d{4}-\d\d-\d\d(T[\d:+]+)?")
FILLING = ("calibrate", "measure")  # functions of mcc.compress.live_cost_model that fill the table of kernels
TABLE: tuple[TypeAdapter[Any], ...] = (TypeAdapter(list[Measurement]), TypeAdapter(list[Whole]))
KINDS: dict[str, TypeAdapter[Any]] = {
    "time": TypeAdapter(list[LatencySamples]),
    "profile": TypeAdapter(list[OpTime]),
    "peak_memory": TypeAdapter(int),
}


@dataclass(frozen=True)
class Case:
    """One job."""

    name: str
    model: str
    weights: str
    target: str
    epochs: float = 0.0
    cifar: bool = True
    budget: dict[str, Any] = field(default_factory=lambda: {"speedup": 2.0})


CASES = tuple(
    Case(f"{network} on {target.partition(':')[0]}", f"{NETWORKS}:{network}", network, target)
    for network in ("resnet20", "mobilenet_v2")
    for target in (SIMULATED, HOST)
) + tuple(
    Case(f"digits on {target.partition(':')[0]}{', trained' if epochs else ''}",
         "mcc.examples.digits:network", "digits", target, epochs, False)
    for target, epochs in ((SIMULATED, 0.0), (HOST, 0.0), (HOST, 1.0))
)  # fmt: skip


def _whole(kernel: Kernel) -> Kernel:
    """A kernel with tuples in place of the lists of JSON."""
    attributes = tuple((name, _tuples(value)) for name, value in kernel.attributes)
    return replace(kernel, attributes=attributes)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Tape:
    """Measurements of one target: recorded, or replayed if a tape has them.

    Args:
        path: Path of the tape of this run, for a later one.
        read: Tape of an earlier run; None: record only.
    """

    def __init__(self, path: Path, read: Path | None) -> None:
        self.path = path
        self.kept: dict[str, list[Any]] = {}
        self.known: dict[str, list[Any]] = json.loads(read.read_text()) if read and read.exists() else {}
        self.asked: Counter[str] = Counter()
        self.missing = 0

    @contextmanager
    def measuring(self, target: Target) -> Generator[None]:
        """Measure a target, and fill the table of kernels, through the tape."""
        with ExitStack() as stack:
            for home, names, through in (
                (type(target), KINDS, self._timing),
                (costs, FILLING, self._filling),
            ):
                for name in names:
                    replaced = through(name, getattr(home, name))
                    stack.enter_context(mock.patch.object(home, name, replaced))
            yield

    def _timing(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def measure(one: Target, files: Any, *args: Any, **kwargs: Any) -> Any:
            return self._figure(name, one, files, lambda: method(one, files, *args, **kwargs))

        return measure

    def _filling(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The functions that fill the table, replayed call by call."""

        def fill(subject: Any, target: Target, store: Store, *args: Any, **kwargs: Any) -> None:
            key, print_ = f"table {name}", target.fingerprint(1).key()
            turn, known = self.asked[key], self.known.get(key, [])
            self.asked[key] += 1
            if turn < len(known):
                rows, wholes = (kind.validate_python(known[turn][i]) for i, kind in enumerate(TABLE))
                store.add(print_, [replace(row, kernel=_whole(row.kernel)) for row in rows])
                for whole in wholes:
                    store.set_whole(print_, whole)
            else:
                self.missing += bool(self.known)
                old = [str(row) for row in store.rows(print_)]
                function(subject, target, store, *args, **kwargs)
                rows = [row for row in store.rows(print_) if str(row) not in old]
                wholes = store.wholes(print_)
            made = [kind.dump_python(x, mode="json") for kind, x in zip(TABLE, (rows, wholes), strict=True)]
            self._keep(key, made)

        return fill

    def _keep(self, key: str, value: Any) -> None:
        self.kept.setdefault(key, []).append(value)
        self.path.write_text(json.dumps(self.kept))

    def _figure(self, name: str, target: Target, files: Any, measure: Callable[[], Any]) -> Any:
        many = [files] if isinstance(files, Path | str) else files
        marks = ",".join(hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for file in many)
        key = f"{name} {target.spec} {marks}"
        turn = self.asked[key]
        self.asked[key] += 1
        adapter, found = KINDS[name], self.known.get(key, [])
        if found:
            value = adapter.validate_python(found[min(turn, len(found) - 1)])
        else:
            self.missing += bool(self.known)
            value = measure()
        self._keep(key, adapter.dump_python(value, mode="json"))
        return value


def outcome(folder: Path) -> dict[str, Any]:
    """The compared results of a finished job: plan, bytes of every file, figures."""
    report = json.loads((folder / "report.json").read_text())
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".tflite", ".onnx", ".pte"))
    plan = json.loads((folder / "plan.json").read_text())
    return {
        "plan": plan["structure"],
        "files": {str(p.relative_to(folder)): digest(p) for p in files if "trials" not in p.parts},
        "report": json.loads(
            _SECONDS.sub("", json.dumps({k: v for k, v in report.items() if k not in IGNORED}))
        ),
    }


def digest(file: Path) -> str:
    """SHA-256 of a file without the version of mcc in its metadata."""
    content = file.read_bytes().replace(mcc.__version__.encode(), b"")
    return hashlib.sha256(content).hexdigest()


@click.group()
def main() -> None:
    """Compare plans, files and figures of two checkouts."""


@main.command()
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--weights", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--cifar", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tape", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", default="", help="Cases whose name contains this.")
def run(output: Path, weights: Path, cifar: Path, tape: Path | None, only: str) -> None:
    """Run the cases that have no outcome in the folder yet."""
    torch.set_num_threads(1)
    for case in (c for c in CASES if only in c.name):
        folder = output / case.name.replace(" ", "-").replace(",", "")
        kept = folder / "outcome.json"
        if kept.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["MCC_CACHE_DIR"] = str(_fresh_cache(folder / "cache"))
        record = Tape(folder / "tape.json", tape / folder.name / "tape.json" if tape else None)
        measuring = record.measuring(get_target(case.target)) if case.target == HOST else nullcontext()
        try:
            with measuring:
                mcc.compress.compress(
                    case.model, named(str(cifar)) if case.cifar else "digits", case.target,
                    epochs=case.epochs, weights=weights / f"{case.weights}.safetensors",
                    out=folder / "job", seed=0, force=True, **case.budget,
                )  # fmt: skip
        except ConstraintError as error:
            click.echo(f"{case.name}: {error}")
        kept.write_text(json.dumps({**outcome(folder / "job"), "missing": record.missing}, indent=1))
        click.echo(f"{case.name}: done, {record.missing} measurements were not on the tape")


def _fresh_cache(folder: Path) -> Path:
    """An empty cache that shares what was fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    fetched, link = Path.home() / ".cache" / "mcc" / "tools", folder / "tools"
    if fetched.exists() and not link.exists():
        link.symlink_to(fetched)
    return folder


@main.command()
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Compare the outcomes of two runs; status 1 if they differ."""
    unlike = 0
    print("| case | plan | files | figures |\n| --- | --- | --- | --- |")
    for path in sorted(before.glob("*/outcome.json")):
        name = path.parent.name
        other = after / name / "outcome.json"
        if not other.exists():
            print(f"| {name} | not run | | |")
            unlike += 1
            continue
        a, b = json.loads(path.read_text()), json.loads(other.read_text())
        files = sum(a["files"].get(file) == mark for file, mark in b["files"].items())
        wrong = differences(a["report"], b["report"])
        same = a["plan"] == b["plan"]
        unlike += not same or files != len(a["files"]) or bool(wrong)
        words = f"{'same' if same else 'another'} | {files} of {len(a['files'])} same | {in_words(wrong)}"
        print(f"| {name} | {words} |")
    sys.exit(bool(unlike))


def differences(a: Any, b: Any, where: str = "") -> dict[str, float]:
    """Places where the second report differs from the first, with the relative deviation of numbers.

    Additional entries of the second are ignored. Differences of other types than numbers are infinite.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        found = [differences(a[key], b.get(key), f"{where}.{key}".lstrip(".")) for key in a]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        found = [differences(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True))]
    elif a == b:
        found = []
    elif isinstance(a, float | int) and isinstance(b, float | int) and a:
        found = [{where: abs(b - a) / abs(a)}]
    else:
        found = [{where: math.inf}]
    return {place: share for one in found for place, share in one.items()}


def in_words(unlike: dict[str, float]) -> str:
    """The largest deviation of each figure, over all strategies."""
    largest: dict[str, float] = {}
    for place, share in unlike.items():
        name = re.sub(r"\[\d+\]", "", place).rpartition(".")[2]
        largest[name] = max(share, largest.get(name, 0.0))
    said = [n if math.isinf(share) else f"{n} by up to {share:.2g}" for n, share in sorted(largest.items())]
    return "same" if not said else f"different: {', '.join(said)}"


if __name__ == "__main__":
    main()

"""Calibration kits for phones that are not attached.

`pack` runs the calibration of a network against a replacement that records all requests, and writes for the
phone's owner:

    DIR/README.txt  run.sh          for the owner's computer
    DIR/phone/                      for the phone: programs, kit.sh, jobs.txt, kit.json, models/

`read_results_into` runs the same calibration against the returned results, into a separate table, and merges
it.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcc.calibrate import kernel_selection
from mcc.calibrate.api import common_networks
from mcc.calibrate.kernel_selection import CalibrationReport
from mcc.calibrate.measure import Progress, silent
from mcc.calibrate.store import Store
from mcc.errors import DataError, TargetError, UsageError
from mcc.ir.graph import Graph
from mcc.ir.text import parse_graph, print_graph, text_constants
from mcc.lower.formats import get_format
from mcc.runtime.android import offline_phone
from mcc.runtime.android.phone import SCRIPT
from mcc.runtime.android.target import AndroidTarget
from mcc.runtime.registry import get_target, targets
from mcc.runtime.session import OpTime
from mcc.runtime.target import Target

SOURCES = SCRIPT.parent
MOST_THREADS = 1024  # no phone has as many cores


@dataclass(frozen=True)
class Kit:
    """A packed kit: folder, number of models, size, and kernels that are excluded."""

    folder: Path
    models: int
    bytes: int
    failed: tuple[tuple[str, str], ...]


def pack(
    target: Target,
    graph: Graph | None,
    folder: Path,
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Kit:
    """Pack a kit for the calibration of a network, or of common networks if none is given.

    Args:
        target: `litert-android` or `ort-android`; no phone needs to be attached.
        graph: Graph in deployment form, float. Its weights are not packed: no time depends on them.
        folder: Folder that does not exist or is empty.

    Raises:
        UsageError: The target is another, or the folder is not empty.
        TargetError: The programs for the phone are not fetched.
    """
    if not isinstance(target, AndroidTarget):
        raise UsageError(f"a kit is for a phone, not for {target.name}", hint="--target litert-android")
    _, programs = target.programs()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("is there already", where=str(folder), hint="name a folder that does not exist")
    texts = [shape_only(network) for network in ([graph] if graph is not None else common_networks())]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mcc-kit-", dir=folder.parent) as scratch:
        made = Path(scratch) / "kit"
        models = made / "phone" / "models"
        models.mkdir(parents=True)
        packing = offline_phone.Packing(models, _host_ops(target))
        reports = _calibrate(target.far(packing), texts, Path(scratch) / "table", threads, seed, progress)
        about = {
            "format": offline_phone.FORMAT, "target": target.name, "version": target.runtime_version(),
            "threads": threads, "seed": seed, "networks": texts,
        }  # fmt: skip
        (made / "phone" / "kit.json").write_text(json.dumps(about, indent=1) + "\n")
        (made / "phone" / "jobs.txt").write_text("\n".join(packing.jobs) + "\n")
        for source in (*programs, SCRIPT, SOURCES / "kit.sh"):
            shutil.copy(source, made / "phone" / source.name)
        shutil.copy(SOURCES / "run.sh", made)
        shutil.copy(SOURCES / "kit_readme.txt", made / "README.txt")
        files = [path for path in made.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    failed = dict(pair for report in reports for pair in report.failed)
    return Kit(folder, sum(path.parent.name == "models" for path in files), size, tuple(failed.items()))


def read_results_into(
    results: Path, table: Path | None = None, *, progress: Progress = silent
) -> tuple[CalibrationReport, str]:
    """Merge the results of a kit into the table.

    Args:
        results: Path of the file from the phone's owner.
        table: Path of the SQLite file; the user's own table if None.

    Returns:
        A report, and the fingerprint of the phone.

    Raises:
        DataError: The file is not from a kit, or from another version of the runtime.
        TargetError: The phone could run none of the models.
    """
    content = offline_phone.read_results(results)
    kit: Mapping[str, Any] = content["kit"]
    texts, threads, seed, version = _described(kit, results)
    target = get_target(str(kit["target"]))
    if not isinstance(target, AndroidTarget):
        raise DataError(f"is of {target.name}, which is no phone", where=str(results))
    if version != target.runtime_version():
        raise DataError(
            f"was measured with {target.runtime} {version}, and here is {target.runtime_version()}",
            where=str(results), hint="pack a new kit",
        )  # fmt: skip
    _check_networks(texts, results)
    far = target.far(offline_phone.Recorded(results, target.op_times))
    with tempfile.TemporaryDirectory(prefix="mcc-kit-") as scratch:
        fresh = Path(scratch) / "table.sqlite"
        reports = _calibrate(far, texts, fresh, threads, seed, progress)
        with Store(table) as store:
            store.merge(fresh)
            path = store.path
    report = reports[0] if len(reports) == 1 else replace(
        reports[0], measured=sum(r.measured for r in reports), known=sum(r.known for r in reports),
        failed=tuple(dict(pair for r in reports for pair in r.failed).items()),
    )  # fmt: skip
    if report.measured == 0:
        why = report.failed[0][1] if report.failed else "it holds no runs"
        raise TargetError(f"none of its kernels was measured: {why}", where=str(results))
    return replace(report, path=path), far.fingerprint(threads).key()


def _described(kit: Mapping[str, Any], where: Path) -> tuple[list[str], int, int, str]:
    """Networks, threads, seed and runtime version of a kit. Raises DataError."""
    rules: dict[str, Callable[[Any], bool]] = {
        "target": lambda value: value in targets(),
        "networks": lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),  # pyright: ignore[reportUnknownVariableType]
        "threads": lambda value: type(value) is int and 0 < value <= MOST_THREADS,
        "seed": lambda value: type(value) is int and 0 <= value < 1 << 63,
        "version": lambda value: isinstance(value, str),
    }
    for name, rule in rules.items():
        if name not in kit or not _holds(rule, kit[name]):
            said = f", not {str(kit[name])[:40]!r}" if name in kit else ", and is missing"
            raise DataError(
                f"holds no results of a kit: kit.{name} must be what mcc packed{said}", where=str(where)
            )
    return list(kit["networks"]), kit["threads"], kit["seed"], kit["version"]


def _holds(rule: Callable[[Any], bool], value: object) -> bool:
    try:
        return rule(value)
    except TypeError:  # a list in place of a name cannot be looked up
        return False


def _check_networks(texts: list[str], where: Path) -> None:
    """Raise GraphError, naming the file, unless every network of a kit is a graph."""
    for number, text in enumerate(texts, start=1):
        parse_graph(text, where=f"{where}: network {number}")


def shape_only(graph: Graph) -> str:
    """The text of a graph with placeholder weights: one over the number of inputs, to preserve magnitudes."""
    makers: dict[str, str] = {}
    for name, value in text_constants(graph).items():
        if value.is_floating_point():
            level = 1.0 / max(1, value[0].numel()) if value.ndim > 1 else 0.0
            makers[name] = f"full({level!r})"
    text = print_graph(graph, makers)
    parse_graph(text)  # raises for other constants, which a kit cannot have
    return text


def _calibrate(
    target: AndroidTarget, texts: list[str], table: Path, threads: int, seed: int, progress: Progress
) -> list[CalibrationReport]:
    with Store(table) as store:
        return [
            kernel_selection.calibrate(
                parse_graph(text), target, store, threads=threads, budget_s=math.inf,
                choices=kernel_selection.choices_for(target, seed), progress=progress,
            )
            for text in texts
        ]  # fmt: skip


def _host_ops(target: Target) -> Callable[[Path], list[OpTime]]:
    host = get_target(get_format(target.format).host)

    def ops(file: Path) -> list[OpTime]:
        return host.profile(file, runs=1)

    return ops

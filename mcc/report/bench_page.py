"""HTML page of a benchmark, which can repeat the measurement in the visitor's browser."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mcc.errors import DataError
from mcc.files import write_text
from mcc.ir.outputs import note_made
from mcc.report.formatting import time_words
from mcc.report.page import render
from mcc.runtime.litert_web import WEB
from mcc.runtime.samples import LatencySamples
from mcc.runtime.target import Fingerprint

SCRIPTS = ("bench.mjs", "models.mjs", "messages.mjs")
NAMES = ("index.html", *SCRIPTS, "litertjs", "models")
"""Files to copy into the folder of a page."""

PARTS = ("core/dist/index.js", "wasm-utils/dist/index.js", "core/wasm")
"""Files of the folder node_modules/@litertjs that a page loads."""


@dataclass(frozen=True)
class Timed:
    """A measured file, its display name, and its samples."""

    name: str
    path: Path
    latency: LatencySamples


def write_bench_page(folder: Path, timed: Sequence[Timed], where: Fingerprint) -> Path:
    """Write `index.html`, and the files that repeat the measurement; returns the path of the page.

    Only .tflite files can be measured again in a browser, and only if LiteRT.js is installed here: otherwise
    the page only shows the measurement.

    Raises:
        DataError: The folder cannot be written.
    """
    live = (WEB / "node_modules").is_dir() and all(each.path.suffix == ".tflite" for each in timed)
    entries = [
        {
            "file": each.name,
            **each.latency.as_json(),
            "samples": [round(value, 3) for value in each.latency.samples],
            "per_sample": each.latency.per_sample,
            "size_bytes": each.path.stat().st_size,
        }
        for each in timed
    ]
    addresses = [f"models/{index}.tflite" for index in range(len(timed))]
    named = [{"name": t.name, "address": a} for t, a in zip(timed, addresses, strict=True)]
    values = {
        "target": where.as_json(),
        "headline": _headline(timed),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "entries": entries,
        "files": named if live else [],
    }
    page = render("bench.html.j2", values)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if live:
            _write_live(folder, timed, addresses)
        write_text(folder / "index.html", page)
        note_made(folder, NAMES if live else NAMES[:1])
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror}", where=str(error.filename or folder)
        ) from error
    return folder / "index.html"


def _headline(timed: Sequence[Timed]) -> str:
    fastest = min(timed, key=lambda each: each.latency.median_us)
    slowest = max(timed, key=lambda each: each.latency.median_us)
    said = f"{fastest.name}: {time_words(fastest.latency.median_us)}"
    if fastest is slowest:
        return said
    ratio = slowest.latency.median_us / fastest.latency.median_us
    return f"{said}, {ratio:.2f}x faster than {slowest.name}"


def _write_live(folder: Path, timed: Sequence[Timed], addresses: Sequence[str]) -> None:
    for name in SCRIPTS:
        shutil.copyfile(WEB / name, folder / name)
    for part in PARTS:
        source, target = WEB / "node_modules" / "@litertjs" / part, folder / "litertjs" / part
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=_unused)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    (folder / "models").mkdir(exist_ok=True)
    for each, address in zip(timed, addresses, strict=True):
        shutil.copyfile(each.path, folder / address)


def _unused(_: str, names: list[str]) -> set[str]:
    """Builds of LiteRT.js that the page does not load: those with threads, or with stack switching."""
    return {name for name in names if "_threaded_" in name or "_jspi_" in name}

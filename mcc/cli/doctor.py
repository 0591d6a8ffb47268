"""The command `mcc doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from mcc.cli.output import print_json, print_table
from mcc.cli.settings import Settings, common_options

LIBRARIES = (
    "torch",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "tensorflow",
    "executorch",
    "playwright",
    "numpy",
    "scipy",
)
TOOLS = {
    "chromium": "the browser of target litert-web (apt-get install chromium; the extra `web` drives it)",
    "node": "LiteRT.js outside a browser (target litert-web:node)",
    "adb": "Android phones (targets litert-android and ort-android)",
}
FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Processor features that determine the speed of int8."""


@click.command(short_help="Show what this machine can use, and how to get the rest.")
@click.option(
    "--install", metavar="TARGET", help="First fetch this target's dependencies into mcc's cache folder."
)
@common_options
def doctor(install: str | None, settings: Settings) -> int:
    """Show what this machine can use, and how to get the rest.

    Exit status 1 if no target is usable.
    """
    from mcc.cli.targets import describe
    from mcc.runtime.registry import targets

    if install is not None:
        _install(install, settings)
    found = [describe(target) for target in targets().values()]
    report: dict[str, Any] = {
        "machine": _machine(),
        "libraries": _libraries(),
        "tools": _tools(),
        "targets": found,
    }
    if settings.json:
        print_json(report)
    else:
        _print(report)
    return 0 if any(entry["available"] for entry in found) else 1


def _install(spec: str, settings: Settings) -> None:
    """Fetch the dependencies of a target, except those already present."""
    from mcc.cli.models import get_target

    target = get_target(spec)
    ready = target.available().ok
    target.install(lambda text: None if settings.quiet or settings.json else click.echo(text, err=True))
    if not settings.json:
        click.echo(f"{target.name}: {'already present' if ready else 'ready'}")


def _machine() -> dict[str, Any]:
    from mcc.runtime.processor import host_device

    words: set[str] = set()
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        words = set()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "executable": sys.executable,
        "processor": host_device(),
        "cores": os.cpu_count(),
        "features": [flag for flag in FLAGS if flag in words],
        "cache": str(cache_folder()),
    }


def cache_folder() -> Path:
    """Folder of measurements and downloads; set by `MCC_CACHE_DIR`."""
    import platformdirs

    return Path(os.environ.get("MCC_CACHE_DIR") or platformdirs.user_cache_dir("mcc"))


def _libraries() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _tools() -> dict[str, dict[str, str | None]]:
    return {name: {"path": shutil.which(name), "for": purpose} for name, purpose in TOOLS.items()}


def _print(report: dict[str, Any]) -> None:
    machine: list[list[object]] = []
    for key, value in report["machine"].items():
        machine.append([key, ", ".join(value) or "none" if isinstance(value, list) else value])  # pyright: ignore[reportUnknownArgumentType]
    print_table(["machine", ""], machine)
    click.echo("")
    libraries = [[name, version or "not installed"] for name, version in report["libraries"].items()]
    print_table(["library", "version"], libraries)
    click.echo("")
    tools = [[name, tool["path"] or "not found", tool["for"]] for name, tool in report["tools"].items()]
    print_table(["program", "where", "for"], tools)
    click.echo("")
    rows = [
        [t["name"], "yes" if t["available"] else "no", t["version"] or t["reason"]] for t in report["targets"]
    ]
    print_table(["target", "usable", "runtime, or why not"], rows)
    for entry in report["targets"]:
        if not entry["available"]:
            click.echo(f"\nTo get {entry['name']}: {entry['how_to_get'] or entry['reason']}")

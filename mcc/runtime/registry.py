"""Discovery of targets by scanning this package: any module in it with a `TARGET` object is a target."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import mcc.runtime
from mcc.errors import TargetError, UsageError
from mcc.runtime.target import Target

# Modules other than targets; listed so that looking up one target does not import them.
MACHINERY = frozenset(
    {
        "android",
        "arm64",
        "browser",
        "facts",
        "host",
        "litert_profile",
        "lock",
        "page_server",
        "process",
        "processor",
        "registry",
        "samples",
        "session",
        "simulated",
        "target",
        "timing",
        "units",
        "wire",
        "worker",
    }
)


def targets() -> dict[str, Target]:
    """All targets by name, sorted.

    Raises:
        TargetError: A file's `TARGET` is not a Target, or is not named like its file.
    """
    found: dict[str, Target] = {}
    for module in sorted(item.name for item in pkgutil.iter_modules(mcc.runtime.__path__)):
        if module not in MACHINERY:
            target = _target_in(module)
            if target is not None:
                found[target.name] = target
    return found


def target_names() -> list[str]:
    """Names of all targets, without loading any runtime."""
    return list(targets())


def get_target(spec: str) -> Target:
    """A target by name; an option may follow a colon: `ort-host:fast`.

    Raises:
        UsageError: There is no such target or option; the message lists the existing ones.
    """
    name, colon, option = spec.partition(":")
    found = targets()
    if name not in found:
        raise UsageError(f"unknown target {name!r}", hint=f"known targets: {', '.join(found)}")
    if colon and not option:
        raise UsageError(f"target {spec!r} ends in a colon without an option")
    return found[name].with_option(option) if colon else found[name]


def _target_in(module: str) -> Target | None:
    target: Any = getattr(importlib.import_module(f"mcc.runtime.{module}"), "TARGET", None)
    if target is None:
        return None
    if not isinstance(target, Target):
        raise TargetError("TARGET is not a mcc.runtime.Target", where=f"mcc/runtime/{module}.py")
    if target.name.replace("-", "_") != module:
        raise TargetError(
            f"target {target.name!r} must live in a file of its own name", where=f"mcc/runtime/{module}.py"
        )
    return target

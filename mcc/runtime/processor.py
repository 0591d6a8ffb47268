"""Properties of this machine's processor that affect measurements."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path


@cache
def _processor() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty without that file."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        fields = {}
    return fields


def processor_flags() -> frozenset[str]:
    """Instruction-set flags of this machine, in Linux's names."""
    return frozenset((_processor().get("flags") or _processor().get("Features") or "").split())


def host_device() -> str:
    """Processor model of this machine and eight hex digits over its instruction-set flags."""
    fields = _processor()
    model = fields.get("model name") or fields.get("CPU part") or platform.processor() or "unknown processor"
    flags = " ".join(sorted(processor_flags()))
    return f"{model} [{hashlib.sha256(flags.encode()).hexdigest()[:8]}]"

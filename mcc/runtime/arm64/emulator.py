"""Emulation of ARM64 programs with qemu-user, including a core's system files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mcc.runtime.arm64.cores import Core
from mcc.runtime.arm64.install import Installed

# Files that cpuinfo reads besides /proc/cpuinfo: one processor and its topology.
SYSTEM_FILES = {
    "possible": "0",
    "present": "0",
    "online": "0",
    "cpu0/topology/physical_package_id": "0",
    "cpu0/topology/core_id": "0",
    "cpu0/cpufreq/cpuinfo_max_freq": "2000000",
    "cpu0/cpufreq/cpuinfo_min_freq": "2000000",
}


def emulated(tools: Installed, core: Core, program: Path, *, qemu_options: Sequence[str] = ()) -> list[str]:
    """Command that runs an ARM64 program; its arguments follow.

    The program sees this system's files, except those that describe the processor: cpuinfo crashes on those
    of the host.
    """
    return [
        str(tools.qemu),
        "-L",
        str(looks(tools, core)),
        "-cpu",
        core.qemu_cpu,
        "-E",
        f"LD_LIBRARY_PATH=/lib:{tools.litert.parent}",
        "-E",
        "LD_BIND_NOW=1",  # otherwise the first call of each function includes its symbol look-up
        *qemu_options,
        str(program),
    ]


def looks(tools: Installed, core: Core) -> Path:
    """Folder that overlays the host's files: the C library of ARM64, /proc/cpuinfo and /sys of the core."""
    folder = tools.folder / "cores" / f"{core.name}-{core.part:x}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    (made / "proc").mkdir()
    (made / "proc" / "cpuinfo").write_text(core.cpuinfo())
    for name, text in SYSTEM_FILES.items():
        path = made / "sys" / "devices" / "system" / "cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (made / "lib").mkdir()
    for library in tools.arm_libraries():
        (made / "lib" / library.name).symlink_to(os.path.relpath(library.resolve(), folder / "lib"))
    try:
        made.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(made)
    return folder

"""The phone behind adb: its files, its properties, and its commands.

    root/data/local/tmp        where adb users may write
    root/system/bin            Android's shell (mksh) and tools (toybox), `getprop` and `dumpsys`
    root/system/etc            what the latter two say
    root/sys, root/cpuinfo     processors with their clocks and governors, thermal zones, battery

PRoot shows a command these folders under Android's own paths, beside the machine's own libraries, and hands
ARM64 programs to qemu-aarch64. What is emulated is marked as such, as on Google's emulator: `ro.boot.qemu=1`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tests.runtime.stand_in import shell

PROGRAMS = ("adb", "proot", "qemu-aarch64", "mksh", "toybox")
CORE = "cortex-a76"  # the instructions that qemu knows
LITTLE_KHZ, BIG_KHZ = 1_800_000, 2_850_000
# Features of a Cortex-A76 in /proc/cpuinfo; its part number there is 0xd0b, the A55's 0xd05.
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)

PROPERTIES: Mapping[str, str] = {
    "ro.product.manufacturer": "Stand-in",
    "ro.product.model": "Loopback 1",
    "ro.product.name": "loopback",
    "ro.product.device": "loopback",
    "ro.soc.manufacturer": "QEMU",
    "ro.soc.model": "user",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.boot.qemu": "1",
}

GETPROP = """#!/system/bin/sh
while IFS== read -r key value; do
    if [ $# = 0 ]; then echo "[$key]: [$value]"; elif [ "$key" = "$1" ]; then echo "$value"; fi
done < /system/etc/properties
"""
DUMPSYS = """#!/system/bin/sh
cat "/system/etc/dumpsys/$1" 2> /dev/null || echo "Can't find service: $1"
"""
THERMAL = "IsStatusOverride: false\nThermalEventListeners:\n\tcallbacks: 2\nThermal Status: {status}\n"
BATTERY = "Current Battery Service state:\n  USB powered: true\n  level: 83\n  voltage: 4012\n"


@dataclass
class Trouble:
    """What goes wrong with commands that match a pattern, once they have run for `after_s`."""

    kill: str | None = None  # the whole process group dies, as when the phone runs out of memory
    unplug: str | None = None
    corrupt: bool = False  # the last byte of what is pushed is another one
    after_s: float = 0.05

    def strike(self, command: str, process: subprocess.Popen[bytes], unplug: Callable[[], None]) -> None:
        for pattern, act in ((self.kill, lambda: shell.kill(process)), (self.unplug, unplug)):
            if pattern is not None and re.search(pattern, command):
                time.sleep(self.after_s)
                act()


@dataclass
class Phone:
    """A phone's files under `root`, made when it is created.

    Attributes:
        disk_bytes: free space; None for no limit.
        commands: every command that was run, for tests to look at.
    """

    ANNOUNCED: ClassVar[tuple[str, ...]] = ("ro.product.name", "ro.product.model", "ro.product.device")

    root: Path
    properties: Mapping[str, str] = field(default_factory=lambda: dict(PROPERTIES))
    disk_bytes: int | None = None
    trouble: Trouble = field(default_factory=Trouble)
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counting = threading.Lock()
        self.temporary.mkdir(parents=True)
        self._write_system()
        self._write_processors()
        self.set_thermal(0, 31_000)
        self.write("sys/class/power_supply/battery/current_now", "412000")
        self.write("sys/class/power_supply/battery/voltage_now", "4012000")
        self.write("sys/class/power_supply/battery/temp", "290")

    @property
    def temporary(self) -> Path:
        """/data/local/tmp."""
        return self.root / "data/local/tmp"

    def local(self, path: str) -> Path:
        """Where a file of the phone lies on this machine."""
        return self.root / path.lstrip("/")

    def take(self, count: int) -> None:
        """Use that much of the disk; OSError when it is full."""
        with self._counting:
            if self.disk_bytes is not None:
                if count > self.disk_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.disk_bytes -= count

    def write(self, path: str, text: str) -> None:
        """Write one of the phone's own files."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n")

    def set_thermal(self, status: int, millidegrees: int) -> None:
        """What Android's thermal service says (0: none to 6: shutdown), and the temperature of the cores."""
        self.write("system/etc/dumpsys/thermalservice", THERMAL.format(status=status))
        self.write("sys/class/thermal/thermal_zone0/type", "cpu-1-0")
        self.write("sys/class/thermal/thermal_zone0/temp", str(millidegrees))
        self.write("sys/class/thermal/thermal_zone1/type", "battery")
        self.write("sys/class/thermal/thermal_zone1/temp", "29000")

    def command(self, line: str) -> Sequence[str]:
        """What runs a line of shell on the phone."""
        self.commands.append(line)
        tools = {name: str(shutil.which(name)) for name in ("proot", "qemu-aarch64")}
        binds = [f"--bind={self.root / name}:/{name}" for name in ("data", "system", "sys")]
        binds.append(f"--bind={self.root / 'cpuinfo'}:/proc/cpuinfo")
        environment = ["PATH=/system/bin", "HOME=/", "TMPDIR=/data/local/tmp", "ANDROID_ROOT=/system"]
        environment.append(f"QEMU_CPU={CORE}")
        return [
            "env", "-i", *environment, tools["proot"], "-q", tools["qemu-aarch64"], *binds, "-w", "/",
            "/system/bin/sh", "-c", line,
        ]  # fmt: skip

    def _write_system(self) -> None:
        folder = self.root / "system/bin"
        folder.mkdir(parents=True)
        toybox, mksh = str(shutil.which("toybox")), str(shutil.which("mksh"))
        names = subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split()
        for name in names:
            (folder / name).symlink_to(toybox)
        (folder / "sh").symlink_to(mksh)
        for name, text in (("getprop", GETPROP), ("dumpsys", DUMPSYS)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.write("system/etc/properties", "\n".join(f"{k}={v}" for k, v in self.properties.items()))
        self.write("system/etc/dumpsys/battery", BATTERY)

    def _write_processors(self) -> None:
        """As many cores as the machine has, so that pinning works; the upper half are the big ones."""
        count = max(2, os.cpu_count() or 2)
        listed, text = f"0-{count - 1}", list[str]()
        for name in ("possible", "present", "online"):
            self.write(f"sys/devices/system/cpu/{name}", listed)
        for core in range(count):
            big = core >= count // 2
            folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
            self.write(f"{folder}/cpuinfo_max_freq", str(BIG_KHZ if big else LITTLE_KHZ))
            self.write(f"{folder}/scaling_cur_freq", str(BIG_KHZ if big else LITTLE_KHZ))
            self.write(f"{folder}/scaling_governor", "schedutil")
            part = "0xd0b" if big else "0xd05"
            text.append(
                f"processor\t: {core}\nBogoMIPS\t: 38.40\nFeatures\t: {FEATURES}\nCPU implementer\t: 0x41\n"
                f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 0\n"
            )
        self.write("cpuinfo", "\n".join(text))

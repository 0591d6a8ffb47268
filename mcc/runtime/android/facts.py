"""Facts about a phone and its state, parsed from the output of phone.sh."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABI = "arm64-v8a"


def read_pairs(text: str) -> dict[str, str]:
    """Parse lines of key=value; others are skipped."""
    return {
        key.strip(): value.strip()
        for key, mark, value in (line.partition("=") for line in text.splitlines())
        if mark
    }


@dataclass(frozen=True)
class PhoneFacts:
    """Constant facts about a phone.

    Attributes:
        model: Maker and model.
        soc: Chip, if Android names it.
        android: Version and API level.
        abis: Supported binary interfaces, the native one first.
        emulated: Whether it reports to be an emulator, whose times are not those of a phone.
        max_khz: Highest clock of each core, by number; empty if it may not be read.
        features: Features of the instruction set, from /proc/cpuinfo.
    """

    model: str
    soc: str
    android: str
    abis: tuple[str, ...]
    emulated: bool
    max_khz: tuple[tuple[int, int], ...]
    features: tuple[str, ...]

    @staticmethod
    def read(text: str) -> PhoneFacts:
        """Parse the output of `phone.sh facts`."""
        found = read_pairs(text)

        def said(*names: str) -> str:
            return " ".join(filter(None, (found.get(name, "") for name in names)))

        named = f"{said('ro.product.cpu.abilist')},{said('ro.product.cpu.abi')}"
        clocks = {int(k.removeprefix("khz.")): v for k, v in found.items() if k.startswith("khz.")}
        return PhoneFacts(
            model=said("ro.product.manufacturer", "ro.product.model") or "unknown model",
            soc=said("ro.soc.manufacturer", "ro.soc.model") or said("ro.board.platform") or "unknown chip",
            android=f"{said('ro.build.version.release')} (API {said('ro.build.version.sdk')})",
            abis=tuple(dict.fromkeys(abi for abi in named.split(",") if abi)),
            emulated="1" in (found.get("ro.boot.qemu"), found.get("ro.kernel.qemu")),
            max_khz=tuple(sorted((core, int(khz)) for core, khz in clocks.items() if khz.isdigit())),
            features=tuple(sorted(found.get("features", "").split())),
        )

    @property
    def device(self) -> str:
        """One line for fingerprints and reports, common to phones of one model, chip and system."""
        flags = hashlib.sha256(" ".join(self.features).encode()).hexdigest()[:8]
        kind = "emulated " if self.emulated else ""
        abi = self.abis[0] if self.abis else "unknown ABI"
        return f"{kind}{self.model}, {self.soc}, {abi} [{flags}]"

    @property
    def system(self) -> str:
        """Android's version, for fingerprints."""
        return f"android-{self.android}"

    def fastest_cores(self, threads: int) -> tuple[int, ...]:
        """The cores of the highest clock, then those of the next lower, one for each thread."""
        chosen: list[int] = []
        for khz in sorted({khz for _, khz in self.max_khz}, reverse=True):
            chosen += [core for core, clock in self.max_khz if clock == khz]
            if len(chosen) >= threads:
                return tuple(sorted(chosen))
        return ()


def core_mask(cores: Sequence[int]) -> str:
    """Cores in the form of taskset: a mask in hex; 0 for any."""
    return f"{sum(1 << core for core in cores):x}"


@dataclass(frozen=True)
class PhoneState:
    """State of a phone at one moment; None for unknown values.

    Attributes:
        thermal: Android's thermal status, 0 (none) to 6 (shutdown).
        hottest_millidegrees: Highest temperature of the sensors of its processors.
        governors: Governors of the cores' clocks.
        load: One-minute load average.
        battery_microamperes, battery_microvolts: Readings of the battery; signs differ between phones.
    """

    thermal: int | None
    hottest_millidegrees: int | None
    governors: Mapping[int, str]
    current_khz: Mapping[int, int]
    load: float | None
    battery_microamperes: int | None
    battery_microvolts: int | None
    battery_percent: int | None

    @staticmethod
    def read(text: str) -> PhoneState:
        """Parse the output of `phone.sh state`."""
        found = read_pairs(text)

        def number(name: str) -> int | None:
            value = found.get(name, "")
            return int(value) if value.lstrip("-").isdigit() else None

        def by_core(kind: str) -> dict[int, str]:
            return {
                int(key.removeprefix(f"{kind}.")): value
                for key, value in found.items()
                if key.startswith(f"{kind}.") and value
            }

        load = found.get("load", "")
        return PhoneState(
            thermal=number("thermal"),
            hottest_millidegrees=number("hottest"),
            governors=by_core("governor"),
            current_khz={core: int(khz) for core, khz in by_core("current_khz").items() if khz.isdigit()},
            load=float(load) if load.replace(".", "", 1).isdigit() else None,
            battery_microamperes=number("battery_microamperes"),
            battery_microvolts=number("battery_microvolts"),
            battery_percent=number("battery_percent"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "thermal_status": self.thermal,
            "hottest_celsius": None
            if self.hottest_millidegrees is None
            else self.hottest_millidegrees / 1000,
            "governors": sorted(set(self.governors.values())),
            "current_khz": {str(core): khz for core, khz in self.current_khz.items()},
            "load": self.load,
            "battery_percent": self.battery_percent,
        }

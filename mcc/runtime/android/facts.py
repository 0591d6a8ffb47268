"""What a phone is, and the state that it is in: the answers of phone.sh, read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABI = "arm64-v8a"


def read_pairs(text: str) -> dict[str, str]:
    """Lines of key=value; others are left out."""
    return {
        key.strip(): value.strip()
        for key, mark, value in (line.partition("=") for line in text.splitlines())
        if mark
    }


@dataclass(frozen=True)
class PhoneFacts:
    """What never changes while a phone runs.

    Attributes:
        model: maker and model.
        soc: the chip, as far as Android names it.
        android: version and API level.
        abis: binary interfaces that it runs, the first is its own.
        emulated: it is an emulator, by its own account: its times are no phone's.
        max_khz: highest clock of each core, by number; empty where that may not be read.
        features: of the instruction set, from /proc/cpuinfo.
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
        """From `phone.sh facts`."""
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
        """One line for fingerprints and reports: phones of one model, chip and system share it."""
        flags = hashlib.sha256(" ".join(self.features).encode()).hexdigest()[:8]
        kind = "emulated " if self.emulated else ""
        abi = self.abis[0] if self.abis else "unknown ABI"
        return f"{kind}{self.model}, {self.soc}, {abi} [{flags}]"

    @property
    def system(self) -> str:
        """Android's version, for fingerprints."""
        return f"android-{self.android}"

    def fastest_cores(self, threads: int) -> tuple[int, ...]:
        """The cores of the highest clock, then those of the next lower, until the threads have one each."""
        chosen: list[int] = []
        for khz in sorted({khz for _, khz in self.max_khz}, reverse=True):
            chosen += [core for core, clock in self.max_khz if clock == khz]
            if len(chosen) >= threads:
                return tuple(sorted(chosen))
        return ()


def core_mask(cores: Sequence[int]) -> str:
    """Cores as taskset takes them: a mask in hex; 0 for none in particular."""
    return f"{sum(1 << core for core in cores):x}"


@dataclass(frozen=True)
class PhoneState:
    """A phone at one moment; None where it does not tell.

    Attributes:
        thermal: Android's thermal status, 0 (none) to 6 (shutdown).
        hottest_millidegrees: of the sensors of its processors.
        governors: that set the clock of each core.
        load: average of the last minute.
        battery_microamperes, battery_microvolts: as the battery reports them; signs differ between phones.
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
        """From `phone.sh state`."""
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

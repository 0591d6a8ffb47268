"""Base of the targets on phones: finding the phone, its queue, its runner, its fingerprint.

A target on a phone is a file in `mcc/runtime/` with a subclass of `AndroidTarget`, which defines the files
for the phone, the options of the runner, and the reading of its profile.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from mcc.errors import TargetError
from mcc.runtime.android import adb
from mcc.runtime.android.facts import PhoneFacts
from mcc.runtime.android.offline_phone import OfflinePhone
from mcc.runtime.android.phone import Phone, phone
from mcc.runtime.android.runner import Conditions, PhoneRunner
from mcc.runtime.samples import LatencySamples
from mcc.runtime.session import OpTime, Runner
from mcc.runtime.target import Availability, Fingerprint, Target


class AndroidTarget(Target):
    """A runtime on a phone over adb; the option is the phone's serial."""

    options: ClassVar[Mapping[str, str]] = {"SERIAL": "the phone that `adb devices` lists under that name"}
    memory_runners = 1  # no garbage is collected in the runner
    sample_us = 2_000.0  # long compared with clock steps and scheduler ticks, short compared with heating

    def __init__(self, option: str | None = None) -> None:
        super().__init__(None)
        self.option = option
        self._journal: dict[str, Conditions] = {}
        self._offline: OfflinePhone | None = None

    @abstractmethod
    def programs(self) -> tuple[str, Sequence[Path]]:
        """A key and the files for the phone: the dynamic loader first, the runner last.

        Raises:
            TargetError: They are not fetched or cannot be built.
        """

    @abstractmethod
    def op_times(self, report: Mapping[str, Any], runs: int) -> list[OpTime]:
        """Operator times from a report of the runner with a profile."""

    @abstractmethod
    def programs_available(self) -> Availability:
        """Whether the files for the phone are installed, or how to get them; nothing is built."""

    def far(self, away: OfflinePhone) -> Self:
        """This target with a replacement of a phone that is not attached."""
        copy = type(self)()
        copy._offline = away
        return copy

    def phone(self) -> Phone:
        """The phone. Raises TargetError if there is none, several without a serial, or an unusable one."""
        return phone(adb.choose(self.option))

    def available(self) -> Availability:
        """Whether adb, the phone's programs and the phone itself are available."""
        if self._offline is not None:
            return Availability(True)
        if adb.find_adb() is None:
            return Availability(False, "adb is not installed", adb.GET_ADB)
        state = self.programs_available()
        if not state.ok:
            return state
        try:
            adb.choose(self.option)
        except TargetError as error:
            return Availability(False, error.message, error.hint or "")
        return Availability(True)

    def say_what_is_missing(self, say: Callable[[str], None]) -> None:
        """Report missing parts that mcc cannot fetch: adb, and a phone."""
        state = self.available()
        if not state.ok:
            say(f"still missing: {state.reason}; {state.how_to_get}")

    def start_runner(self) -> Runner:
        """A runner on the phone."""
        return self.runner() if self._offline is None else self._offline.start_runner()

    def runner(self, *words: str) -> PhoneRunner:
        """A runner on the phone; `words` are options of each of its runs."""
        return PhoneRunner(self.phone(), self, self._journal, words)

    def runner_command(self) -> list[str]:
        """Raises TargetError: the runner is on the phone."""
        raise TargetError(f"the runner of {self.name} is on the phone, not on this machine")

    @contextmanager
    def measuring(self) -> Generator[None]:
        """The phone's own queue: activity on this machine does not affect it."""
        with self.phone().queue() if self._offline is None else nullcontext():
            yield

    def time(
        self,
        files: Sequence[Path | str],
        *,
        threads: int = 1,
        budget_s: float = 20.0,
        precision: float = 0.01,
        files_per_runner: int = 1,
    ) -> list[LatencySamples]:
        """See `Target.time`."""
        if self._offline is not None:
            return self._offline.time([self.checked(file, threads) for file in files], threads)
        return super().time(
            files, threads=threads, budget_s=budget_s, precision=precision, files_per_runner=files_per_runner
        )

    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 50) -> list[OpTime]:
        """See `Target.profile`."""
        from mcc.runtime.process import measure_op_times

        return measure_op_times(self, self.checked(file, threads), threads, runs)

    def conditions(self, file: Path | str, threads: int = 1) -> Mapping[str, Any]:
        """State of the phone while a file was timed, energy of an inference, and whether it is an emulator.

        Energy is measured at this call if the battery can be read, else it is None.
        """
        energy = None
        if self._offline is None and self.phone().tells_power():
            runner = self.runner()
            try:
                energy = runner.energy(str(Path(file).resolve()), threads)
            finally:
                runner.close()
        found = self._journal.get(str(Path(file).resolve()))
        about = self.phone_facts()
        return {
            "device": about.device,
            "emulated": about.emulated,
            "phone": found.to_dict() if found is not None else None,
            "energy": asdict(energy) if energy is not None else None,
        }

    def phone_facts(self) -> PhoneFacts:
        """Facts about the phone. Raises TargetError if no usable one is attached."""
        return self.phone().facts if self._offline is None else self._offline.facts

    def fingerprint(self, threads: int = 1) -> Fingerprint:
        """The fingerprint of a kind of phone, not of a single one, so that tables can be shared."""
        facts = self.phone_facts()
        return Fingerprint(
            self.name, facts.device, self.runtime, self.runtime_version(), threads, facts.system
        )

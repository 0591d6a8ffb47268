"""What the targets on a phone share: finding the phone, its queue, its runner, its fingerprint.

A target on a phone is a file in `mcc/runtime/` with a subclass of `AndroidTarget`: the files that the phone
needs, the options of the runner, and how its profile is read.
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
    sample_us = 2_000.0  # long against the clock's steps and a scheduler's tick, short against a phone's heat

    def __init__(self, option: str | None = None) -> None:
        super().__init__(None)
        self.option = option
        self._journal: dict[str, Conditions] = {}
        self._offline: OfflinePhone | None = None

    @abstractmethod
    def programs(self) -> tuple[str, Sequence[Path]]:
        """A key and the files that a phone needs: the dynamic loader first, the runner last.

        Raises:
            TargetError: they are not fetched or cannot be built.
        """

    @abstractmethod
    def op_times(self, report: Mapping[str, Any], runs: int) -> list[OpTime]:
        """Operators from a report of the runner with a profile."""

    @abstractmethod
    def programs_available(self) -> Availability:
        """Whether the files for the phone are here, or how to get them; nothing is built to find out."""

    def far(self, away: OfflinePhone) -> Self:
        """This target with something that stands for a phone that is not attached."""
        copy = type(self)()
        copy._offline = away
        return copy

    def phone(self) -> Phone:
        """The phone. Raises TargetError: none, several and none named, or one that cannot be used."""
        return phone(adb.choose(self.option))

    def available(self) -> Availability:
        """Whether adb, the phone's programs and the phone itself are here."""
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
        """What mcc cannot fetch: adb, and a phone."""
        state = self.available()
        if not state.ok:
            say(f"still missing: {state.reason}; {state.how_to_get}")

    def start_runner(self) -> Runner:
        """A runner on the phone."""
        return self.runner() if self._offline is None else self._offline.start_runner()

    def runner(self, *words: str) -> PhoneRunner:
        """A runner on the phone; `words` are options that each of its runs is given."""
        return PhoneRunner(self.phone(), self, self._journal, words)

    def runner_command(self) -> list[str]:
        """None here: the runner is on the phone."""
        raise TargetError(f"the runner of {self.name} is on the phone, not on this machine")

    @contextmanager
    def measuring(self) -> Generator[None]:
        """The phone's own queue: what happens on this machine does not disturb it."""
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
        """The phone while a file was timed, the energy of an inference, whether it is an emulator.

        Energy is measured now, where the phone's battery tells; None elsewhere.
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
        """What kind of phone it is. Raises TargetError where none is attached, or none that can be used."""
        return self.phone().facts if self._offline is None else self._offline.facts

    def fingerprint(self, threads: int = 1) -> Fingerprint:
        """What a measurement belongs to: a kind of phone, not a single one, so that tables can be shared."""
        facts = self.phone_facts()
        return Fingerprint(
            self.name, facts.device, self.runtime, self.runtime_version(), threads, facts.system
        )

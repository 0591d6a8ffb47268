"""Use of a phone: mcc's folder on it, exclusive access, and removal of all files."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import re
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from mcc.errors import MccError, TargetError
from mcc.runtime.android.adb import ASK_LIMIT_S, Adb
from mcc.runtime.android.facts import ABI, PhoneFacts, PhoneState, core_mask
from mcc.runtime.lock import lock_path

log = logging.getLogger(__name__)

TEMPORARY = "/data/local/tmp"  # the only folder in which adb's user may write and run programs
SCRIPT = Path(__file__).parent / "phone.sh"
QUEUE_POLL_S = 0.05


class Phone:
    """One phone. Nothing is sent to it before the first request.

    Its folder is named after this machine and process. Folders left by killed processes of this machine are
    removed by the next one.
    """

    def __init__(self, serial: str) -> None:
        self.adb = Adb(serial)
        self.serial = serial
        self.folder = f"{TEMPORARY}/mcc-{_machine()}-{os.getpid()}"
        # One instance for each phone: the lock is re-entrant within the process.
        name = hashlib.sha256(serial.encode()).hexdigest()[:12]
        self._queue = FileLock(
            lock_path().with_name(f"mcc-phone-{name}.lock"),
            mode=0o666, poll_interval=QUEUE_POLL_S, thread_local=False,
        )  # fmt: skip
        self._programs: dict[str, list[str]] = {}
        self.loaded: dict[str, Mapping[str, Any]] = {}  # answers of runners about files, by request
        self._pinned: dict[int, tuple[int, ...]] = {}
        self._numbers = 0

    @contextmanager
    def queue(self) -> Generator[None]:
        """Exclusive use of the phone; waits for other processes of this machine that use it."""
        with self._queue:
            yield

    @cached_property
    def facts(self) -> PhoneFacts:
        """Facts about the phone. Raises TargetError if it cannot run ARM64 programs, or is gone."""
        found = PhoneFacts.read(self.adb.shell(f"{SCRIPT.read_text()}\nfacts"))
        if ABI not in found.abis:
            runs = ", ".join(found.abis) or "nothing that it names"
            raise TargetError(
                f"the Android device {self.serial} runs {runs}, and the runner is built for {ABI}",
                hint="use a phone with a 64-bit system",
            )
        return found

    def install(self, key: str, files: Sequence[Path]) -> str:
        """Push programs, once for each phone and process, and check them by hash.

        Args:
            key: Key of these programs, the name of their folder on the phone.
            files: Files, which keep their names.

        Returns:
            Their folder on the phone.

        Raises:
            TargetError: As in `Adb`, or a file arrived with another content.
        """
        folder = f"{self.folder}/{key}"
        if key not in self._programs:
            _ = self.facts
            self._prepare()
            sent = [*files, SCRIPT]
            self.adb.shell(f"mkdir -p {folder}")
            self.adb.push(sent, folder)
            names = [path.name for path in sent]
            self.adb.shell(f"cd {folder} && chmod 755 {' '.join(map(shlex.quote, names))}")
            self._check(folder, sent)
            self._programs[key] = names
        return folder

    def _check(self, folder: str, sent: Sequence[Path]) -> None:
        found = self.adb.shell(
            f"cd {folder} && sha256sum {' '.join(shlex.quote(path.name) for path in sent)}"
        )
        lines = (line.split(maxsplit=1) for line in found.splitlines() if line.strip())
        hashes = {words[-1]: words[0] for words in lines}
        for path in sent:
            if hashes.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest():
                raise TargetError(
                    f"{path.name} did not arrive whole on the Android device {self.serial}",
                    hint="try another cable, or see whether its storage is full",
                )

    def scratch(self) -> str:
        """A new folder on the phone for one runner."""
        self._numbers += 1
        folder = f"{self.folder}/run{self._numbers}"
        self.adb.shell(f"mkdir -p {folder}")
        return folder

    def remove(self, folder: str) -> None:
        """Remove a folder of the phone, if the phone is still attached."""
        assert folder.startswith(f"{TEMPORARY}/mcc-"), folder
        with suppress(MccError):
            self.adb.shell(f"rm -rf {folder}")

    def call(
        self, programs: str, words: str, *, limit_s: float = ASK_LIMIT_S, where: str | None = None
    ) -> str:
        """Run a command of phone.sh. Raises TargetError."""
        return self.adb.shell(f"cd {programs} && sh ./{SCRIPT.name} {words}", limit_s=limit_s, where=where)

    def state(self, programs: str) -> PhoneState:
        """The present state of the phone."""
        return PhoneState.read(self.call(programs, "state"))

    def tells_power(self) -> bool:
        """Whether adb's user may read the battery's current and voltage."""
        state = PhoneState.read(self.adb.shell(f"{SCRIPT.read_text()}\nstate"))
        return None not in (state.battery_microamperes, state.battery_microvolts)

    def pinned(self, programs: str, threads: int) -> tuple[int, ...]:
        """The fastest cores if programs can be bound to them, else none; tested once for each `threads`."""
        if threads not in self._pinned:
            cores = self.facts.fastest_cores(threads)
            try:
                if cores:
                    self.call(programs, f"on {core_mask(cores)} 10 true")
            except TargetError as error:
                log.info("programs are not bound to cores: %s", error)
                cores = ()
            self._pinned[threads] = cores
        return self._pinned[threads]

    def _prepare(self) -> None:
        """Remove files of killed processes, and register the removal of those of this one."""
        listed = self.adb.shell(f"ls {TEMPORARY}")
        for name in listed.split():
            found = re.fullmatch(rf"mcc-{_machine()}-(\d+)", name)
            if found and not psutil.pid_exists(int(found[1])):
                log.info("removing %s, left behind on %s", name, self.serial)
                self.remove(f"{TEMPORARY}/{name}")
        if not self._programs:
            atexit.register(self.leave)

    def leave(self) -> None:
        """Remove all files of this process from the phone."""
        if self._programs:
            self._programs.clear()
            self.remove(self.folder)


@cache
def phone(serial: str) -> Phone:
    """The phone of a serial: one object for each, with the state of its files."""
    return Phone(serial)


def _machine() -> str:
    """Four hex digits for this machine, since machines may share a phone over the network."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]

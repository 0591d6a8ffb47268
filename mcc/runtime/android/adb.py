"""Interface to the adb client program: attached phones, commands, files.

The client program is used, not adb's server: users have it installed, it starts its server by itself, and it
supports every way of attaching a phone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcc.errors import TargetError

GET_ADB = "Debian and Ubuntu: apt-get install adb; elsewhere: Android's platform tools, with adb on the PATH"
PLUG_IN = "plug a phone in, allow USB debugging in its developer options, and see that `adb devices` lists it"
ASK_LIMIT_S = 60.0  # for short commands; the first call starts adb's server
FILE_LIMIT_S = 600.0  # for copying one file
TIMED_OUT = 124  # status of `timeout` when the limit was reached
SIGNALS = 128  # a shell's status of a program ended by a signal is this plus the signal's number
_END = "mcc-status="  # printed after a command, to detect one that did not complete
_STATES = {
    "unauthorized": (
        "has not allowed this computer to use it",
        "unlock the phone and tap Allow; if it does not ask, plug it in again",
    ),
    "authorizing": ("is still being asked whether it allows this computer", "unlock the phone and tap Allow"),
    "offline": ("is offline", "plug it in again, or run `adb reconnect offline`"),
    "connecting": ("is still connecting", "try again in a moment"),
    "no permissions": (
        "may not be opened by this user",
        "Debian and Ubuntu: apt-get install android-sdk-platform-tools-common, then plug it in again",
    ),
}


@dataclass(frozen=True)
class Attached:
    """A phone listed by adb, with its state: `device` when it can be used."""

    serial: str
    state: str


def find_adb() -> str | None:
    """The adb client program, if it is installed."""
    return shutil.which("adb")


def attached() -> list[Attached]:
    """The phones listed by adb. Raises TargetError if adb is missing or does not work."""
    listed = _call(["devices"], ASK_LIMIT_S)
    if listed.returncode:
        raise TargetError(f"adb does not work: {_last_line(listed.stderr)}", hint="try `adb devices` by hand")
    phones: list[Attached] = []
    for line in listed.stdout.decode(errors="replace").splitlines():
        serial, tab, state = line.partition("\t")
        if tab:
            phones.append(Attached(serial, "no permissions" if "no permissions" in state else state.strip()))
    return phones


def choose(serial: str | None) -> str:
    """The serial of the phone to use: the given one, or the only one.

    Raises:
        TargetError: adb is missing; there is no phone, or several and none given; the phone cannot be used.
    """
    phones = attached()
    names = ", ".join(phone.serial for phone in phones)
    if serial is None:
        if not phones:
            raise TargetError("no Android device is attached", hint=PLUG_IN)
        usable = [phone for phone in phones if phone.state == "device"]
        if len(usable) > 1:
            named = ", ".join(phone.serial for phone in usable)
            raise TargetError(
                f"{len(usable)} Android devices are attached",
                hint=f"name one after a colon, as in litert-android:{usable[0].serial} (there are {named})",
            )
        found = (usable or phones)[0]
    else:
        by_serial = {phone.serial: phone for phone in phones}
        if serial not in by_serial:
            raise TargetError(
                f"no Android device {serial} is attached", hint=f"there is {names}" if names else PLUG_IN
            )
        found = by_serial[serial]
    if found.state != "device":
        what, hint = _STATES.get(found.state, (f"is in the state {found.state!r}", "start Android on it"))
        raise TargetError(f"the Android device {found.serial} {what}", hint=hint)
    return found.serial


class Adb:
    """One phone, by serial. Nothing is run when it is created."""

    def __init__(self, serial: str) -> None:
        self.serial = serial

    def shell(self, line: str, *, limit_s: float = ASK_LIMIT_S, where: str | None = None) -> str:
        """Run a shell command on the phone and return its output.

        Args:
            limit_s: Time limit in seconds.
            where: File concerned, for errors.

        Raises:
            TargetError: The phone is gone, or the command failed, was killed, or took too long.
        """
        try:
            done = _call(["-s", self.serial, "shell", f"{line}\necho {_END}$?"], limit_s)
        except TargetError as error:
            raise TargetError(error.message, where=where, hint=error.hint) from error
        printed, mark, status = done.stdout.decode(errors="replace").rpartition(_END)
        if not mark:
            raise self._lost(done, where)
        if int(status) != 0:
            raise TargetError(self._failure(int(status), done.stderr, printed), where=where)
        return printed

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into an existing folder of the phone. Raises TargetError."""
        self._move(["push", *map(str, files), f"{folder}/"], f"copying {files[0].name} to")

    def pull(self, path: str, to: Path) -> None:
        """Copy a file from the phone. Raises TargetError."""
        self._move(["pull", path, str(to)], f"copying {Path(path).name} from")

    def _move(self, words: list[str], doing: str) -> None:
        done = _call(["-s", self.serial, *words], FILE_LIMIT_S)
        if done.returncode == 0:
            return
        said = (done.stdout + done.stderr).decode(errors="replace")
        if re.search(r"no space left", said, re.IGNORECASE):
            raise TargetError(
                f"{doing} the Android device {self.serial} failed: its storage is full",
                hint="free some space on it and run this again",
            )
        if self._gone():
            raise self._unplugged()
        raise TargetError(f"{doing} the Android device {self.serial} failed: {_last_line(said.encode())}")

    def _lost(self, done: subprocess.CompletedProcess[bytes], where: str | None) -> TargetError:
        """The error for an incomplete command: the phone is gone, or the shell was killed."""
        if self._gone():
            error = self._unplugged()
            return TargetError(error.message, where=where, hint=error.hint)
        if done.returncode > SIGNALS:
            return TargetError(self._failure(done.returncode, done.stderr, ""), where=where)
        return TargetError(f"adb shell ended half-way: {_last_line(done.stderr)}", where=where)

    def _failure(self, status: int, errors: bytes, printed: str) -> str:
        if status == TIMED_OUT:
            return f"what ran on the Android device {self.serial} took too long and was ended"
        if status > SIGNALS:
            return (
                f"what ran on the Android device {self.serial} was killed by signal {status - SIGNALS} "
                "(9: mostly for want of memory)"
            )
        text = errors.strip() or printed.strip().encode()
        if b"no space left" in text.lower():
            return f"the storage of the Android device {self.serial} is full"
        return f"failed on the Android device {self.serial} with status {status}: {_last_line(text)}"

    def _gone(self) -> bool:
        return not any(phone == Attached(self.serial, "device") for phone in attached())

    def _unplugged(self) -> TargetError:
        return TargetError(
            f"the Android device {self.serial} was unplugged half-way, or its connection broke",
            hint="plug it in again and run this again",
        )


def _call(words: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[bytes]:
    program = find_adb()
    if program is None:
        raise TargetError("adb is not installed", hint=GET_ADB)
    try:
        return subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"adb did not finish within {limit_s:.0f} s", hint="see whether the phone answers"
        ) from None
    except OSError as error:
        raise TargetError(f"adb does not start: {error}", hint=GET_ADB) from error


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("adb: ").removeprefix("error: ")[:300] if lines else "without a word"

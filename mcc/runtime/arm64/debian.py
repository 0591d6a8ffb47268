"""Unpacking of Debian packages into a folder, without root and without changes to the system.

`apt-get` finds and verifies the packages with the system's own sources and keys. Its lists are used if they
exist and are recent enough; otherwise they are fetched into a separate folder, which any user may do.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mcc.errors import TargetError

log = logging.getLogger(__name__)

LIMIT_S = 900.0  # for one call of apt-get; slow networks need minutes for 100 MB
ARCHITECTURE = "amd64"  # of the programs that run here; others are untested


def unpack_packages(names: Sequence[str], into: Path, *, unneeded: str) -> list[str]:
    """Download packages and unpack them, with their dependencies that this system lacks.

    Args:
        names: Names of packages, which are fetched even if the system has them installed.
        into: Folder that becomes their root.
        unneeded: Regular expression of dependencies to exclude.

    Returns:
        `name version` of each unpacked package, sorted.

    Raises:
        TargetError: There is no apt-get, no network, or no such package in the system's sources.
    """
    _require_apt()
    store = into.parent / "debs"
    store.mkdir(parents=True, exist_ok=True)
    apt = _Apt(into.parent / "apt")
    try:
        wanted = apt.closure(names)
        apt.download([name for name in wanted if not re.fullmatch(unneeded, name)], store)
    except _Outdated as reason:
        log.info("fetching Debian's package lists: %s", reason)
        apt.fetch_lists()
        wanted = apt.closure(names)
        apt.download([name for name in wanted if not re.fullmatch(unneeded, name)], store)
    found = sorted(store.glob("*.deb"))
    for package in found:
        _run(["dpkg-deb", "-x", str(package), str(into)])
    shutil.rmtree(store)
    shutil.rmtree(apt.folder, ignore_errors=True)
    return [" ".join(package.name.split("_")[:2]).replace("%3a", ":") for package in found]


class _Outdated(Exception):
    """The lists lack a package, or the server no longer has the listed version."""


class _Apt:
    """apt-get with the system's lists, or after `fetch_lists` with its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._options = ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]
        (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::Cache={folder / 'cache'}"]

    def fetch_lists(self) -> None:
        (self.folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        self._options += ["-o", f"Dir::State::lists={self.folder / 'lists'}"]
        _run(["apt-get", "-qq", *self._options, "update"])

    def closure(self, names: Sequence[str]) -> list[str]:
        """The packages and their dependencies that are not installed here."""
        command = ["apt-get", *self._options, "--simulate", "--reinstall", "--no-install-recommends", "-y"]
        try:
            listed = _run([*command, "install", *names])
        except TargetError as error:
            raise _Outdated(error.message) from error
        return re.findall(r"^Inst (\S+)", listed, re.MULTILINE)

    def download(self, names: Sequence[str], into: Path) -> None:
        try:
            _run(["apt-get", "-qq", *self._options, "download", *names], cwd=into)
        except TargetError as error:
            raise _Outdated(error.message) from error


def _require_apt() -> None:
    for program in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            raise TargetError(
                f"{program} is not here: the programs come from Debian's packages",
                hint="use Debian or Ubuntu, or a container of one",
            )
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    if architecture != ARCHITECTURE:
        raise TargetError(f"this system is {architecture}; only {ARCHITECTURE} was tried")


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Standard output of a program. Raises TargetError with the last line of its errors."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(f"{command[0]} did not end within {LIMIT_S:.0f} s") from None
    if done.returncode:
        complaints = [
            line for line in done.stderr.splitlines() if line.startswith("E:")
        ] or done.stderr.split("\n")
        raise TargetError(f"{command[0]} failed: {complaints[0].removeprefix('E:').strip()}")
    return done.stdout

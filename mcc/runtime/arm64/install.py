"""Installation of the components of `mcc doctor --install litert-arm64-sim`.

    <tools folder>/arm64-<key>/
        debian/      qemu-aarch64, clang, lld, llvm-mca and the C library of ARM64, from Debian
        wheel/       libLiteRt.so of ai-edge-litert's ARM64 wheel, from PyPI
        installed.json

The folder is created under another name and renamed when complete, so that an incomplete one is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from mcc.errors import TargetError
from mcc.runtime.arm64.debian import unpack_packages

log = logging.getLogger(__name__)

Say = Callable[[str], None]

LLVM = 19  # the first whose llvm-mca was tested with these cores
PACKAGES = (
    "qemu-user",
    f"clang-{LLVM}",
    f"libclang-cpp{LLVM}",
    f"libclang-common-{LLVM}-dev",
    f"lld-{LLVM}",
    f"llvm-{LLVM}",
    f"libllvm{LLVM}",
    "libc6-arm64-cross",
    "libc6-dev-arm64-cross",
    "linux-libc-dev-arm64-cross",
    "libgcc-s1-arm64-cross",
    "libstdc++6-arm64-cross",
)
# Dependencies that compiling C does not need: other languages, libraries for editors and linkers.
UNNEEDED = (
    r"libgc1|libobjc.*|libclang1-.*|llvm-.*-(runtime|linker-tools)|lib(gcc|stdc\+\+)-\d+-dev|gcc-.*-base"
)
PROGRAMS = frozenset({"qemu-aarch64", "clang", f"clang-{LLVM}", "ld.lld", "lld", "llvm-mca", "llvm-mc"})
ARM_LIBRARIES = ("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6")
WHEEL_PLATFORMS = (
    "manylinux_2_27_aarch64", "manylinux_2_28_aarch64", "manylinux_2_34_aarch64", "manylinux2014_aarch64",
)  # fmt: skip
DOWNLOAD_LIMIT_S = 900.0


def tools_folder() -> Path:
    """Folder of fetched programs: `MCC_TOOLS_DIR`, or `tools` in mcc's cache folder."""
    import platformdirs

    chosen = os.environ.get("MCC_TOOLS_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("MCC_CACHE_DIR") or platformdirs.user_cache_dir("mcc")) / "tools"


def runtime_version() -> str:
    """Version of ai-edge-litert here, also that of the ARM64 wheel."""
    try:
        return metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        raise TargetError("ai-edge-litert is not installed", hint="pip install ai-edge-litert") from None


@dataclass(frozen=True)
class Installed:
    """The installed programs and libraries, all in one folder."""

    folder: Path

    @property
    def debian(self) -> Path:
        """Root of the unpacked Debian packages."""
        return self.folder / "debian"

    @property
    def litert(self) -> Path:
        """LiteRT's library for ARM64."""
        return self.folder / "wheel" / "libLiteRt.so"

    @property
    def qemu(self) -> Path:
        """The emulator."""
        return self.debian / "usr" / "bin" / "qemu-aarch64"

    def llvm(self, program: str) -> Path:
        """A program of LLVM."""
        return self.debian / "usr" / "lib" / f"llvm-{LLVM}" / "bin" / program

    @property
    def arm_root(self) -> Path:
        """Headers and C library of ARM64 (`include`, `lib`)."""
        return self.debian / "usr" / "aarch64-linux-gnu"

    def arm_libraries(self) -> list[Path]:
        """Libraries of an ARM64 Linux program besides LiteRT, the loader first."""
        return [self.arm_root / "lib" / name for name in ARM_LIBRARIES]

    @cached_property
    def environment(self) -> dict[str, str]:
        """Environment for programs of this folder: their libraries come first."""
        usr = self.debian / "usr" / "lib"
        folders = [
            usr / "x86_64-linux-gnu",
            self.debian / "lib" / "x86_64-linux-gnu",
            usr / f"llvm-{LLVM}" / "lib",
        ]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders)), "LC_ALL": "C"}

    def versions(self) -> str:
        """Versions of the emulator and the cycle models, e.g. `qemu-7.2 llvm-19.1`."""
        packages = dict(line.split(" ", 1) for line in self.manifest()["packages"])
        numbers = (packages[name].split(":")[-1] for name in ("qemu-user", f"llvm-{LLVM}"))
        qemu, llvm = (".".join(number.split("+")[0].split(".")[:2]) for number in numbers)
        return f"qemu-{qemu} llvm-{llvm}"

    def manifest(self) -> dict[str, Any]:
        """Manifest of the installation: `packages` with versions, `litert`."""
        return json.loads((self.folder / "installed.json").read_text())


def folder_of_installation() -> Path:
    """Folder for this version of mcc and of ai-edge-litert; its name has a hash of its requirements."""
    wanted = json.dumps([PACKAGES, UNNEEDED, sorted(PROGRAMS), runtime_version()])
    return tools_folder() / f"arm64-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def installed() -> Installed | None:
    """The installation, or None."""
    try:
        folder = folder_of_installation()
    except TargetError:
        return None
    return Installed(folder) if (folder / "installed.json").is_file() else None


def require() -> Installed:
    """The installation. Raises TargetError if there is none."""
    found = installed()
    if found is None:
        raise TargetError(
            "the ARM64 programs are not fetched", hint="`mcc doctor --install litert-arm64-sim` fetches them"
        )
    return found


def install(say: Say = log.info) -> Installed:
    """Fetch everything unless it is installed; safe with concurrent processes.

    Args:
        say: Callback for progress messages.

    Raises:
        TargetError: There is no apt-get, no network or no disk space; the message gives the reason.
    """
    folder = folder_of_installation()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not (folder / "installed.json").is_file():
                _fetch(folder, say)
    except OSError as error:
        raise TargetError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return Installed(folder)


def _fetch(folder: Path, say: Say) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".arm64-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        (made / "debian").mkdir(parents=True)
        say("qemu, clang, llvm-mca and the ARM64 C library from Debian (about 70 MB)")
        packages = unpack_packages(PACKAGES, made / "debian", unneeded=UNNEEDED)
        _prune(made / "debian")
        say(f"ai-edge-litert {runtime_version()} for ARM64 from PyPI (14 MB)")
        (made / "wheel").mkdir()
        wheel = f"ai-edge-litert=={runtime_version()}"
        fetch_library(wheel, "ai_edge_litert/libLiteRt.so", Installed(made).litert)
        _check_complete(Installed(made))
        manifest = {"litert": runtime_version(), "packages": packages}
        (made / "installed.json").write_text(json.dumps(manifest, indent=1) + "\n")
        made.rename(folder)


def _prune(root: Path) -> None:
    """Remove most of 400 MB: documentation and unused programs."""
    usr = root / "usr"
    shutil.rmtree(usr / "share", ignore_errors=True)
    for folder in (usr / "bin", usr / "lib" / f"llvm-{LLVM}" / "bin"):
        for program in folder.iterdir():
            if program.name not in PROGRAMS:
                program.unlink()
    for unused in [*(usr / "lib").glob("*/libclang-*.so*"), *(usr / "aarch64-linux-gnu" / "lib").glob("*.a")]:
        if not unused.name.startswith(("libclang-cpp", "libc_nonshared")):
            unused.unlink()


def fetch_library(wheel: str, member: str, into: Path) -> None:
    """Extract one file of the ARM64 wheel `name==version`; the wheel is not installed.

    Raises:
        TargetError: pip cannot fetch it; the message gives the reason.
    """
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=into.parent) as store:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        command = [
            sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--no-input",
            "--disable-pip-version-check", "--python-version", python, "-d", store,
        ]  # fmt: skip
        for platform in WHEEL_PLATFORMS:
            command += ["--platform", platform]
        try:
            done = subprocess.run(
                [*command, wheel], capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TargetError(f"pip did not end within {DOWNLOAD_LIMIT_S:.0f} s") from None
        wheels = sorted(Path(store).glob("*.whl"))
        if done.returncode or not wheels:
            complaint = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise TargetError(f"pip cannot fetch the ARM64 wheel of {wheel.split('=')[0]}: {complaint}")
        with zipfile.ZipFile(wheels[0]) as archive, archive.open(member) as source:
            into.write_bytes(source.read())


def _check_complete(found: Installed) -> None:
    """Check that every component exists: packages of another release may have other paths."""
    programs = [found.llvm(name) for name in ("clang", "ld.lld", "llvm-mca", "llvm-mc")]
    for path in [found.qemu, *programs, *found.arm_libraries(), found.litert]:
        if not path.exists():
            raise TargetError(
                f"the packages of this system do not hold {path.relative_to(found.folder)}",
                hint="Debian 12 was tried",
            )

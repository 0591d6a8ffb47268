"""Compilation of programs, cached beside the fetched ones under a hash of all their inputs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from mcc.errors import TargetError
from mcc.runtime.arm64.install import Installed, require

SOURCES = Path(__file__).parent
RUNNER_SOURCES = ("runner.c", "session.c")
HEADERS = ("litert.h", "onnxruntime.h", "session.h", "qemu_plugin.h")
STRICT = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


def runner() -> Path:
    """The runner for ARM64 Linux, see `runner --help`. It loads libLiteRt.so from its own folder.

    Raises:
        TargetError: The compiler is not fetched, or rejects the source.
    """
    return _runner("runner", RUNNER_SOURCES)


def counted_runner() -> Path:
    """The runner with a clock that counts its readings, for the emulator; see `ticks.c`."""
    return _runner(
        "counted_runner", (*RUNNER_SOURCES, "ticks.c"), "-Wl,--export-dynamic-symbol=clock_gettime"
    )


def counter() -> Path:
    """The plug-in for qemu on this machine; see `counter.c`. It uses no header or library of this machine."""
    command = ["--target=x86_64-linux-gnu", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-shared"]
    command += [*STRICT, "-nostdlib", "-fuse-ld=lld", str(SOURCES / "counter.c")]
    return _compiled(require(), "libcounter.so", command, ("counter.c", *HEADERS))


def onnxruntime_runner(library: Path) -> Path:
    """The same program for .onnx files, linked with onnxruntime's library for ARM64; raises as `runner`."""
    return _runner("runner", ("runner.c", "session_ort.c"), library=library)


def _runner(name: str, sources: Sequence[str], *more: str, library: Path | None = None) -> Path:
    tools = require()
    arm = tools.arm_root
    # The start files and libraries are named explicitly: clang would look for an installed gcc.
    command = [
        "--target=aarch64-linux-gnu", "-fPIE", "-pie", f"--sysroot={tools.debian}",
        "-isystem", str(arm / "include"), *STRICT, "-fuse-ld=lld", "-nostartfiles", "-nodefaultlibs",
        "-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined",
        "-Wl,--dynamic-linker=/lib/ld-linux-aarch64.so.1",
        str(arm / "lib" / "Scrt1.o"), str(arm / "lib" / "crti.o"),
        *(str(SOURCES / source) for source in sources), *more,
        str(library or tools.litert), str(arm / "lib" / "libc.so.6"),
        str(arm / "lib" / "ld-linux-aarch64.so.1"),
        str(arm / "lib" / "crtn.o"),
    ]  # fmt: skip
    return _compiled(tools, name, command, (*sources, *HEADERS))


def device_files() -> list[Path]:
    """Files that an ARM64 Linux system, such as a phone, needs in one folder to run the runner.

    The dynamic loader is first: `./ld-linux-aarch64.so.1 --library-path . ./runner ...` starts it on a system
    with another C library, such as Android's. Then the C and C++ libraries, LiteRT and the runner.
    """
    tools = require()
    return [*tools.arm_libraries(), tools.litert, runner()]


def _compiled(tools: Installed, name: str, arguments: Sequence[str], sources: Sequence[str]) -> Path:
    """The program `name`, compiled unless it exists with equal arguments and sources."""
    key = hashlib.sha256("\0".join(arguments).encode())
    for source in sources:
        key.update((SOURCES / source).read_bytes())
    folder = tools.folder / "built" / key.hexdigest()[:16]
    if (folder / name).is_file():
        return folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not (folder / name).is_file():
                _compile(tools, folder / name, arguments)
    except OSError as error:
        raise TargetError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    return folder / name


def _compile(tools: Installed, program: Path, arguments: Sequence[str]) -> None:
    unfinished = program.with_suffix(".unfinished")
    done = subprocess.run(
        [str(tools.llvm("clang")), *arguments, "-o", str(unfinished)],
        env=tools.environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise TargetError(f"clang refuses {program.name}: {done.stderr.strip().splitlines()[0]}")
    shutil.move(unfinished, program)

"""onnxruntime on a phone over adb: the runner linked with the ARM64 build of onnxruntime, CPU provider.

As for litert_android.py, the runner is a program for ARM64 Linux with its own C library, and was never run on
a phone by the authors of mcc. The library is that of PyPI's ARM64 wheel of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from mcc.errors import TargetError
from mcc.runtime.android.target import AndroidTarget
from mcc.runtime.facts import ONNXRUNTIME_CPU, TargetFacts
from mcc.runtime.session import OpTime
from mcc.runtime.target import Availability

MORE_LIBRARIES = ("libdl.so.2", "libpthread.so.0", "librt.so.1")  # empty stubs that the library depends on


class OrtAndroid(AndroidTarget):
    """onnxruntime's CPU provider on a phone."""

    name = "ort-android"
    format = "onnx"
    suffixes = (".onnx", ".ort")
    runtime = "onnxruntime"

    def programs_available(self) -> Availability:
        """Whether the compiler of the runner and onnxruntime's ARM64 library are fetched."""
        from mcc.runtime.arm64.install import installed

        if installed() is None or not _library().is_file():
            reason = "the runner for ARM64 and its onnxruntime are not fetched"
            return Availability(False, reason, f"mcc doctor --install {self.name}")
        return Availability(True)

    def install(self, say: Callable[[str], None]) -> None:
        """Fetch the compiler, ARM64's C library and onnxruntime's.

        Raises:
            TargetError: There is no network or no disk space; the message gives the reason.
        """
        from mcc.runtime.arm64.install import fetch_library, install

        install(say)
        library, version = _library(), self.runtime_version()
        try:
            library.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(library.parent / "lock"):
                if not library.is_file():
                    say(f"onnxruntime {version} for ARM64 from PyPI (23 MB)")
                    unfinished = library.with_suffix(".unfinished")
                    member = f"onnxruntime/capi/libonnxruntime.so.{version}"
                    fetch_library(f"onnxruntime=={version}", member, unfinished)
                    unfinished.rename(library)
        except OSError as error:
            raise TargetError(f"cannot write {error.filename or library}: {error.strerror}") from error
        self.say_what_is_missing(say)

    def runtime_version(self) -> str:
        """Version of onnxruntime, here and on the phone."""
        return metadata.version("onnxruntime")

    def facts(self) -> TargetFacts:
        """Facts: no sparse kernels; float convolutions use blocks of 16 channels; activations are uint8."""
        return ONNXRUNTIME_CPU

    def programs(self) -> tuple[str, Sequence[Path]]:
        """Loader, C library, onnxruntime and the runner, which is built on demand."""
        from mcc.runtime.arm64.build import onnxruntime_runner
        from mcc.runtime.arm64.install import require

        if not _library().is_file():
            raise TargetError(
                "onnxruntime for ARM64 is not fetched", hint=f"mcc doctor --install {self.name}"
            )
        tools = require()
        more = [tools.arm_root / "lib" / name for name in MORE_LIBRARIES]
        return "onnxruntime", [*tools.arm_libraries(), *more, _library(), onnxruntime_runner(_library())]

    def op_times(self, report: Mapping[str, Any], runs: int) -> list[OpTime]:
        """Times from onnxruntime's profile, as on this machine, without the first inference."""
        from mcc.runtime.ort_host import kernel_times

        events = [
            {"cat": "Node", "name": name, "dur": us, "args": {"op_name": kind}}
            for name, kind, us in report["events"]
        ]
        return kernel_times(events)


def _library() -> Path:
    """onnxruntime's library for ARM64, under its shared-object name."""
    from mcc.runtime.arm64.install import tools_folder

    return tools_folder() / f"onnxruntime-{metadata.version('onnxruntime')}-arm64" / "libonnxruntime.so.1"


TARGET = OrtAndroid()

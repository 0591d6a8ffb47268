"""LiteRT on a phone over adb: `runner.c` and the ARM64 build of ai-edge-litert, with XNNPACK.

The runner is a program for ARM64 Linux with its own loader and C library (glibc): of Android it uses only
the kernel's interface. Tests run it on emulated phones. The authors of mcc have never run it on a phone; see
docs/android.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcc.runtime.android.target import AndroidTarget
from mcc.runtime.facts import XNNPACK_ARM64, TargetFacts
from mcc.runtime.session import OpTime, Session
from mcc.runtime.target import Availability


class LiteRtAndroid(AndroidTarget):
    """ai-edge-litert on a phone."""

    name = "litert-android"
    format = "tflite"
    suffixes = (".tflite",)
    runtime = "ai-edge-litert"

    def programs_available(self) -> Availability:
        """Whether the ARM64 build of LiteRT and the compiler of the runner are fetched."""
        from mcc.runtime.arm64.install import installed

        if installed() is None:
            reason = "the runner for ARM64 is not fetched"
            return Availability(False, reason, f"mcc doctor --install {self.name}")
        return Availability(True)

    def install(self, say: Callable[[str], None]) -> None:
        """Fetch the compiler, ARM64's C library and LiteRT's, and compile the runner. Raises TargetError."""
        from mcc.runtime.arm64 import build, install

        install.install(say)
        build.runner()
        self.say_what_is_missing(say)

    def runtime_version(self) -> str:
        """Version of ai-edge-litert, here and on the phone."""
        from mcc.runtime.arm64.install import runtime_version

        return runtime_version()

    def facts(self) -> TargetFacts:
        """Facts: XNNPACK's ARM64 sparse kernels are fastest for pairs of output channels with one pattern."""
        return XNNPACK_ARM64

    def programs(self) -> tuple[str, Sequence[Path]]:
        """Loader, C library, LiteRT and the runner, which is built on demand."""
        from mcc.runtime.arm64.build import device_files

        return "litert", device_files()

    def reference_session(self, file: Path | str) -> Session:
        """The file with LiteRT's reference kernels, on the phone."""
        from mcc.runtime.process import RunnerSession

        return RunnerSession(self, self.checked(file, 1), 1, self.runner("--kernels", "reference"))

    def sparse_kernels(self, file: Path | str) -> int:
        """Number of operators that ran in XNNPACK's sparse kernels."""
        from mcc.runtime.litert_arm64_sim import SPARSE_KERNEL

        return sum(SPARSE_KERNEL in op.kind for op in self.profile(file, runs=1))

    def op_times(self, report: Mapping[str, Any], runs: int) -> list[OpTime]:
        """Times from the events of LiteRT's profiler."""
        from mcc.runtime.litert_profile import typical

        return typical([(tag.encode(), kind, us) for tag, kind, us, _ in report["events"]], runs)


TARGET = LiteRtAndroid()

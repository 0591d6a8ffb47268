"""LiteRT's ARM64 build on an emulated phone core: outputs, instructions and model cycles, but no times.

The unmodified library runs under qemu-user, which counts instructions; LLVM's scheduling models estimate
their cycles on a core (`arm64/cycles.py`). Caches and memory bandwidth are not modelled: the result ranks
alternatives on one core. Counts are the same in every run, on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from mcc.errors import TargetError
from mcc.runtime.arm64 import build, install
from mcc.runtime.arm64.cores import CORES, Core
from mcc.runtime.arm64.counting import count, instructions
from mcc.runtime.arm64.cycles import CycleTable, hot_blocks
from mcc.runtime.arm64.emulator import emulated
from mcc.runtime.arm64.stream import StreamRunner
from mcc.runtime.facts import XNNPACK_ARM64, TargetFacts
from mcc.runtime.litert_host import LiteRtHost
from mcc.runtime.process import RunnerSession
from mcc.runtime.session import Session
from mcc.runtime.simulated import Counts, OperatorCounts, SimulatedTarget
from mcc.runtime.target import Availability, Fingerprint, Target

DEFAULT_CORE = "a76"  # the most common big core of phones since 2019; later cores use the same kernels
AT_ONCE = 2  # emulated processes; each needs one processor and about 100 MB
FILES_AT_ONCE = 16  # in one process, so that the runtime's code is translated once
MEMORY_RUNS = 10  # inferences before the peak is read, as in `Target.peak_memory`
SPARSE_KERNEL = "SPMM"  # in XNNPACK's names of sparse kernels


class LiteRtArm64Sim(SimulatedTarget):
    """LiteRT for ARM64 under qemu-user."""

    name = "litert-arm64-sim"
    format = "tflite"
    suffixes = (".tflite",)
    runtime = "ai-edge-litert"
    options: ClassVar[Mapping[str, str]] = {
        name: core.title + (", the default" if name == DEFAULT_CORE else "") for name, core in CORES.items()
    }

    @property
    def core(self) -> Core:
        """The emulated core."""
        return CORES[self.option or DEFAULT_CORE]

    def available(self) -> Availability:
        """Whether the emulator, the compiler and the ARM64 library are fetched."""
        if install.installed() is None:
            return Availability(
                False,
                "its programs are not fetched",
                f"mcc doctor --install {self.name} (85 MB, no root needed)",
            )
        return Availability(True)

    def install(self, say: install.Say) -> None:
        """Fetch the programs from Debian and PyPI into mcc's cache folder, and compile the runner."""
        install.install(say)
        say("compiling the runner and the counter")
        for made in (build.runner, build.counted_runner, build.counter):
            made()

    def runtime_version(self) -> str:
        """Versions that determine the counts: LiteRT, qemu, LLVM."""
        return f"{install.runtime_version()} {install.require().versions()}"

    def fingerprint(self, threads: int = 1) -> Fingerprint:
        """The fingerprint of the emulated core, independent of the machine that emulates it."""
        device = f"{self.core.title.split(' (')[0]}, simulated (llvm-mca {self.core.llvm_cpu})"
        name = f"{self.name}:{self.core.name}"
        return Fingerprint(name, device, self.runtime, self.runtime_version(), threads, "linux-aarch64")

    def quicker(self) -> Target | None:
        """The same version of LiteRT on this machine's own processor: an emulated inference takes 100 times
        as long."""
        host = LiteRtHost()
        return host if host.available().ok else None

    def facts(self) -> TargetFacts:
        """Facts: XNNPACK's ARM64 sparse kernels are fastest for pairs of output channels in whole vectors."""
        return XNNPACK_ARM64

    def start_runner(self) -> StreamRunner:
        """A runner with inputs through a pipe; see `Target.start_runner`."""
        return self._runner("xnnpack")

    def reference_session(self, file: Path | str) -> Session:
        """The file with LiteRT's reference kernels, on the same emulated core."""
        return RunnerSession(self, self.checked(file, 1), 1, self._runner("reference"))

    def _runner(self, kernels: str) -> StreamRunner:
        tools = install.require()
        command = [*emulated(tools, self.core, build.runner()), "--kernels", kernels]
        return StreamRunner(command, tools.environment)

    def peak_memory(self, file: Path | str, threads: int = 1) -> int:
        """Growth of the peak memory of the emulated runner.

        The model is loaded, run and released before, so that the emulator's own memory is not included.
        """
        path = self.checked(file, threads)
        arguments = ["--memory", "--rehearse", "--warmup", str(MEMORY_RUNS)]
        (counted,) = count(install.require(), self.core, [path], arguments=arguments)
        return int(counted.report["peak_after_bytes"] - counted.report["peak_before_bytes"])

    def counts(self, files: Sequence[Path | str]) -> list[Counts]:
        """Counts of one inference of each file; files share processes, which run in parallel."""
        keys = {(self.core.name, _digest(path)): path for path in (self.checked(file, 1) for file in files)}
        missing = [path for key, path in keys.items() if key not in _known]
        size = max(1, min(FILES_AT_ONCE, -(-len(missing) // AT_ONCE)))
        parts = [missing[begin : begin + size] for begin in range(0, len(missing), size)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._count, parts))
        return [_known[self.core.name, _digest(Path(file))] for file in files]

    def operators(self, file: Path | str) -> list[OperatorCounts]:
        """Counts of each operator, in order of execution; `kind` is XNNPACK's name of the kernel."""
        path = self.checked(file, 1)
        return list(_operators(self.core, path, _digest(path)))

    def sparse_kernels(self, file: Path | str) -> int:
        """Number of operators that ran in XNNPACK's sparse kernels."""
        return sum(SPARSE_KERNEL in op.kind for op in self.operators(file))

    def _count(self, files: Sequence[Path]) -> None:
        """Count files in one process; on failure, find the file that caused it."""
        tools = install.require()
        try:
            found = count(tools, self.core, files)
        except TargetError as error:
            if len(files) == 1:
                raise TargetError(error.message, where=str(files[0]), hint=error.hint) from error
            for file in files:
                self._count([file])
            return
        table = CycleTable(tools, self.core)
        for file, counted in zip(files, found, strict=True):
            total = counted.total()
            _known[self.core.name, _digest(file)] = Counts(instructions(total), table.cycles(total))


_known: dict[tuple[str, str], Counts] = {}  # by core and digest of the file


@lru_cache(maxsize=64)
def _operators(core: Core, file: Path, _content: str) -> tuple[OperatorCounts, ...]:
    tools = install.require()
    (counted,) = count(tools, core, [file], profile=True)
    table, hot = CycleTable(tools, core), hot_blocks(counted.total())
    return tuple(
        OperatorCounts(op.name, op.kind, instructions(op.blocks), table.cycles(op.blocks, hot))
        for op in counted.operators()
    )


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


TARGET = LiteRtArm64Sim()

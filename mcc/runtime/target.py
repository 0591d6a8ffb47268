"""The protocol of a target: where a lowered file runs, is timed and is checked.

A new target is one file in this folder:

    class MyRuntime(HostTarget):               # host.py; or Target, for a runtime outside Python
        name, format, suffixes = "my-runtime", "tflite", (".tflite",)
        runtime = "my_package"
        def available(self): ...               # is it here, and if not, how to get it
        def runtime_version(self): ...
        def facts(self): ...                   # what its kernels reward
        def start(self): ...                   # import the runtime
        def load(self, file, threads): ...     # a LoadedModel: set_inputs, invoke, get_outputs

    TARGET = MyRuntime()

All the rest (fresh runner processes, crash isolation, interleaved timing, peak memory, evaluation without
per-image overhead) comes from the base classes. The file's name is the target's in snake case.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mcc.errors import TargetError, UsageError
from mcc.files import readable_file
from mcc.runtime.facts import TargetFacts
from mcc.runtime.lock import measuring
from mcc.runtime.process import ProcessRunner, RunnerSession, measure_peak_memory
from mcc.runtime.processor import host_device
from mcc.runtime.samples import LatencySamples
from mcc.runtime.session import OpTime, Runner, Session
from mcc.runtime.timing import time_files
from mcc.runtime.units import MICROSECONDS, Unit

MOST_THREADS = 256  # of an inference: more than the cores of any phone, and few enough to start everywhere


@dataclass(frozen=True)
class Availability:
    """Whether a target can be used on this machine; `reason` and `how_to_get` say more where it cannot."""

    ok: bool
    reason: str = ""
    how_to_get: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """What a latency belongs to: measurements with unequal fingerprints are never mixed.

    Attributes:
        target: name with option, e.g. `ort-host:fast`.
        device: processor model and a short hash of its instruction-set flags.
        runtime: name of the runtime.
        version: of the runtime.
        threads: that an inference uses.
        os: system and machine architecture.
    """

    target: str
    device: str
    runtime: str
    version: str
    threads: int
    os: str

    def key(self) -> str:
        """One line of text, equal if and only if all fields are."""
        return "|".join((self.target, self.device, self.runtime, self.version, str(self.threads), self.os))

    def as_json(self) -> dict[str, str | int]:
        """`target` of a report: name, runtime, version, device, threads (and os)."""
        return {
            "name": self.target,
            "runtime": self.runtime,
            "version": self.version,
            "device": self.device,
            "threads": self.threads,
            "os": self.os,
        }


class Target(ABC):
    """A runtime on a device. Instances are immutable; an option after a colon makes another instance."""

    name: ClassVar[str]
    format: ClassVar[str]  # what `mcc lower --to` writes for it: tflite, onnx or pte
    suffixes: ClassVar[tuple[str, ...]]  # of the files it runs
    runtime: ClassVar[str]
    options: ClassVar[Mapping[str, str]] = {}  # what may follow the colon, with one line on each
    max_threads: ClassVar[int | None] = None  # None: up to MOST_THREADS
    sample_us: float = 500.0  # inferences are batched until a sample is at least that long
    runners_at_once: int = 16  # processes held in memory together while files are timed
    memory_kind: ClassVar[str] = "resident memory"  # what `peak_memory` counts
    memory_runners: int = 3  # resident memory varies from run to run: the largest counts
    unit: ClassVar[Unit] = MICROSECONDS  # of the costs that `time` and `profile` give, whatever their names

    def __init__(self, option: str | None = None) -> None:
        if option is not None and option not in self.options:
            known = ", ".join(f"{self.name}:{key}" for key in self.options) or "none"
            raise UsageError(f"target {self.name} has no option {option!r}", hint=f"its options: {known}")
        self.option = option

    @property
    def spec(self) -> str:
        """Name with option, as `get_target` reads it."""
        return self.name if self.option is None else f"{self.name}:{self.option}"

    def with_option(self, option: str | None) -> Target:
        """This target with an option; raises UsageError for one that it does not have."""
        return type(self)(option)

    @abstractmethod
    def available(self) -> Availability:
        """Whether it can be used here, found without loading the runtime."""

    def install(self, say: Callable[[str], None]) -> None:
        """Fetch what is missing into mcc's cache folder, where mcc can do that itself.

        Args:
            say: is told what is done next.

        Raises:
            TargetError: it cannot, with the way to get it; or it failed.
        """
        state = self.available()
        if not state.ok:
            raise TargetError(
                f"mcc does not install {self.name}: {state.reason}", hint=f"do it by hand: {state.how_to_get}"
            )

    @abstractmethod
    def runtime_version(self) -> str:
        """Version of the installed runtime."""

    def quicker(self) -> Target | None:
        """A target here that should give the same numbers in far less time, None where there is none.

        Who rests on it compares some of its outputs with this target's first.
        """
        return None

    @abstractmethod
    def facts(self) -> TargetFacts:
        """What its kernels reward, with reasons."""

    def runner_command(self) -> list[str]:
        """Program and arguments of a runner that speaks `wire.py` on its standard streams.

        Raises:
            TargetError: the target has no such runner; it overrides what would start one.
        """
        raise TargetError(f"target {self.name} has no runner that mcc starts here")

    def start_runner(self) -> Runner:
        """A fresh runner: a process of `runner_command()`, unless the runtime is not on this machine.

        Raises:
            TargetError: it does not start.
        """
        return ProcessRunner(self.runner_command(), self.spec)

    def measuring(self) -> AbstractContextManager[None]:
        """Held while something is timed: what is timed on this machine has it to itself."""
        return measuring()

    def conditions(self, file: Path | str, threads: int = 1) -> Mapping[str, Any]:
        """What else is worth telling about a file that was timed: plain JSON values by name."""
        return {}

    @abstractmethod
    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 50) -> list[OpTime]:
        """Per-operator times of a file, in order of execution: the mean over the undisturbed ones of `runs`.

        Raises:
            TargetError: the runtime cannot tell, with the reason.
        """

    def session(self, file: Path | str, threads: int = 1) -> Session:
        """Load a file in a fresh runner process.

        Raises:
            UsageError: no such file, or one of another format.
            TargetError: the runtime is missing, or refuses the file.
        """
        return RunnerSession(self, self.checked(file, threads), threads)

    def time(
        self,
        files: Sequence[Path | str],
        *,
        threads: int = 1,
        budget_s: float = 20.0,
        precision: float = 0.01,
        files_per_runner: int = 1,
    ) -> list[LatencySamples]:
        """Latency of each file, interleaved, in fresh runner processes, under the machine-wide lock.

        Args:
            files: measured in turns, one after the other, round after round.
            threads: per inference.
            budget_s: seconds for all rounds together; loading and warm-up come on top.
            precision: rounds end early when every 95 % interval of a median is within +- this share of it.
            files_per_runner: how many files share a runner process: 1 for candidates, more for micro-models.

        Returns:
            One `LatencySamples` per file, in order.

        Raises:
            UsageError, TargetError: as `session`; the message names the file.
        """
        checked = [self.checked(file, threads) for file in files]
        return time_files(
            self,
            checked,
            threads=threads,
            budget_s=budget_s,
            precision=precision,
            files_per_runner=files_per_runner,
        )

    def reference_session(self, file: Path | str) -> Session | None:
        """The file in the same runtime with reference kernels: slow, and right. None where there are none."""
        return None

    def int8_saturates(self, suffix: str) -> bool:
        """Whether sums of int8 products may saturate in files of that suffix, as they do on no phone."""
        return False

    def sparse_kernels(self, file: Path | str) -> int | None:
        """How many kernels for sparse weights run in an inference. None where the runtime does not tell."""
        return None

    def peak_memory(self, file: Path | str, threads: int = 1) -> int:
        """Growth of the peak of a fresh runner's `memory_kind`, in bytes.

        It is counted from before loading (the runtime already imported) to after the tenth inference; the
        largest of `memory_runners` fresh runners counts.

        Raises:
            UsageError, TargetError: as `session`.
        """
        return measure_peak_memory(self, self.checked(file, threads), threads)

    def fingerprint(self, threads: int = 1) -> Fingerprint:
        """What a measurement of this target on this machine belongs to."""
        system = f"{platform.system()}-{platform.machine()}".lower()
        return Fingerprint(self.spec, host_device(), self.runtime, self.runtime_version(), threads, system)

    def check_threads(self, threads: int) -> None:
        """Raises UsageError for a number of threads that an inference on this target cannot use."""
        most = self.max_threads or MOST_THREADS
        if not 1 <= threads <= most:
            raise UsageError(f"target {self.name} cannot use {threads} threads", hint=f"give 1 to {most}")

    def checked(self, file: Path | str, threads: int) -> Path:
        """The file as a path, after checking that this target can be used and could run it.

        Raises:
            UsageError: no such file, another format, or a number of threads that it cannot use.
            TargetError: the runtime is missing.
        """
        path = Path(file)
        if path.suffix not in self.suffixes:
            raise UsageError(f"target {self.name} runs {' or '.join(self.suffixes)} files", where=str(path))
        readable_file(path, raising=UsageError)  # what it holds is for the runtime to say, in its own process
        self.check_threads(threads)
        state = self.available()
        if not state.ok:
            raise TargetError(f"target {self.name} cannot be used: {state.reason}", hint=state.how_to_get)
        return path

"""The protocol of targets, on which lowered files run, are timed and checked.

A new target is one file in this folder:

    class MyRuntime(HostTarget):               # host.py; or Target, for a runtime outside Python
        name, format, suffixes = "my-runtime", "tflite", (".tflite",)
        runtime = "my_package"
        def available(self): ...               # whether it is installed, and how to get it
        def runtime_version(self): ...
        def facts(self): ...                   # properties of its kernels
        def start(self): ...                   # import the runtime
        def load(self, file, threads): ...     # a LoadedModel: set_inputs, invoke, get_outputs

    TARGET = MyRuntime()

The base classes provide all the rest (runner processes, crash isolation, interleaved timing, peak memory,
evaluation without per-image overhead). The file has the target's name in snake case.
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

MOST_THREADS = 256  # of an inference: more than the cores of any phone, and possible on every system


@dataclass(frozen=True)
class Availability:
    """Whether a target can be used on this machine, else the reason and the way to get it."""

    ok: bool
    reason: str = ""
    how_to_get: str = ""


@dataclass(frozen=True)
class Fingerprint:
    """Identity of a measuring setup: measurements with different fingerprints are never mixed.

    Attributes:
        target: Name with option, e.g. `ort-host:fast`.
        device: Processor model and a short hash of its instruction-set flags.
        runtime: Name of the runtime.
        version: Version of the runtime.
        threads: Number of threads of an inference.
        os: System and machine architecture.
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
    """A runtime on a device. Instances are immutable; an option after a colon gives another instance."""

    name: ClassVar[str]
    format: ClassVar[str]  # format of `mcc lower --to` for it: tflite, onnx or pte
    suffixes: ClassVar[tuple[str, ...]]  # of the files it runs
    runtime: ClassVar[str]
    options: ClassVar[Mapping[str, str]] = {}  # options after the colon, with a description of each
    max_threads: ClassVar[int | None] = None  # None: up to MOST_THREADS
    sample_us: float = 500.0  # minimum duration of a sample, by batching inferences
    runners_at_once: int = 16  # maximum number of processes in memory while files are timed
    memory_kind: ClassVar[str] = "resident memory"  # kind of memory of `peak_memory`
    memory_runners: int = 3  # resident memory varies from run to run: the maximum is used
    unit: ClassVar[Unit] = MICROSECONDS  # of the costs of `time` and `profile`, despite their field names

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
        """This target with an option. Raises UsageError for an unknown option."""
        return type(self)(option)

    @abstractmethod
    def available(self) -> Availability:
        """Whether it can be used here, determined without loading the runtime."""

    def install(self, say: Callable[[str], None]) -> None:
        """Fetch missing components into mcc's cache folder, if mcc can install them.

        Args:
            say: Callback for progress messages.

        Raises:
            TargetError: It failed, or mcc cannot install them; the hint says how to get them.
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
        """A target on this machine expected to give the same outputs in far less time; None if there is none.

        Its user must first compare some of its outputs with this target's.
        """
        return None

    @abstractmethod
    def facts(self) -> TargetFacts:
        """Properties of its kernels, with reasons."""

    def runner_command(self) -> list[str]:
        """Program and arguments of a runner that exchanges messages of `wire.py` on its standard streams.

        Raises:
            TargetError: The target has no such runner; it overrides `start_runner`.
        """
        raise TargetError(f"target {self.name} has no runner that mcc starts here")

    def start_runner(self) -> Runner:
        """A new runner: a process of `runner_command()`, unless the runtime is on another device.

        Raises:
            TargetError: The runner does not start.
        """
        return ProcessRunner(self.runner_command(), self.spec)

    def measuring(self) -> AbstractContextManager[None]:
        """Context held while timing: exclusive use of this machine."""
        return measuring()

    def conditions(self, file: Path | str, threads: int = 1) -> Mapping[str, Any]:
        """Further conditions of a file's timing, as plain JSON values by name."""
        return {}

    @abstractmethod
    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 50) -> list[OpTime]:
        """Per-operator times of a file, in order of execution: the mean over the undisturbed ones of `runs`.

        Raises:
            TargetError: The runtime has no per-operator times; the message gives the reason.
        """

    def session(self, file: Path | str, threads: int = 1) -> Session:
        """Load a file in a new runner process.

        Raises:
            UsageError: The file does not exist or has another format.
            TargetError: The runtime is missing, or rejects the file.
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
        """Latency of each file, interleaved, in new runner processes, under the machine-wide lock.

        Args:
            files: Files, measured in turns, round after round.
            threads: Threads of an inference.
            budget_s: Seconds for all rounds together, without loading and warm-up.
            precision: Relative half-width of the 95 % intervals of the medians at which rounds end early.
            files_per_runner: Number of files in a runner process: 1 for candidates, more for micro-models.

        Returns:
            One `LatencySamples` per file, in order.

        Raises:
            UsageError, TargetError: As in `session`; the message names the file.
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
        """The file in the same runtime with its slow and exact reference kernels; None if it has none."""
        return None

    def int8_saturates(self, suffix: str) -> bool:
        """Whether sums of int8 products may saturate in files with that suffix, unlike on phones."""
        return False

    def sparse_kernels(self, file: Path | str) -> int | None:
        """Number of sparse kernels in an inference; None if the runtime does not report them."""
        return None

    def peak_memory(self, file: Path | str, threads: int = 1) -> int:
        """Growth of the peak of a new runner's `memory_kind`, in bytes.

        It is measured from before loading (with the runtime imported) to after the tenth inference, as the
        maximum over `memory_runners` new runners.

        Raises:
            UsageError, TargetError: As in `session`.
        """
        return measure_peak_memory(self, self.checked(file, threads), threads)

    def fingerprint(self, threads: int = 1) -> Fingerprint:
        """The fingerprint of measurements of this target on this machine."""
        system = f"{platform.system()}-{platform.machine()}".lower()
        return Fingerprint(self.spec, host_device(), self.runtime, self.runtime_version(), threads, system)

    def check_threads(self, threads: int) -> None:
        """Raise UsageError for an unsupported number of threads."""
        most = self.max_threads or MOST_THREADS
        if not 1 <= threads <= most:
            raise UsageError(f"target {self.name} cannot use {threads} threads", hint=f"give 1 to {most}")

    def checked(self, file: Path | str, threads: int) -> Path:
        """The path of a file, after checking that this target is available and runs its format.

        Raises:
            UsageError: The file does not exist or has another format, or the number of threads is
                unsupported.
            TargetError: The runtime is missing.
        """
        path = Path(file)
        if path.suffix not in self.suffixes:
            raise UsageError(f"target {self.name} runs {' or '.join(self.suffixes)} files", where=str(path))
        readable_file(path, raising=UsageError)  # the content is checked by the runtime, in its own process
        self.check_threads(threads)
        state = self.available()
        if not state.ok:
            raise TargetError(f"target {self.name} cannot be used: {state.reason}", hint=state.how_to_get)
        return path

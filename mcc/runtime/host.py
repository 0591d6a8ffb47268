"""Targets whose runtime has a Python interface: each runs in a new worker process of this interpreter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from mcc.runtime.session import OpTime, TensorInfo
from mcc.runtime.target import Target
from mcc.runtime.wire import Array


class LoadedModel(ABC):
    """A file loaded in a worker process by a runtime with a Python interface."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @abstractmethod
    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Set inputs of exactly the shapes and dtypes in `inputs`."""

    @abstractmethod
    def invoke(self) -> None:
        """Run one inference; only this is timed."""

    @abstractmethod
    def get_outputs(self) -> list[Array]:
        """Copies of the outputs of the last inference, in the file's dtypes."""

    @abstractmethod
    def op_times(self, runs: int) -> list[OpTime]:
        """Per-operator times. Raises TargetError if the runtime has none."""


class HostTarget(Target):
    """A target whose runtime has a Python interface and runs in a worker process on this machine."""

    @abstractmethod
    def start(self) -> None:
        """Import the runtime, in the worker, before any memory is measured."""

    @abstractmethod
    def load(self, file: Path, threads: int) -> LoadedModel:
        """Load a file, in the worker; any exception becomes a TargetError of the caller."""

    def runner_command(self) -> list[str]:
        """A new Python process of this interpreter with this target's worker."""
        from mcc.runtime.process import python_worker

        return python_worker(self.spec)

    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 50) -> list[OpTime]:
        """Per-operator times, measured in a new worker; see `Target.profile`."""
        from mcc.runtime.process import measure_op_times

        return measure_op_times(self, self.checked(file, threads), threads, runs)

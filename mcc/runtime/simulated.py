"""Simulated targets: deterministic counts of instructions and model cycles in place of times."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mcc.runtime.samples import LatencySamples, MachineLoad
from mcc.runtime.session import OpTime
from mcc.runtime.target import Target
from mcc.runtime.units import CYCLES, Unit


@dataclass(frozen=True)
class Counts:
    """Cost of one inference: instructions, and their cycles in a model of the core."""

    instructions: int
    model_cycles: float


@dataclass(frozen=True)
class OperatorCounts:
    """Cost of one operator; `kind` is the runtime's name of its kernel."""

    name: str
    kind: str
    instructions: int
    model_cycles: float


class SimulatedTarget(Target):
    """A target whose costs are model cycles."""

    unit: ClassVar[Unit] = CYCLES
    max_threads = 1

    @abstractmethod
    def counts(self, files: Sequence[Path | str]) -> list[Counts]:
        """Counts of one inference of each file, in order.

        Raises:
            UsageError, TargetError: As in `session`.
        """

    @abstractmethod
    def operators(self, file: Path | str) -> list[OperatorCounts]:
        """Counts of each operator of a file, in order of execution.

        Raises:
            UsageError, TargetError: As in `session`; or the runtime cannot distinguish operators.
        """

    def time(
        self,
        files: Sequence[Path | str],
        *,
        threads: int = 1,
        budget_s: float = 0.0,
        precision: float = 0.0,
        files_per_runner: int = 1,
    ) -> list[LatencySamples]:
        """Model cycles of each file, in the target's unit; they are exact, without repetitions."""
        checked = [self.checked(file, threads) for file in files]
        return [_exact(self.unit.from_raw(counts.model_cycles)) for counts in self.counts(checked)]

    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 1) -> list[OpTime]:
        """Model cycles of each operator, in the target's unit."""
        found = self.operators(self.checked(file, threads))
        return [OpTime(op.name, op.kind, self.unit.from_raw(op.model_cycles)) for op in found]

    def measuring(self) -> AbstractContextManager[None]:
        """No lock: counts do not depend on other processes."""
        return nullcontext()


def _exact(cost: float) -> LatencySamples:
    load = MachineLoad(0.0, 0.0, 0.0)
    return LatencySamples.from_turns([[cost]], per_sample=1, warmup_runs=1, load=load)

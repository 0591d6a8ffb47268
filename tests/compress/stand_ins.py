"""A target and a cost model that give the same figures every time, so that whole jobs run in seconds.

Files are written and run for real; only times and memory are made up, from the size of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcc.compress import job, session
from mcc.cost_api import WHOLE_ERROR, Estimate, Kernel, Precision
from mcc.runtime import get_target
from mcc.runtime.facts import TargetFacts
from mcc.runtime.host import HostTarget
from mcc.runtime.litert_host import LiteRtHost
from mcc.runtime.ort_host import OrtHost
from mcc.runtime.samples import LatencySamples, MachineLoad
from tests.compress import networks

MODEL = f"{networks.__file__}:tiny"
US_PER_BYTE = 0.01
MEMORY_PER_BYTE = 10
HALFWIDTH = 0.01  # of the interval of a median


class MadeUp(HostTarget):
    """Times from the sizes of files.

    Attributes:
        timed: the files of each call of `time`.
        slower: factor on times of files but the first, to make a later measurement disagree.
        heavier: factor on memory, for the same.
        least_us: what every file takes, however small.
    """

    def __init__(self, option: str | None = None) -> None:
        super().__init__(option)
        self.timed: list[list[Path]] = []
        self.weighed: list[Path] = []
        self.slower = 1.0
        self.heavier = 1.0
        self.least_us = 0.0

    def time(self, files: Sequence[Path | str], **options: Any) -> list[LatencySamples]:
        paths = [Path(file) for file in files]
        self.timed.append(paths)
        factors = [1.0] + [self.slower] * (len(paths) - 1)
        return [
            samples(self.least_us + US_PER_BYTE * p.stat().st_size * f)
            for p, f in zip(paths, factors, strict=True)
        ]

    def peak_memory(self, file: Path | str, threads: int = 1) -> int:
        self.weighed.append(Path(file))
        return round(self.heavier * MEMORY_PER_BYTE * Path(file).stat().st_size)


class StandIn(MadeUp, LiteRtHost):
    """LiteRT on this machine, with times from the sizes of files."""


class OrtStandIn(MadeUp, OrtHost):
    """The same of onnxruntime."""


def samples(us: float) -> LatencySamples:
    """A measurement with that median."""
    turns = [[us * (1 - HALFWIDTH)], [us], [us * (1 + HALFWIDTH)]]
    return LatencySamples.from_turns(turns, per_sample=1, warmup_runs=3, load=MachineLoad(0.0, 0.0, 0.0))


class Model:
    """Kernels cost their operations, in integers a quarter."""

    name = "stand-in"
    whole_error = WHOLE_ERROR

    def kernel(self, kernel: Kernel) -> Estimate:
        """Multiply-adds of a kernel in thousandths of a microsecond."""
        each = 1e-3 if kernel.precision == "float" else 0.25e-3
        return Estimate(each * kernel.macs, 0.0, "measured")

    def overhead(self, precision: Precision) -> Estimate:
        """Five microseconds."""
        return Estimate(5.0, 0.0, "measured")


class Costs:
    """In place of `mcc.compress.live_cost_model.Costs`: nothing needs to be measured."""

    def __init__(self, job: Any, *, measures: bool = True) -> None:
        self.model = Model()
        self.asked: list[Kernel] = []

    def calibrate(self, *_: Any) -> None:
        """All is known."""

    def dates(self) -> dict[str, str]:
        """None was measured."""
        return {}

    def ask(self, kernels: Sequence[Kernel]) -> None:
        """All is known."""
        self.asked += kernels


class SparseStandIn(StandIn):
    """The same with sparse kernels, by the rules of LiteRT.js: sparse files are smaller, and so faster."""

    def facts(self) -> TargetFacts:
        return get_target("litert-web:node").facts()


def install(monkeypatch: pytest.MonkeyPatch, target: StandIn | None = None) -> StandIn:
    """Let jobs for `litert-host` find the stand-ins."""
    target = target or StandIn()
    install_all(monkeypatch, target)
    return target


def install_all(monkeypatch: pytest.MonkeyPatch, *targets: MadeUp) -> None:
    """Let jobs find these targets, and no others."""
    monkeypatch.setattr(job, "get_target", {target.name: target for target in targets}.__getitem__)
    monkeypatch.setattr(session, "Costs", Costs)

"""Blocks of the phones' tables on simulated ARM64 cores: does the simulator rank them as the phone does?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from scipy.stats import spearmanr

from cost_models.phones import Block, Row
from mcc.lower.tflite.writer import write_tflite
from mcc.runtime.registry import get_target
from mcc.runtime.simulated import SimulatedTarget
from tools.results.prediction_runs import Notebook

SIDE = 224  # of the table that is ranked, where a phone has several
AT_A_TIME = 12  # blocks that are counted together

# The core of the imitated ones nearest to each phone's big one. Note10: Cortex-A76 (Snapdragon 855). Pixel 1:
# Kryo, Qualcomm's own of 2016, without a model in LLVM's schedulers; so each of the older ones is tried.
NEAREST = {"note10": ("a76",), "pixel1": ("a76", "a53")}


@dataclass(frozen=True)
class Ranked:
    """Blocks of one phone on one core.

    Attributes:
        points: measured milliseconds and simulated model cycles of each block.
    """

    phone: str
    core: str
    points: tuple[tuple[float, float], ...]

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation."""
        return float(
            spearmanr([ms for ms, _ in self.points], [cycles for _, cycles in self.points]).statistic
        )

    @property
    def spread(self) -> float:
        """Milliseconds per million cycles: highest over lowest of the middle 80 % of blocks."""
        ratios = sorted(ms / cycles for ms, cycles in self.points)
        tenth = len(ratios) // 10
        return ratios[-1 - tenth] / ratios[tenth]


def rank(phone: str, table: Mapping[Block, Row], notes: Notebook, folder: Path) -> list[Ranked]:
    """A phone's blocks on the cores nearest to its own, counted where not yet known.

    Raises:
        TargetError: the simulator is not installed.
    """
    found: list[Ranked] = []
    for core in NEAREST[phone]:
        cycles = _counted(list(table), core, notes, folder)
        points = tuple((row.mean_ms, cycles[block]) for block, row in table.items())
        found.append(Ranked(phone, core, points))
    return found


def _counted(blocks: list[Block], core: str, notes: Notebook, folder: Path) -> dict[Block, float]:
    target = get_target(f"litert-arm64-sim:{core}")
    assert isinstance(target, SimulatedTarget)
    left = [block for block in blocks if f"{core} {block}" not in notes.known]
    for begin in range(0, len(left), AT_A_TIME):
        group = left[begin : begin + AT_A_TIME]
        click.echo(f"{target.spec}: {len(left) - begin} blocks left")
        files = [write_tflite(b.graph(), folder / f"{core}-{i}.tflite") for i, b in enumerate(group)]
        for block, counts in zip(group, target.counts(files), strict=True):
            notes.keep(f"{core} {block}", counts.model_cycles)
    return {block: float(notes.known[f"{core} {block}"]) for block in blocks}

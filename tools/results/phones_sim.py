"""Blocks of the phones' tables on simulated ARM64 cores: comparison of the rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from scipy.stats import spearmanr

from cost_models.phones import Block, Row
from mcc.lower.tflite.writer import write_tflite
from mcc.runtime.arm64 import install
from mcc.runtime.arm64.cores import CORES
from mcc.runtime.arm64.counting import count
from mcc.runtime.arm64.cycles import CycleTable
from tools.results.prediction_runs import Notebook

WIDE = 7  # window of depthwise convolutions for which XNNPACK has no kernel
AT_A_TIME = 12  # blocks counted in one call

# The simulated core nearest to each phone's big one, and whose kernels LiteRT runs there, by the
# runner's names: its own, and XNNPACK's. TensorFlow Lite had only the former before 2.3 (July 2020); the
# tables are those of ProxylessNAS and Once-for-All (Cai et al., 2018 and 2019). Note10: Cortex-A76. Pixel 1:
# Kryo, Qualcomm's own of 2016, without a model in LLVM's schedulers; so each of the older ones is tried, with
# the kernels that mcc counts.
NEAREST = {
    "note10": (("a76", "builtin"), ("a76", "xnnpack")),
    "pixel1": (("a76", "xnnpack"), ("a53", "xnnpack")),
}


@dataclass(frozen=True)
class Ranked:
    """Blocks of one phone on one core.

    Attributes:
        kernels: `builtin` or `xnnpack`.
        points: Each block, its measured milliseconds and its simulated model cycles.
    """

    phone: str
    core: str
    kernels: str
    points: tuple[tuple[Block, float, float], ...]

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.phone} on {self.core}, {self.kernels}"

    def chosen(self, *, wide: bool) -> list[tuple[float, float]]:
        """Milliseconds and cycles, with or without the blocks of 7x7 windows."""
        return [(ms, cycles) for block, ms, cycles in self.points if wide or block.window < WIDE]

    def correlation(self, *, wide: bool) -> float:
        """Spearman's rank correlation."""
        ms, cycles = zip(*self.chosen(wide=wide), strict=True)
        return float(spearmanr(ms, cycles).statistic)


def rank(phone: str, table: Mapping[Block, Row], notes: Notebook, folder: Path) -> list[Ranked]:
    """A phone's blocks on the cores nearest to its own; missing ones are counted.

    Raises:
        TargetError: The simulator is not installed.
    """
    found: list[Ranked] = []
    for core, kernels in NEAREST[phone]:
        cycles = _counted(list(table), core, kernels, notes, folder)
        points = tuple((block, row.mean_ms, cycles[block]) for block, row in table.items())
        found.append(Ranked(phone, core, kernels, points))
    return found


SECTION = """
## The simulated core against the phones

Each block, float32, in LiteRT on a simulated core (`litert-arm64-sim`): model cycles, without caches
and memory, against the milliseconds of the phone. Wanted: a rank correlation of 0.9 for the core nearest
to the phone's. That is the Cortex-A76 for the Note10. The Pixel 1's own core (Kryo, 2016) has no model: a
newer and a weaker one stand in. The tables are those of ProxylessNAS and Once-for-All (2018 and 2019), when
TensorFlow Lite had kernels of its own (`builtin`: LiteRT still has them) and not yet XNNPACK's (July 2020),
which LiteRT runs today and mcc counts.

| phone | core | kernels | blocks | rank correlation | without 7x7 windows | ms per million cycles |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Milliseconds per million cycles are those of the middle 80 % of all blocks. Where the two kinds of kernels
are unlike, only the phone's own agree with it: XNNPACK has no depthwise kernel for 49 taps and runs an
indirect GEMM with one channel in a group (its profile says IGEMM, where 5x5 says DWConv). A block with a 7x7
window takes {least:.1f} to {most:.1f} times the cycles of the same block with 5x5 on the A76 with XNNPACK,
{own_least:.1f} to {own_most:.1f} times with LiteRT's own kernels, and 1.1 to 1.6 times the milliseconds on
either phone. For an app of today XNNPACK's figures are the right ones: 7x7 windows are slow in it. On the
Pixel 1, blocks of large images cost two to three times as much for each cycle as those of small ones: that is
memory, which model cycles leave out.

![milliseconds over model cycles](phones-simulated.svg)
"""


def section(found: Sequence[Ranked]) -> str:
    """The part of the page on the simulator."""
    rows = [
        f"| {r.phone} | {r.core} | {r.kernels} | {len(r.points)} | {r.correlation(wide=True):.3f} "
        f"| {r.correlation(wide=False):.3f} ({len(r.chosen(wide=False))} blocks) | {_rates(r)} |"
        for r in found
    ]
    wider, own = (
        [ratio for one in found if (one.core, one.kernels) == ("a76", kernels) for ratio in _wider(one)]
        for kernels in ("xnnpack", "builtin")
    )
    return SECTION.format(
        rows="\n".join(rows), least=min(wider), most=max(wider), own_least=min(own), own_most=max(own)
    )


def _rates(found: Ranked) -> str:
    """Milliseconds per million cycles, the middle 80 % of the blocks."""
    ratios = sorted(ms / cycles * 1e6 for ms, cycles in found.chosen(wide=True))
    tenth = len(ratios) // 10
    return f"{ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f}"


def _wider(found: Ranked) -> list[float]:
    """Cycles of each block with a wide window over those of the same block with 5x5."""
    cycles = {block: count for block, _, count in found.points}
    return [
        count / cycles[replace(block, window=5)]
        for block, count in cycles.items()
        if block.window == WIDE and replace(block, window=5) in cycles
    ]


def _counted(
    blocks: list[Block], core: str, kernels: str, notes: Notebook, folder: Path
) -> dict[Block, float]:
    """Model cycles of each block. Raises TargetError where the simulator is not installed."""
    tools, imitated = install.require(), CORES[core]
    table = CycleTable(tools, imitated)
    prefix = core if kernels == "xnnpack" else f"{core} {kernels}"
    keys = {block: f"{prefix} {block}" for block in blocks}
    left = [block for block in blocks if keys[block] not in notes.known]
    for begin in range(0, len(left), AT_A_TIME):
        group = left[begin : begin + AT_A_TIME]
        click.echo(f"{core}, {kernels}: {len(left) - begin} blocks left")
        files = [write_tflite(b.graph(), folder / f"{core}-{i}.tflite") for i, b in enumerate(group)]
        for block, counted in zip(
            group, count(tools, imitated, files, arguments=("--kernels", kernels)), strict=True
        ):
            notes.keep(keys[block], table.cycles(counted.total()))
    return {block: float(notes.known[key]) for block, key in keys.items()}

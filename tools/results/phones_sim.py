"""Blocks of the phones' tables on simulated ARM64 cores: does the simulator rank them as the phone does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from scipy.stats import spearmanr

from cost_models.phones import Block, Row
from mcc.lower.tflite.writer import write_tflite
from mcc.runtime.registry import get_target
from mcc.runtime.simulated import SimulatedTarget
from tools.results.prediction_runs import Notebook

WIDE = 7  # window of depthwise convolutions for which XNNPACK has no kernel
AT_A_TIME = 12  # blocks that are counted together

# The core of the imitated ones nearest to each phone's big one. Note10: Cortex-A76 (Snapdragon 855). Pixel 1:
# Kryo, Qualcomm's own of 2016, without a model in LLVM's schedulers; so each of the older ones is tried.
NEAREST = {"note10": ("a76",), "pixel1": ("a76", "a53")}


@dataclass(frozen=True)
class Ranked:
    """Blocks of one phone on one core.

    Attributes:
        points: each block, its measured milliseconds and its simulated model cycles.
    """

    phone: str
    core: str
    points: tuple[tuple[Block, float, float], ...]

    def chosen(self, *, wide: bool) -> list[tuple[float, float]]:
        """Milliseconds and cycles, with or without the blocks of 7x7 windows."""
        return [(ms, cycles) for block, ms, cycles in self.points if wide or block.window < WIDE]

    def correlation(self, *, wide: bool) -> float:
        """Spearman's rank correlation."""
        ms, cycles = zip(*self.chosen(wide=wide), strict=True)
        return float(spearmanr(ms, cycles).statistic)


def rank(phone: str, table: Mapping[Block, Row], notes: Notebook, folder: Path) -> list[Ranked]:
    """A phone's blocks on the cores nearest to its own, counted where not yet known.

    Raises:
        TargetError: the simulator is not installed.
    """
    found: list[Ranked] = []
    for core in NEAREST[phone]:
        cycles = _counted(list(table), core, notes, folder)
        points = tuple((block, row.mean_ms, cycles[block]) for block, row in table.items())
        found.append(Ranked(phone, core, points))
    return found


SECTION = """
## The simulated core against the phones

Each block, float32, in LiteRT on an imitated core (`litert-arm64-sim`): model cycles, which know no caches
and no memory, against the milliseconds of the phone. Wanted: a rank correlation of 0.9 for the core nearest
to the phone's. That is the Cortex-A76 for the Note10. The Pixel 1's own core (Kryo, 2016) has no model: a
newer and a weaker one stand in.

| phone | core | blocks | rank correlation | without 7x7 windows |
| --- | --- | --- | --- | --- |
{rows}

The phones ran TensorFlow Lite of their day, the simulator runs LiteRT with XNNPACK, and where these have
unlike kernels they disagree. XNNPACK has no depthwise kernel for 49 taps: it runs an indirect GEMM with one
channel in a group (its profile says IGEMM, where 5x5 says DWConv). A block with a 7x7 window takes
{least:.1f} to {most:.1f} times the cycles of the same block with 5x5 on the A76, but 1.1 to 1.6 times the
milliseconds on either phone. The rest of the Note10's blocks take {low:.2f} to {high:.2f} ms for a million
cycles (the middle 80 %). On the Pixel 1, blocks of large images cost two to three times as much for each
cycle as those of small ones: that is memory, which model cycles leave out.

![milliseconds over model cycles](phones-simulated.svg)
"""


def section(found: Sequence[Ranked]) -> str:
    """The part of the page on the simulator."""
    rows = [
        f"| {r.phone} | {r.core} | {len(r.points)} | {r.correlation(wide=True):.3f} "
        f"| {r.correlation(wide=False):.3f} ({len(r.chosen(wide=False))} blocks) |"
        for r in found
    ]
    ratios = sorted(
        ms / cycles * 1e6 for one in found if one.phone == "note10" for ms, cycles in one.chosen(wide=False)
    )
    tenth = len(ratios) // 10
    wider = [ratio for one in found if one.core == "a76" for ratio in _wider(one)]
    return SECTION.format(
        rows="\n".join(rows), low=ratios[tenth], high=ratios[-1 - tenth], least=min(wider), most=max(wider)
    )


def _wider(found: Ranked) -> list[float]:
    """Cycles of each block with a wide window over those of the same block with 5x5."""
    cycles = {block: count for block, _, count in found.points}
    return [
        count / cycles[replace(block, window=5)]
        for block, count in cycles.items()
        if block.window == WIDE and replace(block, window=5) in cycles
    ]


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

"""Cycles of basic blocks on a core, by LLVM's machine code analyser, cached by the block's bytes.

A block is analysed as the body of a loop: the steady state of `ITERATIONS` iterations, with dependences
between iterations. All loads hit the first-level cache; no branch is mispredicted. The sum over all blocks
ranks alternatives on one core; it is not a time, and does not compare cores.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mcc.errors import TargetError
from mcc.runtime.arm64.cores import Core
from mcc.runtime.arm64.counting import BYTES_PER_INSTRUCTION, Block, instructions
from mcc.runtime.arm64.install import LLVM, Installed

COVERED = 0.995  # of the instructions: rarer blocks are given the average cost per instruction of the others
ITERATIONS = 100
REGION = "block {}"
CREATE = "CREATE TABLE IF NOT EXISTS cycles (cpu TEXT, code BLOB, cycles REAL, PRIMARY KEY (cpu, code))"
AT_A_TIME = 400  # blocks in one call
# A no-op that no compiler emits, to separate the blocks.
SEPARATOR, SEPARATOR_TEXT = "0xff 0x2e 0x03 0xd5", "hint\t#119"


class CycleTable:
    """Cycles of blocks on one core, cached in an SQLite file beside the fetched programs."""

    def __init__(self, tools: Installed, core: Core) -> None:
        self._tools, self._core = tools, core
        self._path = tools.folder / f"cycles-llvm{LLVM}.sqlite"
        self._known: dict[Block, float] = {}

    def cycles(self, blocks: Mapping[Block, int], hot: Iterable[Block] | None = None) -> float:
        """Model cycles of executed blocks.

        Args:
            blocks: Number of executions of each block.
            hot: Blocks that are analysed, for a part of a whole; by default those with the most instructions
                that make up `COVERED` of all.
        """
        wanted = hot_blocks(blocks) if hot is None else [block for block in hot if block in blocks]
        self.learn(wanted)
        own = sum(self._known[block] * blocks[block] for block in wanted)
        covered = instructions({block: blocks[block] for block in wanted})
        if not covered:
            return float(instructions(blocks))
        return own * instructions(blocks) / covered

    def learn(self, blocks: Sequence[Block]) -> None:
        """Load the cycles of these blocks from the file, or analyse the blocks."""
        missing = [block for block in blocks if block not in self._known]
        if not missing:
            return
        with sqlite3.connect(self._path, timeout=60.0) as table:
            table.execute(CREATE)
            cpu = self._core.llvm_cpu
            for block in missing:
                row = table.execute(
                    "SELECT cycles FROM cycles WHERE cpu = ? AND code = ?", (cpu, block)
                ).fetchone()
                if row is not None:
                    self._known[block] = row[0]
        new = [block for block in missing if block not in self._known]
        for begin in range(0, len(new), AT_A_TIME):
            part = new[begin : begin + AT_A_TIME]
            found = analyse(self._tools, self._core, part)
            self._known.update(zip(part, found, strict=True))
            with sqlite3.connect(self._path, timeout=60.0) as table:
                rows = [(self._core.llvm_cpu, block, self._known[block]) for block in part]
                table.executemany("INSERT OR REPLACE INTO cycles VALUES (?, ?, ?)", rows)


def hot_blocks(blocks: Mapping[Block, int]) -> list[Block]:
    """The blocks with the most instructions that make up `COVERED` of all; ties are broken by the bytes."""
    order = sorted(blocks, key=lambda block: (-len(block) * blocks[block], block))
    left = COVERED * instructions(blocks)
    hot: list[Block] = []
    for block in order:
        if left <= 0:
            break
        hot.append(block)
        left -= len(block) // BYTES_PER_INSTRUCTION * blocks[block]
    return hot


def analyse(tools: Installed, core: Core, blocks: Sequence[Block]) -> list[float]:
    """Cycles of one iteration of each block.

    Raises:
        TargetError: The disassembler or the analyser fails.
    """
    texts = disassembled(tools, blocks)
    regions = [_region(REGION.format(index), text) for index, text in enumerate(texts)]
    options = [
        "-mtriple=aarch64",
        f"-mcpu={core.llvm_cpu}",
        "-mattr=+all",
        f"-iterations={ITERATIONS}",
        "-json",
    ]
    options += ["-all-views=false", "-summary-view", "-skip-unsupported-instructions=lack-sched"]
    report = json.loads(_run(tools, "llvm-mca", options, "".join(regions)))
    found = {region["Name"]: region["SummaryView"] for region in report["CodeRegions"]}
    return [found[REGION.format(i)]["TotalCycles"] / ITERATIONS for i in range(len(blocks))]


def _region(name: str, text: str) -> str:
    return f"# LLVM-MCA-BEGIN {name}\n{text}\n# LLVM-MCA-END\n"


def disassembled(tools: Installed, blocks: Sequence[Block]) -> list[str]:
    """Assembly text of each block, without instructions that the disassembler does not know."""
    lines = [" ".join(f"0x{byte:02x}" for byte in block) for block in blocks]
    text = f"\n{SEPARATOR}\n".join(lines)
    out = _run(tools, "llvm-mc", ["--disassemble", "-triple=aarch64", "-mattr=+all"], text)
    code = [line.strip() for line in out.splitlines() if line.strip() and not line.strip().startswith(".")]
    parts = "\n".join(code).split(f"\n{SEPARATOR_TEXT}\n")
    if len(parts) != len(blocks):
        raise TargetError(f"llvm-mc gave {len(parts)} blocks for {len(blocks)}")
    return parts


def _run(tools: Installed, program: str, options: Sequence[str], text: str) -> str:
    path: Path = tools.llvm(program)
    done = subprocess.run(
        [str(path), *options], env=tools.environment, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TargetError(f"{program} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
    return done.stdout

"""Instructions and model cycles of MobileNets on simulated ARM64 cores, for docs/results/arm64.md.

    python -m tools.results.arm64 -o out/arm64

Every figure is stored in the folder as soon as it is counted; a second call continues from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from mcc.calibrate.network_correction import lowered_form
from mcc.ir.graph import Graph
from mcc.ir.notes import SparseNote
from mcc.lower.tflite.writer import write_tflite
from mcc.quant.simulator import simulate
from mcc.runtime import get_target
from mcc.runtime.arm64.cores import CORES
from mcc.runtime.litert_arm64_sim import LiteRtArm64Sim
from tools.results.arm64_networks import mobilenet_v1, mobilenet_v2

PAGE = Path("docs/results/arm64.md")
FORMS: dict[str, SparseNote | None] = {
    "dense": None,
    "int8": None,
    "half the width": None,
    **{f"{share} %": SparseNote(1, share / 100) for share in (70, 80, 90)},
    **{f"{share} % pairs": SparseNote(2, share / 100) for share in (70, 80, 90)},
}
CORE_FORMS = ("dense", "int8", "80 %", "80 % pairs")
IMAGES = 2  # compared with x86 and with the simulator


@dataclass(frozen=True)
class Network:
    """A network of the table: `build(width, sparse)`."""

    title: str
    build: Callable[[float, SparseNote | None], Graph]


NETWORKS = {
    "v2": Network("MobileNetV2 0.5 at 64x64", lambda width, sparse: mobilenet_v2(64, 0.5 * width, sparse)),
    "v1": Network("MobileNetV1 1.0 at 224x224", lambda width, sparse: mobilenet_v1(224, width, sparse)),
}


def lowered(name: str, form: str, folder: Path) -> tuple[Path, Graph]:
    """The file of a network in one form."""
    sparse = FORMS[form]
    graph = NETWORKS[name].build(0.5 if form == "half the width" else 1.0, sparse)
    graph = lowered_form(graph, "int8" if form == "int8" else "float")
    path = folder / f"{name}-{form.replace(' ', '-').replace('-%', '')}.tflite"
    return write_tflite(graph, path, io="int8" if form == "int8" else "float"), graph


def counted(name: str, form: str, core: str, folder: Path) -> dict[str, Any]:
    """Counts of a file on a core, kept in the folder."""
    kept = folder / f"{name} {form} {core}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    path, graph = lowered(name, form, folder)
    target = get_target(f"litert-arm64-sim:{core}")
    assert isinstance(target, LiteRtArm64Sim)
    (counts,) = target.counts([path])
    ran = target.sparse_kernels(path)
    found = {**asdict(counts), "sparse_kernels": ran, **equal(target, path, graph, form)}
    kept.write_text(json.dumps(found))
    return found


def equal(target: LiteRtArm64Sim, path: Path, graph: Graph, form: str) -> dict[str, Any]:
    """Differences of the outputs from those of LiteRT on x86, and of the graph in torch or the simulator."""
    generator = torch.Generator().manual_seed(1)
    with target.session(path) as arm, get_target("litert-host").session(path) as host:
        _, height, width, _ = arm.inputs[0].shape
        images = torch.randn((IMAGES, 3, height, width), generator=generator)
        stored = images.permute(0, 2, 3, 1).contiguous().numpy()
        here, there = host.run_many(stored, raw=True), arm.run_many(stored, raw=True)
        if form == "int8":
            wanted = simulate(graph, [images])[0].numpy()
            scaled = arm.run_many(stored)
            return {
                "equal_to_x86": float((here == there).mean()),
                "equal_to_simulator": float((np.abs(scaled - wanted) < 1e-7).mean()),
            }
        return {"off_x86": float(np.abs(here - there).max() / np.abs(here).max())}


def page(folder: Path) -> str:
    """The tables, from the content of the folder."""
    lines = [
        "# Simulated ARM64 cores",
        "",
        f"LiteRT {get_target('litert-arm64-sim').runtime_version()}, one thread, batch 1, random weights.",
        "Simulated: instructions are counted by qemu-user, cycles are llvm-mca's estimate without caches and",
        "memory. They rank alternatives on one core; they are not times. Every figure is the same in every",
        "run.",
        "",
        "    python -m tools.results.arm64 -o out/arm64",
        "",
    ]
    for name, network in NETWORKS.items():
        lines += [f"## {network.title}, Cortex-A76", "", *form_table(name, folder), ""]
    lines += [f"## {NETWORKS['v2'].title}, five cores", "", *core_table("v2", folder)]
    return "\n".join(lines) + "\n"


def form_table(name: str, folder: Path) -> list[str]:
    """One line for each form."""
    rows = [
        "| form | instructions | fewer | model cycles | fewer | sparse kernels | outputs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    dense = counted(name, "dense", "a76", folder)
    for form in FORMS:
        found = counted(name, form, "a76", folder)
        if form == "int8":
            shares = found["equal_to_x86"], found["equal_to_simulator"]
            words = "{:.2%} equal to x86, {:.2%} to the simulator".format(*shares)
        else:
            words = f"{found['off_x86']:.1e} of the range off x86"
        gains = [f"{dense[key] / found[key]:.2f}x" for key in ("instructions", "model_cycles")]
        millions = [f"{found[key] / 1e6:.1f} M" for key in ("instructions", "model_cycles")]
        rows.append(
            f"| {form} | {millions[0]} | {gains[0]} | {millions[1]} | {gains[1]} | {found['sparse_kernels']} "
            f"| {words} |"
        )
    return rows


def core_table(name: str, folder: Path) -> list[str]:
    """Instructions and cycles of some forms on each core."""
    rows = ["| core | " + " | ".join(CORE_FORMS) + " |", "| --- |" + " --- |" * len(CORE_FORMS)]
    for core, facts in CORES.items():
        cells: list[str] = []
        for form in CORE_FORMS:
            found = counted(name, form, core, folder)
            cells.append(f"{found['instructions'] / 1e6:.1f} M, {found['model_cycles'] / 1e6:.2f} Mcycles")
        rows.append(f"| {facts.title} | " + " | ".join(cells) + " |")
    return rows


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/arm64", show_default=True)
def main(output: Path) -> None:
    """Count missing figures, and write the page."""
    output.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(output))
    click.echo(f"{PAGE} is written")


if __name__ == "__main__":
    main()

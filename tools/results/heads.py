"""Measure the deviation of boxes and scores of detectors in int8, in three runtimes.

    python -m tools.results.heads -o out/heads

Detectors of eight families with random weights (`tools/results/detector_heads.py`) go through `-O2` and
`insert-qdq` on 128 drawn pictures, are written for each installed runtime, and run there on 32 others.
Resumable: known results are kept. Writes docs/results/heads.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from mcc.frontend.torch_module import capture
from mcc.ir.graph import Graph, outputs, run
from mcc.ir.notes import shape_of
from mcc.lower.formats import get_format
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions
from mcc.quant.detectors import BOX_SHARE, SCORE
from mcc.quant.noise import check_noise
from mcc.quant.regions import integer_nodes
from mcc.report.measure import run_file
from mcc.runtime.registry import get_target
from tools.results.detector_heads import HEADS, IMAGE, detector, scenes
from tools.results.prediction_runs import Notebook

RUNTIMES = ("litert-host", "ort-host", "executorch-host")
CHANNELS_FIRST = ("YOLOv8", "sliced")  # [N, 4 + classes, A]; the others are [N, A, ...]
PICTURES, OTHERS = 128, 32
PAGE = Path(__file__).parents[2] / "docs" / "results" / "heads.md"

PAGE_TEXT = """\
# Heads of detectors in int8

Eight detectors with random weights behind small bodies (`tools/results/detector_heads.py`), quantised by
`insert-qdq` on {pictures} drawn images and compared with float on {others} others. Boxes: share of their
range that 99 of 100 numbers keep within, and the worst; scores likewise, as they are. Allowed are {box:.0%}
and {score:g} for 99 of 100. A network beyond them is not written by `mcc opt` and `mcc lower` without
`--allow-noise`; the node that is named comes last. Random weights are the hardest case: every number counts,
and no training has made the body robust. Written by `python -m tools.results.heads -o out/heads`.

| head | runtime | boxes | worst | scores | worst | float nodes | verdict |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
{rows}
"""


def parts(name: str, values: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Boxes and scores of a detector's outputs."""
    if len(values) > 1:
        return values[0], values[-1]
    axis = 1 if name in CHANNELS_FIRST else 2
    boxes, scores = np.split(values[0], [4], axis=axis)
    return boxes, scores


def quantised(name: str) -> tuple[Graph, Graph, list[tuple[str, str]]]:
    """The float graph and the quantised one, and the nodes kept in float with the reason."""
    module = detector(name)
    plain = capture(module, (torch.zeros(IMAGE),))
    prepared = Pipeline.parse("-O2").run(plain, options=RunOptions(verify=False)).graph
    context = PassContext(tuple(scenes(PICTURES, 1).split(32)))
    found = Pipeline.parse("insert-qdq").run(prepared, context, RunOptions(verify=False))
    return prepared, found.graph, list(found.reports[-1].refusals)


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Deviations in each runtime, and the result of the check."""
    plain, graph, kept = quantised(name)
    report = check_noise(graph, (scenes(PICTURES, 1)[:OTHERS],))
    pictures = scenes(OTHERS, 2)
    wanted = parts(name, [value.numpy() for value in run(plain, pictures)])
    found: dict[str, Any] = {"lost": [[lost.node, lost.words] for lost in report.lost], "kept": kept}
    found["integer"] = len(integer_nodes(graph))
    for target in map(get_target, RUNTIMES):
        if not target.available().ok:
            click.echo(f"{name}: {target.spec} is not installed")
            continue
        file = get_format(target.format).write(graph, folder / name)
        made = parts(name, run_file(target, file, [pictures.numpy()], [shape_of(v) for v in outputs(graph)]))
        figures: list[float] = []
        for got, right, unit in zip(made, wanted, (float(np.ptp(wanted[0])), 1.0), strict=True):
            errors = np.abs(got - right) / unit
            figures += [float(np.quantile(errors, 0.99)), float(errors.max())]
        found[target.spec] = figures
    return found


def rows_of(name: str, found: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    verdict = f"refused at `{found['lost'][0][0]}`" if found["lost"] else "written"
    rows: list[str] = []
    for target in RUNTIMES:
        if target in found:
            box, box_worst, score, worst = found[target]
            cells = f"{box:.2%} | {box_worst:.2%} | {score:.3f} | {worst:.3f} | {len(found['kept'])}"
            rows.append(f"| {name} | {target} | {cells} | {verdict} |")
    return rows


@click.command()
@click.option("-o", "--output", default="out/heads", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--only", multiple=True, type=click.Choice(list(HEADS)), help="These heads; no page is written."
)
def main(output: Path, only: tuple[str, ...]) -> None:
    """Measure missing results, and write the page."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    notes = Notebook(output / "notes.json")
    rows: list[str] = []
    for name in only or HEADS:
        if name not in notes.known:
            notes.keep(name, measured(name, output))
        rows += rows_of(name, notes.known[name])
        click.echo("\n".join(rows[-len(RUNTIMES) :]))
    if not only:
        PAGE.write_text(
            PAGE_TEXT.format(
                pictures=PICTURES, others=OTHERS, box=BOX_SHARE, score=SCORE, rows="\n".join(rows)
            )
        )


if __name__ == "__main__":
    main()

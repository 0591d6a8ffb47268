"""Measure sparse 1x1 convolutions with XNNPACK's sparse kernels, and the passes that enable them.

    python -m tools.results.sparse -o out/sparse --images DIR

Needs EfficientNet-Lite0 (see efficientnet_lite.py) and a folder DIR with `calib/*.jpg` and `val/*.jpg`.
Resumable: each figure is stored in OUT/figures.json when it is known. Writes docs/results/sparse.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from mcc.cli.models import deployment_form, load_model
from mcc.ir.graph import Graph
from mcc.lower.tflite.writer import to_tflite
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions
from mcc.report.sparse_path import sparse_path
from mcc.runtime import get_target
from tools.results.efficientnet_lite import listed, pictures
from tools.results.mobilenet_v1 import mobilenet_v1
from tools.results.sparse_page import ARM64_ROWS, write_page

LITE0 = "tools/results/efficientnet_lite.py:network"
ENGINES = ("litert-web:chromium", "litert-web:node")
SHARES = (0, 70, 80, 90)
BUDGET_S = 90.0  # of timing, all sparsities of a network in turns
ARM64 = "litert-arm64-sim:a76"
CALIBRATION = 256  # pictures of calib/, chosen by a fixed seed
SEED = 0
PTQ = "insert-qdq"


class Figures:
    """The figures known so far, stored in a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / "figures.json"
        self.known: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def get(self, key: str, find: Callable[[], Any]) -> Any:
        """The figure of that name, computed now if unknown."""
        if key not in self.known:
            click.echo(key)
            self.known[key] = {"value": find(), "date": datetime.now(UTC).isoformat(timespec="minutes")}
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self.known, indent=1))
            part.replace(self._path)
        return self.known[key]["value"]


@cache
def lite0() -> Graph:
    """EfficientNet-Lite0 in deployment form."""
    return deployment_form(load_model(LITE0, None, None).graph)


@cache
def eligible_lite0() -> Graph:
    """The same, after the passes named by `mcc inspect` that enable the sparse path."""
    found = sparse_path(lite0(), get_target("litert-web:node").facts())
    assert found.pipeline is not None
    return Pipeline.parse(found.pipeline).run(lite0(), PassContext()).graph


GRAPHS: dict[str, Callable[[], Graph]] = {"MobileNetV1": mobilenet_v1, "EfficientNet-Lite0": eligible_lite0}


def thinned_file(folder: Path, network: str, percent: int, block: int = 1) -> Path:
    """A network with that sparsity of its 1x1 convolutions, lowered once."""
    path = folder / f"{network}-{percent}-{block}.tflite"
    if not path.exists():
        graph = GRAPHS[network]()
        if percent:
            text = f"sparsify-1x1{{sparsity={percent / 100} block={block}}}"
            graph = Pipeline.parse(text).run(graph, PassContext(), RunOptions(verify=False)).graph
        path.write_bytes(to_tflite(graph))
    return path


def timed(folder: Path, network: str, engine: str) -> dict[str, Any]:
    """Latency of each sparsity, in turns, and the difference of outputs from LiteRT's reference kernels."""
    target = get_target(engine)
    files = [thinned_file(folder, network, percent) for percent in SHARES]
    samples = target.time(files, budget_s=BUDGET_S)
    errors = [_error(target.spec, file) for file in files]
    return {
        "fingerprint": target.fingerprint().as_json(),
        "others_cores": samples[0].load.others_cores,
        "rows": [
            {"percent": percent, **s.as_json(), "ci95": [s.ci_low_us, s.ci_high_us],
             "per_sample": s.per_sample, "samples": len(s.samples), "error": error}
            for percent, s, error in zip(SHARES, samples, errors, strict=True)
        ],
    }  # fmt: skip


def _error(spec: str, file: Path) -> float:
    """Largest difference from the reference kernels, as a share of their largest output."""
    x = np.random.default_rng(SEED).standard_normal((1, 224, 224, 3)).astype(np.float32)
    outputs: list[npt.NDArray[Any]] = []
    for each in (spec, "litert-host:reference"):
        with get_target(each).session(file) as session:
            outputs.append(session.run_many(x))
    return float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[1]).max())


def counted(folder: Path, network: str, percent: int, block: int) -> dict[str, Any]:
    """Instructions, model cycles and sparse kernels on the simulated ARM64 core, and the same error."""
    target: Any = get_target(ARM64)
    file = thinned_file(folder, network, percent, block)
    (counts,) = target.counts([file])
    return {
        "instructions": counts.instructions,
        "model_cycles": counts.model_cycles,
        "sparse_kernels": target.sparse_kernels(file),
        "error": _error(ARM64, file),
        "version": target.runtime_version(),
    }


def logits(folder: Path, graph: Graph, name: str, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Outputs of a graph's file in LiteRT on this machine."""
    file = folder / f"{name}.tflite"
    file.write_bytes(to_tflite(graph))
    with get_target("litert-host").session(file) as session:
        return session.run_many(x)


def compared(wanted: npt.NDArray[Any], got: npt.NDArray[Any]) -> dict[str, float]:
    """Agreement in the first class, signal to noise of the logits in dB, mean Kullback-Leibler divergence."""
    p, q = (torch.log_softmax(torch.tensor(v), 1) for v in (wanted, got))
    noise = float(np.square(wanted - got).sum())
    return {
        "agreement": float((wanted.argmax(1) == got.argmax(1)).mean()),
        "sqnr_db": 10 * float(np.log10(np.square(wanted).sum() / noise)),
        "kl": float((p.exp() * (p - q)).sum(1).mean()),
    }


def accuracy(scores: npt.NDArray[Any], files: list[Path], images: Path) -> float:
    """Share of images whose top class is that in their name (`0000_n01440764.jpg`)."""
    rows = (line.split("\t") for line in (images / "classes.txt").read_text().splitlines())
    index = {row[1]: int(row[0]) for row in rows}
    return float(
        np.mean([index[f.stem.split("_")[1]] == c for f, c in zip(files, scores.argmax(1), strict=True)])
    )


def quantised(figures: Figures, images: Path) -> dict[str, Any]:
    """EfficientNet-Lite0 in int8 without training: ranges from calib/, evaluated on val/ once."""
    chosen = np.random.default_rng(SEED).permutation(listed(images / "calib"))[:CALIBRATION]
    x = torch.from_numpy(pictures(list(chosen)).transpose(0, 3, 1, 2).copy())
    context = PassContext(tuple(x.split(8)))
    graph = Pipeline.parse(PTQ).run(lite0(), context, RunOptions(verify=False)).graph
    return {**judged(figures, graph, "lite0-int8", images), "pipeline": PTQ}


def judged(figures: Figures, graph: Graph, name: str, images: Path) -> dict[str, Any]:
    """A variant of EfficientNet-Lite0 against the original on val/."""
    files = listed(images / "val")
    x = pictures(files)
    float_scores = logits(figures.folder, lite0(), "lite0", x)
    scores = logits(figures.folder, graph, name, x)
    return {
        **compared(float_scores, scores),
        "pictures": len(files),
        "accuracy": accuracy(scores, files, images),
        "float_accuracy": accuracy(float_scores, files, images),
        "size_bytes": (figures.folder / f"{name}.tflite").stat().st_size,
    }


def found_out(figures: Figures) -> dict[str, Any]:
    """The statements of `mcc inspect` on EfficientNet-Lite0."""
    facts = get_target("litert-web:node").facts()
    before, after = sparse_path(lite0(), facts), sparse_path(eligible_lite0(), facts)
    return {"before": before.sentences(), "after": after.sentences(), "pipeline": before.pipeline}


@click.command()
@click.option("-o", "out", type=click.Path(path_type=Path), default=Path("out/sparse"), show_default=True)
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--only", default="", help="Figures whose names start so; the page is written when all are known."
)
def main(out: Path, images: Path, only: str) -> None:
    """Compute every unknown figure, then write the page."""
    torch.set_num_threads(1)
    figures = Figures(out)
    wanted: dict[str, Callable[[], Any]] = {"inspect": lambda: found_out(figures)}
    for network in GRAPHS:
        for engine in ENGINES:
            wanted[f"{network} {engine}"] = lambda n=network, e=engine: timed(out, n, e)
    wanted["val symmetrised"] = lambda: judged(figures, eligible_lite0(), "lite0-symmetric", images)
    wanted["val int8"] = lambda: quantised(figures, images)
    for network in reversed(GRAPHS):  # minutes each; the page is written without those that are missing
        for percent, block in reversed(ARM64_ROWS):
            wanted[f"arm64 {network} {percent} {block}"] = lambda n=network, p=percent, b=block: counted(
                out, n, p, b
            )
    for key, find in wanted.items():
        if key.startswith(only):
            figures.get(key, find)
        if all(name in figures.known for name in wanted if not name.startswith("arm64")):
            click.echo(f"wrote {write_page(figures.known)}")


if __name__ == "__main__":
    main()

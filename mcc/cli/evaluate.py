"""`mcc evaluate`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import default_target, get_target, load_model, lowered_file, model_options
from mcc.cli.output import print_json, print_table
from mcc.cli.progress import progress_for
from mcc.cli.settings import Settings, common_options

if TYPE_CHECKING:
    from mcc.data.preprocessing import Preprocessing
    from mcc.runtime.target import Target


@click.command(short_help="Measure the accuracy of lowered files on a target.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--data", required=True, metavar="DATA",
              help="digits, cifar10:DIR, imagefolder:DIR or package.module:factory.")  # fmt: skip
@click.option("--target", metavar="T", help="Where to run; the host runtime of the file's kind if left out.")
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@click.option("--preprocessing-of", "like", metavar="MODEL",
              help="Prepare images as for this model; else as FILE states, or as is usual.")  # fmt: skip
@model_options
@common_options
def evaluate(
    files: tuple[str, ...], data: str, target: str | None, split: Any, limit: int | None, threads: int,
    like: str | None, input_shape: tuple[int, ...] | None, weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Measure the task's metric of lowered files, run in the target's runtime."""
    from mcc.report.measure import evaluate_file

    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mcc-evaluate-") as folder, progress_for(settings) as progress:
        for name in files:
            found = get_target(target or default_target(Path(name)))
            path = lowered_file(name, found, Path(folder), input_shape=input_shape, weights=weights)
            preprocessing = _preprocessing(like, path, input_shape)
            module = _data(data, found, path, threads, preprocessing, settings)
            score = evaluate_file(
                found, path, module, split, threads=threads, limit=limit,
                progress=lambda done, total, name=name: progress(name, done, total, f"{split} images"),
            )  # fmt: skip
            entries.append(
                {
                    "file": name,
                    "target": found.spec,
                    "data": module.name,
                    "split": split,
                    "metric": score.metric,
                    score.metric: score.value,
                    "ci95": [score.low, score.high],
                    "images": score.count,
                }
            )
    if settings.json:
        return print_json(entries)
    rows = [
        [
            e["file"],
            e["target"],
            f"{e[e['metric']]:.4f}",
            f"{e['ci95'][0]:.4f} to {e['ci95'][1]:.4f}",
            e["images"],
        ]
        for e in entries
    ]
    metric = str(entries[0]["metric"])
    return print_table(["file", "target", metric, "95 % interval", "images"], rows, right=[metric, "images"])


def _preprocessing(like: str | None, path: Path, input_shape: tuple[int, ...] | None) -> Preprocessing | None:
    """What the model named, or the file itself, says of its images; None where nothing is said."""
    if like is not None:
        return load_model(like, input_shape).preprocessing
    from mcc.report.stored import stored_preprocessing

    return stored_preprocessing(path)


def _data(
    spec: str,
    target: Target,
    path: Path,
    threads: int,
    preprocessing: Preprocessing | None,
    settings: Settings,
) -> Any:
    from mcc.data import load_data
    from mcc.report.measure import image_shape

    with target.session(path, threads) as session:
        shape = image_shape(session)
    return load_data(spec, seed=settings.seed, input_shape=shape, preprocessing=preprocessing)

"""The command `mcc evaluate`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import default_target, get_target, model_options, outputs_of
from mcc.cli.output import print_json, print_table
from mcc.cli.pictures import (
    asked_pictures,
    judged_output,
    labels_ignored,
    picture_options,
    say,
    say_output,
    say_pictures,
    task_option,
)
from mcc.cli.prepared import lowered_model
from mcc.cli.progress import progress_for
from mcc.cli.settings import Settings, common_options
from mcc.ir.first_look import check_model, check_specs

if TYPE_CHECKING:
    from mcc.data import DataModule
    from mcc.data.stated import Stated
    from mcc.frontend.load import LoadedModel
    from mcc.metric import Metric
    from mcc.report.file_metadata import Description
    from mcc.report.judge import Judged
    from mcc.runtime.target import Target


@click.command(short_help="Measure the accuracy, or another metric, of lowered files on a target.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--data", required=True, metavar="DATA",
              help="digits, cifar10:DIR, imagefolder:DIR, segmentation:DIR, detection:DIR or "
                   "module:factory.")  # fmt: skip
@task_option
@click.option("--target", metavar="T", help="Target; default: the host runtime of the file's kind.")
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@model_options
@picture_options
@common_options
def evaluate(
    files: tuple[str, ...], data: str, task: str | None, target: str | None, split: Any,
    limit: int | None, threads: int, input_shape: tuple[int, ...] | None, weights: Path | None,
    settings: Settings,
) -> None:  # fmt: skip
    """Measure the task's metric of lowered files, run in the target's runtime.

    The preprocessing of images is that of the options, else that stated by FILE, else the usual one of the
    data; the source is printed. A warning is given for a file that is no better than chance.
    """
    for name in files:
        check_model(name, weights)
    check_specs(data, task)
    asked_pictures()  # impossible values are refused before any work
    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mcc-evaluate-") as folder, progress_for(settings) as progress:
        for name in files:
            found = get_target(target or default_target(Path(name)))
            path, loaded = lowered_model(name, found, Path(folder), input_shape=input_shape, weights=weights)
            fresh = loaded is not None and loaded.module is not None and weights is None
            judging = _Judging(name, path, loaded, found, data, task, split, threads, limit, fresh, settings)
            entries.append(
                judging.entry(lambda done, total, name=name: progress(name, done, total, f"{split} images"))
            )
    if settings.json:
        return print_json(entries)
    from mcc.metric import Metric

    first = entries[0]
    metric = Metric(first["metric"], first["unit"], first["higher_is_better"])
    title = _title(metric)
    rows = [
        [
            e["file"],
            e["target"],
            _number(metric, e["value"]),
            f"{_number(metric, e['ci95'][0])} to {_number(metric, e['ci95'][1])}",
            e["images"],
        ]
        for e in entries
    ]
    return print_table(["file", "target", title, "95 % interval", "images"], rows, right=[title, "images"])


def _title(metric: Metric) -> str:
    """The heading of a metric's column."""
    unit = "" if metric.is_fraction or not metric.unit else f", {metric.unit}"
    return f"{metric.name}{unit}{'' if metric.higher_is_better else f' ({metric.direction})'}"


def _number(metric: Metric, value: float) -> str:
    from mcc.report.formatting import number_words

    return f"{value:.4f}" if metric.is_fraction else number_words(value)


@dataclass(frozen=True)
class _Judging:
    """One file on one target, and the data to judge it on.

    Attributes:
        name: As on the command line; `path` is the lowered file, if it is the model `loaded`.
        fresh: Whether no weights were given.
    """

    name: str
    path: Path
    loaded: LoadedModel | None
    target: Target
    data: str
    task: str | None
    split: Any
    threads: int
    limit: int | None
    fresh: bool
    settings: Settings

    def entry(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """The entry for `--json`; messages to the user are printed on the way."""
        from mcc.report.doubt import labels_warning, saturation_warning
        from mcc.report.judge import judge_file

        described = self._described()
        module, stated = self._data(described)
        say_pictures(stated)
        warnings: list[str] = [*module.warnings]
        unlike = labels_warning(self.path, described.labels, module.class_names, ignore=labels_ignored())
        if unlike is not None:
            warnings.append(unlike)
        doubt = saturation_warning(self.target, self.path)
        if doubt is not None:
            warnings.append(doubt)
        judged = judge_file(
            self.target, self.path, module, self.split, task=self.task, threads=self.threads,
            limit=self.limit, outputs=None if self.loaded is None else outputs_of(self.loaded),
            asked=judged_output() or described.output, progress=progress,
        )  # fmt: skip
        say_output([judged.outputs[place] for place in judged.reads], len(judged.outputs))
        if judged.chance is not None:
            warnings.append(self._chance(judged, stated, bool(module.class_names)))
        for sentence in warnings:
            say(f"Warning: {sentence}")
        for name, value in judged.figures.items():
            say(f"{self.name}: {name} {value:.4f}")
        score = judged.score
        return {
            "file": self.name,
            "target": self.target.spec,
            "data": module.name,
            "split": self.split,
            "metric": score.metric,
            "unit": judged.metric.unit,
            "higher_is_better": judged.metric.higher_is_better,
            "value": score.value,
            score.metric: score.value,
            "ci95": [score.low, score.high],
            "images": score.count,
            **({"metrics": judged.figures} if judged.figures else {}),
            "preprocessing": stated.to_json(),
            "output": judged.output.name,
            "warnings": warnings,
        }

    def _described(self) -> Description:
        """Metadata stated by FILE, or by the model."""
        from mcc.report.file_metadata import Description, describe

        if self.loaded is None:
            return describe(self.path)
        return describe(self.name) if Path(self.name).is_file() else Description()

    def _data(self, described: Description) -> tuple[DataModule, Stated]:
        from mcc.data.stated import load_stated
        from mcc.ir.graph import taken_by
        from mcc.report.doubt import stated_by, stated_by_model
        from mcc.report.judge import whole_range
        from mcc.report.measure import taken_shapes

        with self.target.session(self.path, self.threads) as session:
            shape, taken = taken_shapes(session), whole_range(session)
        if self.loaded is not None:
            shape = taken_by(self.loaded.graph)
            stated = stated_by_model(self.name, self.loaded.preprocessing)
        else:
            stated = stated_by(self.path, described) or taken
        return load_stated(
            self.data, seed=self.settings.seed, input_shape=shape, stated=stated, asked=asked_pictures()
        )

    def _chance(self, judged: Judged, stated: Stated, classes: bool) -> str:
        from mcc.ir.graph import weights_of
        from mcc.report.doubt import Circumstances, chance_sentence, zero_weights

        zeros, count = ((), 0) if self.loaded is None else zero_weights(weights_of(self.loaded.graph))
        known = Circumstances(stated, judged.outputs, judged.output, self.fresh, zeros, count, classes)
        return chance_sentence(Path(self.name).name, str(judged.chance), known)

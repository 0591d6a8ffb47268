"""Preprocessing, calibration data and lowered files of a MODEL on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcc.cli.models import deployment_form, load_model, stated_normalisation
from mcc.cli.pictures import asked_pictures, say_pictures
from mcc.errors import UsageError
from mcc.ir.first_look import check_model_file
from mcc.lower.formats import get_format

if TYPE_CHECKING:
    from mcc.cli.settings import Settings
    from mcc.data.stated import Stated
    from mcc.frontend.load import LoadedModel
    from mcc.ir.feed import Feed
    from mcc.ir.graph import Graph
    from mcc.runtime.target import Target

CALIBRATION_BATCH = 32


def stated_preprocessing(spec: str, loaded: LoadedModel) -> Stated | None:
    """The preprocessing given for a MODEL on the command line, else that stated by it; None if neither.

    Raises:
        DataError: It is for another number of channels than the model's.
    """
    from mcc.ir.graph import inputs
    from mcc.ir.notes import shape_of
    from mcc.report.doubt import stated_by_model

    found = asked_pictures().over(stated_by_model(spec, loaded.preprocessing))
    pictures = [shape for shape in map(shape_of, inputs(loaded.graph)) if len(shape) == 4]
    if found is not None and pictures:
        found.preprocessing.for_channels(pictures[0][1])
    return found


def calibration_images(
    graph: Graph, data: str, stated: Stated | None, settings: Settings
) -> tuple[Feed, ...]:
    """Batches of calibration data of a data module, for all inputs of a graph; prints their source."""
    from mcc.data.stated import load_stated
    from mcc.ir.feed import feed_of
    from mcc.ir.graph import taken_by

    module, used = load_stated(
        data,
        seed=settings.seed,
        input_shape=taken_by(graph),
        stated=stated,
        asked=asked_pictures(),
    )
    say_pictures(used)
    return tuple(feed_of(b.inputs) for b in module.batches("calibration", CALIBRATION_BATCH))


def lowered_file(
    spec: str,
    target: Target,
    folder: Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    weights: Path | None = None,
) -> Path:
    """A file that the target runs: the given one, or the given MODEL, lowered into `folder`.

    Raises:
        UsageError: There is no such file or model.
        UnsupportedError: The target's format lacks an operator.
    """
    return lowered_model(spec, target, folder, input_shape=input_shape, weights=weights)[0]


def lowered_model(
    spec: str,
    target: Target,
    folder: Path,
    *,
    input_shape: tuple[int, ...] | None = None,
    weights: Path | None = None,
) -> tuple[Path, LoadedModel | None]:
    """As `lowered_file`; also returns the model if one was lowered."""
    if Path(spec).suffix in target.suffixes:
        return check_model_file(spec, raising=UsageError), None
    loaded = load_model(spec, input_shape, weights)
    count = len(list(folder.iterdir()))
    stated = stated_preprocessing(spec, loaded)
    options = stated_normalisation(stated.preprocessing if stated else None)
    stem = folder / f"{count}-{loaded.name}"
    return get_format(target.format).write(deployment_form(loaded.graph), stem, **options), loaded

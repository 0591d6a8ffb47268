"""Options for the preprocessing of images and the judged output, shared by commands that run images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import load_model
from mcc.cli.quantities import SIDES, FiniteRange, Quantity
from mcc.cli.settings import current_settings
from mcc.errors import UsageError
from mcc.files import readable_file
from mcc.ir.json_file import LARGEST_BYTES

if TYPE_CHECKING:
    from mcc.data.outputs import Output
    from mcc.data.stated import Asked, Stated

Callback = Callable[..., Any]

_PICTURES = "mcc.pictures"


def parse_numbers(text: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406` or one number for all channels. Raises UsageError."""
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise UsageError(f"{text!r} is no finite number for each channel", hint="write 0.485,0.456,0.406")
    return found


def parse_fraction(text: str) -> float:
    """`0.5`, or `1/255`. Raises UsageError."""
    above, slash, below = text.partition("/")
    try:
        found = float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"{text!r} is no number", hint="write 1, 0.5 or 1/255")
    return found


NUMBERS = Quantity("numbers", parse_numbers)
FRACTION = Quantity("fraction", parse_fraction)


def task_option(callback: Callback) -> Callback:
    """The option `--task`."""
    return click.option(
        "--task", metavar="TASK",
        help="classification, package.module:TASK or path/file.py:TASK; default: the data's.",
    )(callback)  # fmt: skip


def picture_options(callback: Callback) -> Callback:
    """Options for the preprocessing of images and the judged output; see `asked_pictures`."""
    return _options(callback, "--size", "--image-size")


def job_picture_options(callback: Callback) -> Callback:
    """The same for commands in which `--size` is the budget of a file."""
    return _options(callback, "--image-size")


def _options(callback: Callback, *sizes: str) -> Callback:
    def option(*names: str, **attributes: Any) -> Callable[[Callback], Callback]:
        return click.option(*names, expose_value=False, callback=_note, **attributes)

    options = [
        option("--mean", type=NUMBERS, metavar="M,...",
               help="(pixel * SCALE - MEAN) / STD: one MEAN for each channel, or one."),
        option("--std", type=NUMBERS, metavar="S,...", help="Standard deviation, in the unit of --mean."),
        option("--scale", type=FRACTION, metavar="X",
               help="1: unscaled pixels of 0 to 255; 1/255 if only --mean or --std is given."),
        option(*sizes, "image_size", type=SIDES, metavar="H[xW]",
               help="Size of the network's input images."),
        option("--crop", type=FiniteRange(0, 1, min_open=True), metavar="SHARE",
               help="Centre crop of an image folder's images, as 0.875."),
        option("--channels", type=click.Choice(["rgb", "bgr"]), help="Order of the channels in the network."),
        option("--preprocessing", type=click.Path(dir_okay=False, exists=True, path_type=Path),
               metavar="FILE", help="JSON or TOML file with all of these."),
        option("--preprocessing-of", metavar="MODEL", help="Model or file that states all of these."),
        option("--judge", metavar="OUTPUT", help="Name or index of the output to judge."),
        option("--ignore-labels", is_flag=True, help="Ignore the class names in a file."),
    ]  # fmt: skip
    for each in reversed(options):
        callback = each(callback)
    return callback


def _note(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store the option for the whole command: all images are preprocessed in the same way."""
    if parameter.name == "preprocessing" and value is not None:
        readable_file(value, at_most_bytes=LARGEST_BYTES)
    ctx.meta.setdefault(_PICTURES, {})[parameter.name] = value


def _given(name: str) -> Any:
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(_PICTURES, {}).get(name)


def judged_output() -> str | None:
    """The value of `--judge`."""
    return _given("judge")


def labels_ignored() -> bool:
    """Whether `--ignore-labels` was given."""
    return bool(_given("ignore_labels"))


def asked_pictures() -> Asked:
    """The preprocessing given on the command line.

    Raises:
        UsageError: Two sources are given, or the given model states no preprocessing.
        DataError: A file cannot be read, or values are impossible.
    """
    from mcc.data.stated import Asked

    names = ("mean", "std", "scale", "crop", "channels")
    found = Asked(_whole(), size=_given("image_size"), **{name: _given(name) for name in names})
    found.over(None)  # impossible values are refused before any work
    return found


def _whole() -> Stated | None:
    file, model = _given("preprocessing"), _given("preprocessing_of")
    if file is not None and model is not None:
        raise UsageError("say the same twice", where="--preprocessing and --preprocessing-of")
    if file is not None:
        from mcc.data.stated import Stated, read_preprocessing

        return Stated(read_preprocessing(file), f"given: {file.name}")
    return None if model is None else _of_model(model)


def _of_model(spec: str) -> Stated:
    from mcc.data.stated import Stated
    from mcc.report.doubt import stated_by_model

    if Path(spec).is_file() and ":" not in spec:
        stated = stated_by_model(spec, None)
    else:
        stated = stated_by_model(spec, load_model(spec).preprocessing)
    if stated is None:
        raise UsageError("states no preprocessing", where=spec, hint="say it with --mean, --std and --scale")
    return Stated(stated.preprocessing, f"as for {Path(spec).name}: {stated.source}")


def say(sentence: str) -> None:
    """Print one line on standard error, unless the command is quiet."""
    if not current_settings().quiet:
        click.echo(sentence, err=True)


def say_pictures(stated: Stated) -> None:
    """Print the preprocessing of the images, and its source."""
    say(f"Pictures: {stated.words}")


def say_output(judged: Sequence[Output], count: int) -> None:
    """Print which of several outputs are judged."""
    if count > 1:
        names = ", ".join(output.name for output in judged)
        say(f"Output: {names} of {count} {'is' if len(judged) == 1 else 'are'} judged")

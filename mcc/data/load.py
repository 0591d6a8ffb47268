"""From what a user types after --data to a `DataModule`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcc.data.arrays import CHANNELS
from mcc.data.module import DataModule
from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError, MccError, UsageError
from mcc.ir.feed import Taken
from mcc.user_code import load_object, neighbours_importable, reason_of

FORMS = (
    "digits, cifar10:DIR, imagefolder:DIR, segmentation:DIR, detection:DIR, package.module:factory or "
    "path/file.py:factory"
)
UNSEEN = "unseen-train:"
"""In front of any of them: the network has not been trained on the training images."""


def load_data(
    spec: str,
    *,
    seed: int = 0,
    input_shape: Taken | None = None,
    preprocessing: Preprocessing | None = None,
    train_unseen: bool = False,
) -> DataModule:
    """The data that `spec` names, as a network takes it.

    Args:
        spec: `digits`, `cifar10:DIR`, `imagefolder:DIR`, `segmentation:DIR`, `detection:DIR`,
            `package.module:factory` or `path/file.py:factory`: a callable that returns a `DataModule`; it is
            given those of seed, input_shape, preprocessing and train_unseen that it has parameters for.
            `unseen-train:` in front of it sets `train_unseen`.
        seed: chooses the calibration images.
        input_shape: (N, C, H, W) or (C, H, W) of the model's input; of several, the
            shapes with the batch, by name.
        preprocessing: the network's own; None takes what is customary for the data.
        train_unseen: the network has not been trained on the training images, so that those for choices may
            be held out of them.

    Raises:
        UsageError: `spec` is none of these.
        DataError: the data is missing, broken, or does not fit the network.
    """
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):  # pyright: ignore
        raise UsageError(
            f"what the model's factory says of its input is {type(preprocessing).__name__}",
            hint="return a mcc.data.Preprocessing as the third value, or leave it out",
        )
    said = spec.startswith(UNSEEN)
    spec, train_unseen = spec.removeprefix(UNSEEN), said or train_unseen
    kind, _, rest = spec.partition(":")
    options: dict[str, Any] = {"seed": seed, "preprocessing": preprocessing, "train_unseen": train_unseen}
    if isinstance(input_shape, dict):
        return _for_several(spec, kind, input_shape, options, said)
    if spec == "digits" or kind in BUILT_IN:
        options["input_shape"] = _image_shape(input_shape, preprocessing)
        data = _built_in(kind, rest, options)
    elif not kind or not rest:
        raise UsageError(f"there is no data called {spec!r}", where="--data", hint=f"use {FORMS}")
    else:
        shape = (
            None if input_shape is None else tuple(input_shape[-3:] if len(input_shape) == 4 else input_shape)
        )
        _same_size(shape, preprocessing)
        data = _from_factory(spec, options | {"input_shape": shape}, input_shape, said)
    return data


BUILT_IN = ("cifar10", "imagefolder", "segmentation", "detection")


def _for_several(
    spec: str, kind: str, shapes: dict[str, tuple[int, ...]], options: dict[str, Any], said: bool
) -> DataModule:
    """Data for a network with several inputs, of a user's factory."""
    if spec == "digits" or kind in BUILT_IN or ":" not in spec:
        raise UsageError(
            f"supplies one input, and the network takes {len(shapes)} ({', '.join(shapes)})", where=spec,
            hint="name a function that returns a DataModule with all of them (docs/data.md)",
        )  # fmt: skip
    inside = {name: shape[1:] for name, shape in shapes.items()}
    return _from_factory(spec, options | {"input_shape": inside}, shapes, said)


def _built_in(kind: str, rest: str, options: dict[str, Any]) -> DataModule:
    if kind == "digits":
        from mcc.data.digits import load_digits

        return load_digits(**options)
    if not rest:
        raise UsageError(f"{kind} needs a folder", where="--data", hint=f"write {kind}:DIR")
    folder = Path(rest).expanduser()
    if kind == "cifar10":
        from mcc.data.cifar10 import load_cifar10

        return load_cifar10(folder, **options)
    if kind == "segmentation":
        from mcc.data.masks import load_segmentation

        return load_segmentation(folder, **options)
    if kind == "detection":
        from mcc.data.boxed_pictures import load_detection

        return load_detection(folder, **options)
    from mcc.data.image_folder import load_image_folder

    return load_image_folder(folder, **options)


def _image_shape(
    shape: tuple[int, ...] | None, preprocessing: Preprocessing | None
) -> tuple[int, int, int] | None:
    """(C, H, W) of the model's input."""
    if shape is None:
        return None
    if len(shape) not in (3, 4) or any(side < 1 for side in shape):
        raise DataError(f"the network's input {shape} is not that of an image", hint="N, C, H, W is")
    channels, height, width = shape[-3:]
    if channels not in CHANNELS and width in CHANNELS:
        raise DataError(
            f"the network takes {channels}x{height}x{width}, channels last, and pictures come channels first",
            hint="wrap it in a module that begins with x.permute(0, 2, 3, 1), and let that take N, C, H, W",
        )
    _same_size((channels, height, width), preprocessing)
    return channels, height, width


def _same_size(shape: tuple[int, ...] | None, preprocessing: Preprocessing | None) -> None:
    size = preprocessing.size if preprocessing else None
    if shape is not None and len(shape) == 3 and size is not None and size != shape[1:]:
        raise DataError(
            f"the preprocessing resizes to {size[0]}x{size[1]} and the network takes {shape[1]}x{shape[2]}",
            hint="change one of them",
        )


def _from_factory(spec: str, options: dict[str, Any], network_shape: Taken | None, said: bool) -> DataModule:
    with neighbours_importable(spec):
        factory = load_object(spec, FORMS)
        if not callable(factory):
            raise UsageError("is not callable", where=spec, hint="name a function that returns a DataModule")
        try:
            data = factory(**_taken(factory, options, spec, said))
        except MccError:
            raise
        except (Exception, SystemExit) as error:  # a user's factory may raise anything
            raise DataError(f"the factory fails ({reason_of(error)})", where=spec) from error
    if not isinstance(data, DataModule):
        raise DataError(
            f"returns {type(data).__name__} and not a DataModule", where=spec,
            hint="return mcc.data.from_arrays(...), or a mcc.data.DataModule",
        )  # fmt: skip
    try:
        return data if network_shape is None else data.for_inputs(network_shape)
    except DataError as error:
        raise DataError(error.message, where=spec, hint=error.hint) from None


def _taken(factory: Callable[..., Any], options: dict[str, Any], spec: str, said: bool) -> dict[str, Any]:
    """Those of the options that a factory has parameters for."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # of some built-in callables
        return {}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY)}
    if said and not takes_all and "train_unseen" not in names:
        raise UsageError(
            "says itself what its validation images are", where=spec,
            hint=f"leave out {UNSEEN}, or give the function a parameter train_unseen",
        )  # fmt: skip
    return {k: v for k, v in options.items() if takes_all or k in names}

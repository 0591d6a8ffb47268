"""From what a user types after --data to a `DataModule`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcc.data.module import DataModule
from mcc.data.preprocessing import Preprocessing
from mcc.errors import DataError, MccError, UsageError

FORMS = "digits, cifar10:DIR, imagefolder:DIR or package.module:factory"


def load_data(
    spec: str,
    *,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
    preprocessing: Preprocessing | None = None,
) -> DataModule:
    """The data that `spec` names, as a network takes it.

    Args:
        spec: `digits`, `cifar10:DIR`, `imagefolder:DIR`, `package.module:factory` or `path/file.py:factory`:
            a callable that returns a `DataModule`; it is given those of seed, input_shape and preprocessing
            that it has parameters for.
        seed: chooses the calibration images.
        input_shape: (N, C, H, W) or (C, H, W) of the model's input.
        preprocessing: the network's own; None takes what is customary for the data.

    Raises:
        UsageError: `spec` is none of these.
        DataError: the data is missing, broken, or does not fit the network.
    """
    shape = _image_shape(input_shape, preprocessing)
    kind, _, rest = spec.partition(":")
    options: dict[str, Any] = {"seed": seed, "input_shape": shape, "preprocessing": preprocessing}
    if spec == "digits":
        from mcc.data.digits import load_digits

        return load_digits(**options)
    if kind in ("cifar10", "imagefolder"):
        if not rest:
            raise UsageError(f"{kind} needs a folder", where="--data", hint=f"write {kind}:DIR")
        folder = Path(rest).expanduser()
        if kind == "cifar10":
            from mcc.data.cifar10 import load_cifar10

            return load_cifar10(folder, **options)
        from mcc.data.image_folder import load_image_folder

        return load_image_folder(folder, **options)
    if not kind or not rest:
        raise UsageError(f"there is no data called {spec!r}", where="--data", hint=f"use {FORMS}")
    return _from_factory(spec, options)


def _image_shape(
    shape: tuple[int, ...] | None, preprocessing: Preprocessing | None
) -> tuple[int, int, int] | None:
    """(C, H, W) of the model's input."""
    if shape is None:
        return None
    if len(shape) not in (3, 4) or any(side < 1 for side in shape):
        raise DataError(f"the network's input {shape} is not that of an image", hint="N, C, H, W is")
    channels, height, width = shape[-3:]
    size = preprocessing.size if preprocessing else None
    if size is not None and size != (height, width):
        raise DataError(
            f"the preprocessing resizes to {size[0]}x{size[1]} and the network takes {height}x{width}",
            hint="change one of them",
        )
    return channels, height, width


def load_object(spec: str) -> Any:
    """The object that `package.module:name` or `path/to/file.py:name` names.

    Raises:
        UsageError: there is no such file, module or name.
        DataError: importing it fails.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"{spec!r} names nothing", hint="write package.module:name or path/to/file.py:name")
    try:
        if place.endswith(".py"):
            module = _load_file(Path(place).expanduser())
        else:
            module = importlib.import_module(place)
    except MccError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module {error.name!r}", where=spec, hint=f"use {FORMS}") from None
    except Exception as error:
        raise DataError(f"importing it fails ({type(error).__name__}: {error})", where=spec) from error
    if not hasattr(module, name):
        raise UsageError(f"{place} has no {name!r}", where=spec)
    return getattr(module, name)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError("there is no such file", where=str(path))
    # Under its own name in sys.modules, which dataclasses look their module up in.
    name = f"mcc_file_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("is not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_factory(spec: str, options: dict[str, Any]) -> DataModule:
    factory: Callable[..., Any] = load_object(spec)
    if not callable(factory):
        raise UsageError("is not callable", where=spec, hint="name a function that returns a DataModule")
    parameters = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters}
    try:
        data = factory(**{k: v for k, v in options.items() if takes_all or k in names})
    except MccError:
        raise
    except Exception as error:
        raise DataError(f"the factory fails ({type(error).__name__}: {error})", where=spec) from error
    if not isinstance(data, DataModule):
        raise DataError(f"returns {type(data).__name__} and not a DataModule", where=spec)
    shape = options["input_shape"]
    if shape is not None and data.input_shape != shape:
        raise DataError(f"gives inputs of {data.input_shape} and the network takes {shape}", where=spec)
    return data

"""Runs lowered files in a target's runtime, with inputs and outputs in the axes of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.errors import UsageError
from mcc.ir.feed import Taken
from mcc.runtime.session import Session, TensorInfo
from mcc.runtime.target import Target

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def channels_last(file: Path | str) -> bool:
    """Whether files of that kind usually store images channels last: .tflite does, .onnx and .pte do not.

    It decides when shapes are ambiguous: images with as many rows and columns as channels.
    """
    return Path(file).suffix == ".tflite"


def as_stored(value: Array, info: TensorInfo, *, last: bool = True) -> Array:
    """An image batch [N, C, H, W] in the layout of a file's tensor; values of other ranks unchanged.

    Args:
        last: Layout to assume if both fit, see `channels_last`.

    Raises:
        UsageError: The batch does not fit, neither unchanged nor with channels last.
    """
    wanted = info.shape[1:]
    moved = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    for layout in (moved, value) if last else (value, moved):
        if layout.shape[1:] == wanted:
            return np.ascontiguousarray(layout)
    raise UsageError(
        f"input {info.name!r} is {list(wanted)} and the images are {list(value.shape[1:])}",
        hint="name data or an --input-shape that fits",
    )


def as_graph(value: Array, shape: Shape, *, last: bool = True) -> Array:
    """An output of a file in the axes of the graph, whose shape (with batch) is `shape`.

    Args:
        last: Layout of the file to assume if both fit, see `channels_last`.

    Raises:
        UsageError: The output does not fit, neither unchanged nor with channels moved first.
    """
    moved = np.moveaxis(value, -1, 1) if value.ndim == 4 else value
    for layout in (moved, value) if last else (value, moved):
        if layout.shape[1:] == shape[1:]:
            return np.ascontiguousarray(layout)
    raise UsageError(f"the file returns {list(value.shape)} where the model returns {list(shape)}")


def channels_first(shape: Shape) -> Shape:
    """Shape, in the axes of a graph, of an output that a file stores channels last."""
    return (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 else shape


def taken_shapes(session: Session) -> Taken:
    """What a file takes, in the axes of a graph: (C, H, W) of one image, the shape with batch of one other
    input, or shapes with batch by name."""
    shapes = {
        info.name: (info.shape[0], *_image_shape(info.shape)) if len(info.shape) == 4 else info.shape
        for info in session.inputs
    }
    if len(shapes) > 1:
        return shapes
    (shape,) = shapes.values()
    return shape[1:] if len(shape) == 4 else shape


def _image_shape(shape: Shape) -> tuple[int, int, int]:
    _, a, b, c = shape
    # One or three channels are first or last; no image has a side of one or three pixels.
    return (a, b, c) if a in (1, 3) and c not in (1, 3) else (c, a, b)


def run_file(
    target: Target, file: Path | str, values: Sequence[Array], shapes: Sequence[Shape], *, threads: int = 1
) -> list[Array]:
    """Outputs of a lowered file for inputs [N, ...] in the graph's axes, N any multiple of the file's batch.

    Args:
        shapes: Shapes of the graph's outputs, with batch; the results have their axes.

        Raises:
        UsageError: Inputs or outputs are not those of the graph.
        TargetError: The runtime is missing, refused the file or crashed.
    """
    with target.session(file, threads) as session:
        return run_session(session, values, shapes, file)


def _all_runs(session: Session, stored: Sequence[Array]) -> list[Array]:
    """Outputs of all inferences, each joined along its first axis; in one request if the session supports it.

    On a phone each request is a process and several transfers: 64 images one by one take a minute.
    """
    if len(session.inputs) == 1 and session.inputs[0].shape:
        return session.run_all(stored[0])
    batch = session.inputs[0].shape[0] if session.inputs[0].shape else 1
    parts: list[list[Array]] = []
    for begin in range(0, len(stored[0]), max(1, batch)):
        parts.append(session.run([value[begin : begin + batch] for value in stored]))
    return [np.concatenate([part[i] for part in parts]) for i in range(len(session.outputs))]


def run_each(session: Session, values: Sequence[Array], *, last: bool) -> list[Array]:
    """Outputs, as they are stored, for one array [N, ...] for each input in the axes of the graph.

    Args:
        last: Layout of the file, see `channels_last`.

    Raises:
        UsageError: The file has another number of inputs, or an array does not fit.
    """
    if len(session.inputs) != len(values):
        raise UsageError(f"has {len(session.inputs)} inputs, and the data supplies {len(values)}")
    stored = [as_stored(value, info, last=last) for value, info in zip(values, session.inputs, strict=True)]
    return _all_runs(session, stored)


def run_session(
    session: Session, values: Sequence[Array], shapes: Sequence[Shape], file: Path | str
) -> list[Array]:
    """The same as `run_file`, in an open session of the file."""
    if len(session.inputs) != len(values) or len(session.outputs) != len(shapes):
        raise UsageError(
            f"has {len(session.inputs)} inputs and {len(session.outputs)} outputs; the model has "
            f"{len(values)} and {len(shapes)}",
            where=str(file),
        )
    last = channels_last(file)
    joined = run_each(session, values, last=last)
    return [as_graph(value, shape, last=last) for value, shape in zip(joined, shapes, strict=True)]

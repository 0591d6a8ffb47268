"""Elements at constant positions along an axis: a list as index in PyTorch, `Gather` in ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue, Const

_BY_VALUES = "positions that are computed from the input have no static shape; give them as constants"


def take(e: Emitter, x: AnyValue, axis: int, positions: Sequence[int]) -> AnyValue:
    """The elements at these positions along an axis, in their order: slices, joined where they are several.

    Args:
        positions: negative ones count from the end.
    """
    length = e.shape(x)[axis]
    wrong = next((i for i in positions if not -length <= i < length), None)
    if wrong is not None:
        e.refuse(f"position {wrong} lies outside an axis of length {length}")
    if not positions:
        e.refuse("takes an empty slice")
    runs = _runs([i % length for i in positions])
    e.limit_copies(len(runs), "takes an axis apart")
    parts: dict[range, AnyValue] = {}
    for run in runs:
        if run not in parts:
            parts[run] = e.window(x, axis, run.start, run.stop, run.step)
    return parts[runs[0]] if len(runs) == 1 else e.concat([parts[run] for run in runs], axis)


def _runs(positions: Sequence[int]) -> list[range]:
    """Positions as ascending runs with one step each."""
    runs: list[range] = []
    for i in positions:
        if runs:
            last = runs[-1]
            step = i - last[-1]
            if step > 0 and (len(last) == 1 or step == last.step):
                runs[-1] = range(last.start, i + 1, step)
                continue
        runs.append(range(i, i + 1))
    return runs


@aten("index.Tensor")
def index(e: Emitter, x: AnyValue, indices: Sequence[AnyValue | None]) -> AnyValue:
    """`x[:, [0, 2]]`: constant positions along one axis."""
    given = [(axis, value) for axis, value in enumerate(indices) if value is not None]
    if len(given) != 1:
        e.refuse(
            "indexes several axes by lists at a time",
            "index one axis after the other: x[:, [0, 2]][:, :, [1]]",
        )
    axis, value = given[0]
    return take(e, x, e.axis(x, axis), _positions(e, value))


@aten("index_select.default")
def index_select(e: Emitter, x: AnyValue, dim: int, index: AnyValue) -> AnyValue:
    """Constant positions along an axis."""
    return take(e, x, e.axis(x, dim), _positions(e, index))


def _positions(e: Emitter, value: AnyValue) -> list[int]:
    if not isinstance(value, Const):
        e.refuse("indexes by computed positions", _BY_VALUES)
    positions = value.tensor
    if positions.dim() != 1:
        e.refuse(
            f"indexes an axis by positions of shape {tuple(positions.shape)}", "give one list of positions"
        )
    if positions.dtype == torch.bool:
        positions = positions.nonzero().flatten()
    return [int(i) for i in positions.tolist()]

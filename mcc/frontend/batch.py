"""Whether a captured graph holds for one sample, which is what a lowered file is given.

Models are captured at a batch of 2, so that the batch axis is told from one that is squeezed. The canonical
form works sample by sample and knows no length of the batch: where a model computes with it (`x.shape[0]`,
`numel`, a branch on either, statistics of the batch), the length of the capture has become a constant of the
graph. So the graph is compared with its original at the batch that will run. Where the original refuses that
batch, another length is tried; where it takes no other, its user is told.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mcc.errors import MccError, UnsupportedError
from mcc.ir.graph import Graph, run

log = logging.getLogger(__name__)

CAPTURE_BATCH = 2
DEPLOYED_BATCH = 1
# Tells a length that entered the arithmetic as well as 1 does: neither is the captured one.
OTHER_BATCH = 3

# Inputs of the usual size, and larger ones: a clamp at a multiple of the batch length is not reached by all.
SCALES = (1.0, 8.0)

Original = Callable[[Sequence[Tensor]], list[Tensor]]
"""The model as its user has it, on inputs of any batch length that it takes."""

Places = tuple[int | None, ...]
"""Where a model has the batch axis of each output; None where it has none."""

Disagreement = Callable[[Graph, Sequence[Tensor], Sequence[Tensor]], float]
"""How far a graph is from the original's outputs on inputs, as a multiple of what rounding may do."""


class BatchLengthError(UnsupportedError):
    """A model that computes something else for one sample than for several."""


_HINT = "compute each sample alone: keep x.shape[0], numel() and statistics over axis 0 out of the model"


def check_one_sample(
    graph: Graph,
    original: Original,
    shapes: Sequence[tuple[int, ...]],
    disagreement: Disagreement,
    *,
    captured: int,
    fixed: bool = False,
) -> None:
    """Raise BatchLengthError unless the graph computes what the original does for one sample.

    Args:
        shapes: of the inputs, without the batch axis.
        disagreement: see there; 1 is the most that is taken for rounding.
        captured: batch length at which the graph was captured and has been compared.
        fixed: the original was written for that length. Shapes of that length inside it then say that it does
            not take another one; they are not what it would compute.
    """
    for batch in (DEPLOYED_BATCH, OTHER_BATCH):
        if batch == captured:
            return
        try:
            compared = [_compared(original, shapes, batch, scale) for scale in SCALES]
        except Exception as error:  # a model may raise anything where it refuses a batch
            log.info("the model does not run at a batch of %d: %s", batch, error)
            continue
        if fixed and any(_misfits(run(graph, *values), expected) for values, expected in compared[:1]):
            continue
        for values, expected in compared:
            _check(graph, values, expected, disagreement, batch, captured)
        return
    log.warning(
        "the model runs at a batch of %d only: what it computes there is taken for each sample; "
        "export it at a batch of 1, the one that a lowered file is given",
        captured,
    )


def _compared(
    original: Original, shapes: Sequence[tuple[int, ...]], batch: int, scale: float
) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(batch)
    values = [scale * torch.randn((batch, *shape), generator=generator) for shape in shapes]
    return values, original([value.clone() for value in values])


def _check(
    graph: Graph,
    values: Sequence[Tensor],
    expected: Sequence[Tensor],
    disagreement: Disagreement,
    batch: int,
    captured: int,
) -> None:
    got = run(graph, *values)
    if _misfits(got, expected):
        what = f"returns {_shapes(expected)}, and {_shapes(got)} by what was captured at {captured}"
    elif not disagreement(graph, values, expected) <= 1.0:
        what = f"computes other numbers than what was captured at {captured}"
    else:
        return
    raise BatchLengthError(
        f"the output depends on the length of the batch: at a batch of {batch} the model {what}",
        where="model",
        hint=_HINT,
    )


def _misfits(got: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return len(got) != len(expected) or any(
        unsqueezed(b, a.shape) is None for a, b in zip(got, expected, strict=True)
    )


def _shapes(values: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(value.shape)) for value in values) or "nothing"


def unsqueezed(value: Tensor, shape: torch.Size) -> Tensor | None:
    """An output in a wished shape, where only axes of length 1 differ: `squeeze` takes the batch axis."""
    if value.shape == shape:
        return value
    kept = [[n for n in lengths if n != 1] for lengths in (value.shape, shape)]
    return value.reshape(shape) if kept[0] == kept[1] else None


def in_front(original: Original, places: Places) -> Original:
    """A model whose outputs have their batch axis in front, as those of its graph do."""

    def moved(values: Sequence[Tensor]) -> list[Tensor]:
        found = original(values)
        if len(found) != len(places):
            return found
        return [v.movedim(place, 0) if place else v for v, place in zip(found, places, strict=True)]

    return moved


def warn_of_moved(places: Places, names: Sequence[str] = ()) -> None:
    """Say which outputs are returned in another shape than the model's."""
    for index, place in enumerate(places):
        if place != 0:
            name = names[index] if names else str(index)
            where = f"its axis {place} is the batch" if place else "it has no batch axis"
            log.warning("output %s: %s; here the batch comes first", name, where)


def relative_difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference over the output range; infinite for other shapes or non-finite values."""
    if len(got) != len(expected):
        return math.inf
    worst = 0.0
    for a, wanted in zip(got, expected, strict=True):
        b = unsqueezed(wanted, a.shape)
        if b is None:
            return math.inf
        finite = torch.isfinite(a) & torch.isfinite(b)
        if not torch.equal(torch.nan_to_num(a[~finite]), torch.nan_to_num(b[~finite])):
            return math.inf
        if bool(finite.any()):
            scale = float(b[finite].abs().max()) or 1.0
            worst = max(worst, float((a - b)[finite].abs().max()) / scale)
    return worst


def in_both_precisions(single: float, double: float, reference: Original) -> Disagreement:
    """The disagreement by float32, and where that leaves a doubt, by float64.

    Args:
        single: what rounding may do in float32, of the output range.
        double: the same in float64.
        reference: the original in float64.
    """

    def disagreement(graph: Graph, values: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
        found = relative_difference(run(graph, *values), expected)
        if found <= single:
            return found / single
        doubles = [value.double() for value in values]
        try:
            exact = relative_difference(
                run(copy.deepcopy(graph).double(), *doubles), reference([value.clone() for value in doubles])
            )
        except (MccError, RuntimeError, TypeError) as error:
            log.info("compared in float32 only, since the model does not run in float64: %s", error)
            return found / (1000 * single)
        return exact / double

    return disagreement

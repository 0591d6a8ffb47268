"""Whether a lowered file computes what its graph computes, in figures with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mcc.report.schema import Frozen, Share

Array = npt.NDArray[Any]

FLOAT_TOLERANCE = 1e-4
"""Of the output range: float32 rounding (6e-8) over sums of about a thousand terms, in another order."""

EQUAL = 1e-5
"""Of the output range: two values this close are the same step of an int8 output (a step is 1/255 of it)."""

AGREEMENT = 0.995
"""Share of inputs on which a quantised file must name the same class as the integer simulator: runtimes
differ in how they round a requantisation, by one step in a few values."""


class Comparison(Frozen):
    """How far two sets of outputs agree.

    Attributes:
        inputs: how many inputs were compared.
        worst: largest difference as a share of the reference's range; None where a value is not finite.
        sqnr_db: signal to noise of the file against the reference in decibels; None where they are equal.
        equal: share of output values that are the same.
        agreement: share of inputs of which both say the same, as the task has it; without a task, whose
            greatest value in the judged output [N, classes] is the same; else None.
        passed: the verdict.
        rule: what it was held against, in words.
    """

    inputs: int
    worst: float | None
    sqnr_db: float | None = None
    equal: Share
    agreement: Share | None = None
    passed: bool
    rule: str = Field(min_length=1)


def compare_outputs(
    outputs: Sequence[Array],
    reference: Sequence[Array],
    *,
    integer: bool,
    tolerance: float | None = None,
    judged: int = 0,
    agree: Callable[[Sequence[Array], Sequence[Array]], Array] | None = None,
) -> Comparison:
    """Compare a file's outputs with the reference's, [N, ...] each.

    Args:
        integer: the reference is the integer simulator: held against the share of equal classes.
        tolerance: of the output range, instead of the rule for the kind of reference.
        judged: place of the output whose greatest value is compared, where there is no task.
        agree: how far each input's outputs say the same, [N] from 0 to 1, see `mcc.data.Task.agreement`.
    """
    worst, equal, total, noise, signal = 0.0, 0, 0, 0.0, 0.0
    finite = True
    for value, wanted in zip(outputs, reference, strict=True):
        a, b = value.astype(np.float64), wanted.astype(np.float64)
        finite = finite and bool(np.isfinite(a).all() and np.isfinite(b).all())
        if not finite:
            break
        span = float(np.abs(b).max(initial=0.0)) or 1.0
        difference = np.abs(a - b)
        worst = max(worst, float(difference.max(initial=0.0)) / span)
        equal += int((difference <= EQUAL * span).sum())
        total += difference.size
        noise += float((difference**2).sum())
        signal += float((b**2).sum())
    agreement: float | None = None
    if finite and agree is not None:
        agreement = float(agree(outputs, reference).mean())
    elif finite:
        agreement = _agreement(outputs[judged], reference[judged])
    same = "same class" if agree is None else "the same, by the task,"
    passed, rule = _verdict(worst, equal == total, agreement, integer, tolerance, same)
    return Comparison(
        inputs=len(reference[0]),
        worst=worst if finite else None,
        sqnr_db=float(10 * np.log10(signal / noise)) if finite and noise and signal else None,
        equal=equal / total if finite and total else 0.0,
        agreement=agreement,
        passed=passed and finite,
        rule=rule,
    )


def _agreement(value: Array, wanted: Array) -> float | None:
    if value.ndim != 2 or value.shape[1] < 2:
        return None
    return float((value.argmax(1) == wanted.argmax(1)).mean())


def _verdict(
    worst: float,
    all_equal: bool,
    agreement: float | None,
    integer: bool,
    tolerance: float | None,
    says: str,
) -> tuple[bool, str]:
    if integer and tolerance is None and agreement is not None:
        same = all_equal or agreement >= AGREEMENT
        return same, f"{says} as the integer simulator on at least {100 * AGREEMENT:.1f} % of the inputs"
    limit = tolerance if tolerance is not None else FLOAT_TOLERANCE
    return worst <= limit, f"largest difference at most {limit:g} of the output range"

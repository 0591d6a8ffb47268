"""Numerical comparison of a lowered file's outputs with those of its graph, with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mcc.report.schema import Frozen, Share

Array = npt.NDArray[Any]

FLOAT_TOLERANCE = 1e-4
"""Share of the output range: float32 rounding (6e-8) over sums of about a thousand terms in another order."""

EQUAL = 1e-5
"""Share of the output range: two values this close are the same step of an int8 output (a step is 1/255)."""

AGREEMENT = 0.995
"""Share of inputs for which a quantised file must predict the same class as the integer simulator: runtimes
round requantisation differently, by one step in a few values."""


class Comparison(Frozen):
    """Agreement of two sets of outputs.

    Attributes:
        inputs: Number of compared inputs.
        worst: Largest difference as a share of the reference's range; None if a value is not finite.
        sqnr_db: Signal-to-noise ratio of the file against the reference in decibels; None if equal.
        equal: Share of equal output values.
        agreement: Share of inputs with the same result, as the task defines it; without a task, with the same
            maximum in the judged output [N, classes]; else None.
        passed: The verdict.
        rule: The acceptance rule, as text.
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
        integer: Whether the reference is the integer simulator: then the share of equal classes decides.
        tolerance: Tolerance as a share of the output range, instead of the rule for the kind of reference.
        judged: Index of the output whose maximum is compared, without a task.
        agree: Agreement of each input's outputs, [N] from 0 to 1, see `mcc.data.Task.agreement`.
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

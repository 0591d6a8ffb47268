"""Pooling in canonical form: rounding up, divisors and adaptive windows, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mcc.frontend.emitter import MAX_COPIES, Emitter
from mcc.frontend.values import AnyValue

Pair = tuple[int, int]


def _excess(length: int, kernel: int, stride: int, padding: int, dilation: int, up: bool) -> int:
    """Elements by which the last window of a pool that rounds up reaches beyond the padded axis."""
    if not up:
        return 0
    reach = dilation * (kernel - 1) + 1
    count = -(-(length + 2 * padding - reach) // stride) + 1
    if (count - 1) * stride >= length + padding:  # a window must not start in the padding
        count -= 1
    return max(0, (count - 1) * stride + reach - (length + 2 * padding))


def _excesses(
    e: Emitter, x: AnyValue, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, up: bool
) -> Pair:
    lengths = e.shape(x)[2:]
    if len(lengths) != 2:
        e.refuse("pools something that is no map [N, C, H, W]", "give the model a batch axis")
    high, wide = (_excess(*v, up) for v in zip(lengths, kernel, stride, padding, dilation, strict=True))
    return high, wide


def max_pool(
    e: Emitter, x: AnyValue, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, up: bool
) -> AnyValue:
    """Maximum over windows; rounding up becomes padding below and right, which never wins."""
    below, right = _excesses(e, x, kernel, stride, padding, dilation, up)
    quad = (padding[0], padding[0] + below, padding[1], padding[1] + right)
    return e.call("max_pool2d", x, kernel=kernel, stride=stride, padding=quad, dilation=dilation)


def average_pool(
    e: Emitter, x: AnyValue, kernel: Pair, stride: Pair, padding: Pair, up: bool, counted: bool | None
) -> AnyValue:
    """Mean over windows.

    Args:
        counted: whether the padding counts in the divisor; None counts also what rounding up adds.

    What rounding up adds never counts in torch: where the padding itself counts, it becomes a `pad` node.
    """
    if (kernel, padding) == (tuple(e.shape(x)[2:]), (0, 0)):
        return e.call("mean", x, axes=(2, 3), keepdim=True)
    below, right = _excesses(e, x, kernel, stride, padding, (1, 1), up)
    top, left = padding
    if counted and (below or right) and any(padding):
        amounts = ((0, 0), (0, 0), (top, top), (left, left))
        x = e.call("pad", x, padding=amounts, mode="constant", value=0.0)
        top = left = 0
    include = counted is None or (counted and not (below or right))
    quad = (top, top + below, left, left + right)
    return e.call("avg_pool2d", x, kernel=kernel, stride=stride, padding=quad, count_include_pad=include)


def _windows(length: int, count: int) -> list[Pair]:
    """Start and stop of the windows of an adaptive pool."""
    return [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def _even(windows: Sequence[Pair]) -> Pair | None:
    """(size, stride) where all windows have one size and distance, else None."""
    sizes = {stop - start for start, stop in windows}
    steps = {b[0] - a[0] for a, b in pairwise(windows)} or {1}
    if len(sizes) == 1 and len(steps) == 1 and 0 not in steps:
        return sizes.pop(), steps.pop()
    return None


def adaptive_pool(e: Emitter, x: AnyValue, size: Pair, op: str) -> AnyValue:
    """Pool a map to `size`, by `mean` or `amax`; slice by slice where the windows are not alike."""
    lengths = e.shape(x)[2:]
    if size == (1, 1):
        return e.call(op, x, axes=(2, 3), keepdim=True)
    if size == tuple(lengths):
        return x
    rows, columns = (_windows(n, m) for n, m in zip(lengths, size, strict=True))
    even = _even(rows), _even(columns)
    if even[0] is not None and even[1] is not None:
        kernel, stride = (even[0][0], even[1][0]), (even[0][1], even[1][1])
        if op == "mean":
            return average_pool(e, x, kernel, stride, (0, 0), False, True)
        return max_pool(e, x, kernel, stride, (0, 0), (1, 1), False)
    # Windows are rectangles, so a mean (maximum) over rows of means over columns is exact.
    for axis, windows in ((2, rows), (3, columns)):
        if len(windows) > MAX_COPIES:
            e.refuse(f"pools to {len(windows)} uneven windows", "use a pool with a fixed kernel")
        parts = [
            e.call(op, e.window(x, axis, start, stop), axes=(axis,), keepdim=True) for start, stop in windows
        ]
        x = e.concat(parts, axis)
    return x

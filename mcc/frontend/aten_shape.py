"""ATen rules: views, slices, joins, padding, and operators that change nothing in eval mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.moved_batch import place_of
from mcc.frontend.values import AnyValue, Const, Expanded, Turned

Ints = Sequence[int]
_TO_THE_END = 2**62


@aten(
    *("view.default", "_unsafe_view.default", "reshape.default", "flatten.using_ints", "unflatten.int"),
    *("squeeze.dim", "squeeze.dims", "squeeze.default", "unsqueeze.default"),
)
def view(
    e: Emitter, x: AnyValue, size: Ints = (), shape: Ints = (), start_dim: int = 0, end_dim: int = 0,
    dim: Ints | int = 0, sizes: Ints = (),
) -> AnyValue:  # fmt: skip
    """All that keep the order of elements are a reshape to the shape they returned."""
    return e.reshape_out(x)


@aten("permute.default")
def permute(e: Emitter, x: AnyValue, dims: Ints) -> AnyValue:
    """Permute the axes."""
    rank = len(e.shape(x))
    return e.turn(x, [dim % rank for dim in dims])


@aten("transpose.int", "swapaxes.default")
def transpose(
    e: Emitter, x: AnyValue, dim0: int = 0, dim1: int = 0, axis0: int = 0, axis1: int = 0
) -> AnyValue:
    """Swap two axes."""
    rank = len(e.shape(x))
    perm = list(range(rank))
    first, second = (dim0 or axis0) % rank, (dim1 or axis1) % rank
    perm[first], perm[second] = perm[second], perm[first]
    return e.turn(x, perm)


@aten("mT.default", "adjoint.default")
def matrix_transpose(e: Emitter, x: AnyValue) -> AnyValue:
    """Swap the last two axes."""
    return transpose(e, x, -2, -1)


@aten("movedim.int", "movedim.intlist", "moveaxis.int")
def movedim(e: Emitter, x: AnyValue, source: Ints | int, destination: Ints | int) -> AnyValue:
    """Move axes to other places."""
    rank = len(e.shape(x))
    sources = [source] if isinstance(source, int) else list(source)
    targets = [destination] if isinstance(destination, int) else list(destination)
    placed = {t % rank: s % rank for s, t in zip(sources, targets, strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in placed.values())
    return e.turn(x, [placed[i] if i in placed else next(rest) for i in range(rank)])


def _through(
    e: Emitter, x: AnyValue, dim: int, work: Callable[[AnyValue, int], AnyValue], *, drops: bool = False
) -> AnyValue:
    """Work along an axis of a value, wherever its batch axis is seen.

    Args:
        work: gets the value with its batch axis in front, and the axis there.
        drops: whether the axis goes away.
    """
    position = e.axis(x, dim)
    if not isinstance(x, Turned):
        return work(x, position)
    place = x.place - 1 if drops and x.place is not None and position < x.place else x.place
    return e.seen_at(e.node(work(x.inner, x.seen()[position])), place)


@aten("slice.Tensor")
def slice_(
    e: Emitter, x: AnyValue, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> AnyValue:
    """A window along an axis; the whole batch may be sliced as `x[:]`."""
    stop = _TO_THE_END if end is None else end
    whole = (start or 0) == 0 and stop >= e.batch and step == 1
    if not isinstance(x, Turned) and dim % len(e.shape(x)) == 0 and whole:
        return x
    return _through(e, x, dim, lambda value, axis: e.window(value, axis, start or 0, stop, step))


@aten("narrow.default")
def narrow(e: Emitter, x: AnyValue, dim: int, start: int, length: int) -> AnyValue:
    """A window along an axis."""
    first = start % e.shape(x)[dim]
    return slice_(e, x, dim, first, first + length)


@aten("select.int")
def select(e: Emitter, x: AnyValue, dim: int, index: int) -> AnyValue:
    """One element along an axis, which goes away."""
    position = index % e.shape(x)[dim]

    def work(value: AnyValue, axis: int) -> AnyValue:
        return _without(e, e.window(value, axis, position, position + 1), axis)

    return _through(e, x, dim, work, drops=True)


def _without(e: Emitter, x: AnyValue, axis: int) -> AnyValue:
    shape = e.shape(x)
    return e.reshape(x, shape[1:axis] + shape[axis + 1 :])


@aten("unbind.int")
def unbind(e: Emitter, x: AnyValue, dim: int = 0) -> list[AnyValue]:
    """Each element along an axis."""
    length = e.shape(x)[dim]
    e.limit_copies(length, "takes an axis apart")
    return [select(e, x, dim, index) for index in range(length)]


@aten("split_with_sizes.default", "split.sizes")
def split_with_sizes(
    e: Emitter, x: AnyValue, split_sizes: Ints = (), dim: int = 0, split_size: Ints = ()
) -> list[AnyValue]:
    """Windows of given sizes."""
    start = 0
    parts: list[AnyValue] = []
    for size in split_sizes or split_size:
        parts.append(slice_(e, x, dim, start, start + size))
        start += size
    return parts


@aten("split.Tensor")
def split(e: Emitter, x: AnyValue, split_size: int, dim: int = 0) -> list[AnyValue]:
    """Windows of one size; the last may be shorter."""
    length = e.shape(x)[dim]
    return [slice_(e, x, dim, i, min(i + split_size, length)) for i in range(0, length, split_size)]


@aten("chunk.default")
def chunk(e: Emitter, x: AnyValue, chunks: int, dim: int = 0) -> list[AnyValue]:
    """A number of windows."""
    return split(e, x, -(-e.shape(x)[dim] // chunks), dim)


@aten("cat.default", "concat.default")
def cat(e: Emitter, tensors: Sequence[AnyValue], dim: int = 0) -> AnyValue:
    """Join along an axis."""
    parts = [t for t in tensors if e.shape(t) != (0,)]  # torch lets an empty vector join anything
    reference = next(t for t in parts if not isinstance(t, Const))
    return e.concat(parts, e.axis(reference, dim))


@aten("stack.default")
def stack(e: Emitter, tensors: Sequence[AnyValue], dim: int = 0) -> AnyValue:
    """Join along a new axis."""
    axis = e.axis(tensors[0], dim, new=1)
    shape = e.shape(tensors[0])
    return e.concat([e.reshape(t, (*shape[1:axis], 1, *shape[axis:])) for t in tensors], axis)


@aten(
    "pad.default",
    "constant_pad_nd.default",
    "reflection_pad2d.default",
    "replication_pad2d.default",
    "reflection_pad1d.default",
    "replication_pad1d.default",
)
def pad(
    e: Emitter, x: AnyValue, pad: Ints = (), mode: str = "constant", value: float | None = None,
    padding: Ints = (),
) -> AnyValue:  # fmt: skip
    """Pad from the last axis on; negative amounts crop."""
    amounts = list(pad or padding)
    rank = len(e.shape(x))
    pairs = [(0, 0)] * rank
    for index in range(len(amounts) // 2):
        pairs[rank - 1 - index] = (amounts[2 * index], amounts[2 * index + 1])
    place = place_of(x)
    if place is not None and pairs[place] != (0, 0):
        e.refuse("pads the batch axis", "keep axis 0 for the batch")
    node = _crop(e, x, pairs)
    grown = tuple((max(0, low), max(0, high)) for low, high in pairs)
    if not any(map(any, grown)):
        return node
    if mode == "circular":
        return _circular(e, node, grown)
    return e.call("pad", node, padding=grown, mode=mode, value=float(value or 0.0))


def _crop(e: Emitter, node: AnyValue, pairs: Sequence[tuple[int, int]]) -> AnyValue:
    for axis, (low, high) in enumerate(pairs):
        if low < 0 or high < 0:
            node = e.window(node, axis, max(0, -low), e.shape(node)[axis] - max(0, -high))
    return node


def _circular(e: Emitter, x: AnyValue, pairs: Sequence[tuple[int, int]]) -> AnyValue:
    for axis, (low, high) in enumerate(pairs):
        length = e.shape(x)[axis]
        parts: list[AnyValue] = [e.window(x, axis, length - low, length)] if low else []
        parts.append(x)
        parts += [e.window(x, axis, 0, high)] if high else []
        x = e.concat(parts, axis)
    return x


@aten("expand.default", broadcasting=True)
def expand(e: Emitter, x: AnyValue, size: Ints) -> AnyValue:
    """See a value at a larger shape."""
    if not e.out or e.out[0] != e.batch:
        e.refuse("expands the batch axis", "keep axis 0 for the batch")
    return e.expand(x, e.out[1:])


@aten("expand_as.default", broadcasting=True)
def expand_as(e: Emitter, x: AnyValue, other: AnyValue) -> AnyValue:
    """See a value at the shape of another."""
    return e.expand(x, e.out[1:])


@aten("repeat.default")
def repeat(e: Emitter, x: AnyValue, repeats: Ints) -> AnyValue:
    """Tile along axes."""
    shape = e.shape(x)
    extra = len(repeats) - len(shape)
    node: AnyValue = e.reshape(x, (1,) * extra + shape[1:]) if extra else e.node(x)
    if repeats[0] != 1 or (extra and shape[1:] and any(n != 1 for n in repeats[: extra + 1])):
        e.refuse("repeats along the batch axis", "keep axis 0 for the batch")
    for axis, count in enumerate(repeats):
        if count > 1:
            node = e.call("concat", *([node] * count), axis=axis)
    return node


@aten("repeat_interleave.self_int")
def repeat_interleave(e: Emitter, x: AnyValue, repeats: int, dim: int | None = None) -> AnyValue:
    """Repeat each element along an axis."""
    axis = 0 if dim is None else e.axis(x, dim)
    if axis == 0:
        e.refuse("repeats along the batch axis", "keep axis 0 for the batch")
    shape = e.shape(x)
    column = e.reshape(x, (*shape[1 : axis + 1], 1, *shape[axis + 1 :]))
    joined = e.concat([column] * repeats, axis + 1)
    return e.reshape(joined, (*shape[1:axis], shape[axis] * repeats, *shape[axis + 1 :]))


@aten("flip.default")
def flip(e: Emitter, x: AnyValue, dims: Ints) -> AnyValue:
    """Reverse axes."""
    node = e.node(x)
    for dim in dims:
        axis = e.axis(node, dim)
        node = e.concat(e.singles(node, axis)[::-1], axis)
    return node


@aten("roll.default")
def roll(e: Emitter, x: AnyValue, shifts: Ints, dims: Ints = ()) -> AnyValue:
    """Rotate axes."""
    if not dims:
        e.refuse("rolls over the batch axis", "name the axes to roll")
    node = e.node(x)
    for shift, dim in zip(shifts, dims, strict=True):
        axis = e.axis(node, dim)
        length = e.shape(node)[axis]
        if cut := -shift % length:
            node = e.concat([e.window(node, axis, cut, length), e.window(node, axis, 0, cut)], axis)
    return node


@aten("slice_scatter.default")
def slice_scatter(
    e: Emitter, x: AnyValue, src: AnyValue, dim: int = 0, start: int | None = None, end: int | None = None
) -> AnyValue:
    """Put a value in place of a window."""
    whole = (start or 0) == 0 and (end is None or end >= e.batch)
    if dim % len(e.shape(x)) == 0 and whole:
        return e.node(src)
    axis = e.axis(x, dim)
    length = e.shape(x)[axis]
    first, last, _ = slice(start, end).indices(length)
    parts: list[AnyValue] = [e.window(x, axis, 0, first)] if first else []
    parts.append(src)
    parts += [e.window(x, axis, last, length)] if last < length else []
    return e.concat(parts, axis)


@aten("select_scatter.default")
def select_scatter(e: Emitter, x: AnyValue, src: AnyValue, dim: int, index: int) -> AnyValue:
    """Put a value in place of one element along an axis."""
    axis = e.axis(x, dim)
    shape = e.shape(x)
    first = index % shape[axis]
    row = e.reshape(src, (*shape[1:axis], 1, *shape[axis + 1 :]))
    return slice_scatter(e, x, row, axis, first, first + 1)


@aten("pixel_shuffle.default")
def pixel_shuffle(e: Emitter, x: AnyValue, upscale_factor: int) -> AnyValue:
    """Channels to space."""
    return e.call("pixel_shuffle", x, factor=upscale_factor)


@aten("pixel_unshuffle.default")
def pixel_unshuffle(e: Emitter, x: AnyValue, downscale_factor: int) -> AnyValue:
    """Space to channels."""
    _, channels, height, width = e.shape(x)
    r = downscale_factor
    split_up = e.reshape(x, (channels, height // r, r, width // r, r))
    turned = e.transpose(split_up, (0, 1, 3, 5, 2, 4))
    return e.reshape(turned, (channels * r * r, height // r, width // r))


@aten("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(e: Emitter, x: AnyValue, groups: int) -> AnyValue:
    """Interleave the groups of channels (Zhang 2018)."""
    _, channels, *space = e.shape(x)
    grouped = e.reshape(x, (groups, channels // groups, math.prod(space)))
    return e.reshape(e.transpose(grouped, (0, 2, 1, 3)), (channels, *space))


@aten(
    *("contiguous.default", "clone.default", "detach.default", "alias.default", "lift_fresh_copy.default"),
    *("lift_fresh.default", "detach_copy.default", "resolve_conj.default", "resolve_neg.default"),
    broadcasting=True,
)
def same(e: Emitter, x: AnyValue) -> AnyValue:
    """The value itself."""
    return x


@aten("dropout.default", "feature_dropout.default", "alpha_dropout.default", broadcasting=True)
def dropout(e: Emitter, x: AnyValue, p: float, train: bool) -> AnyValue:
    """The value itself, in eval mode."""
    if train and p > 0:
        e.refuse("applies dropout in eval mode", "pass training=self.training to F.dropout")
    return x


@aten("to.dtype", "to.dtype_layout", "to.device", "_to_copy.default", "type_as.default", broadcasting=True)
def to(e: Emitter, x: AnyValue, dtype: torch.dtype | None = None, other: AnyValue | None = None) -> AnyValue:
    """Conversions to float32 change nothing."""
    if dtype not in (None, torch.float32):
        e.refuse(f"converts to {dtype}", "mcc compresses float32 models; it chooses precisions itself")
    return x


@aten("copy.default", broadcasting=True)
def copy(e: Emitter, x: AnyValue, src: AnyValue) -> AnyValue:
    """src, seen at the shape of x."""
    if isinstance(src, Const):
        e.refuse("overwrites a value by a constant", "compute a new value instead")
    return (
        src.inner
        if isinstance(src, Expanded) and e.shape(src) == e.shape(src.inner)
        else e.expand(src, e.out[1:])
    )

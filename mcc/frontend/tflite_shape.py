"""TFLite rules: shapes, parts, pads, and the quantisers between real numbers and integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from mcc.frontend.gather import take
from mcc.frontend.tflite_table import Result, Site, tflite_op
from mcc.frontend.tflite_values import View
from mcc.frontend.values import AnyValue, Const
from mcc.ir.notes import shape_of
from mcc.lower.layout import Layout, Shape

MIRROR_REFLECT, MIRROR_SYMMETRIC = 0, 1


@tflite_op("RESHAPE", "SQUEEZE", "EXPAND_DIMS", shapes=(1,))
def reshape(site: Site) -> Result:
    """To the shape that the file declares."""
    return site.regridded(site.values.reshape(site.view(), site.declared))


@tflite_op("TRANSPOSE")
def transpose(site: Site) -> Result:
    """Another order of the same node."""
    x, perm = site.view(), site.numbers(1)
    if sorted(perm) != list(range(x.rank)):
        site.emitter.refuse(f"has the order {perm} for {x.rank} axes")
    x = x if x.layout.flat is None else site.values.plain(x)
    if x.batched and perm[0] != 0:
        x = site.values.loose(x)
    lead = not x.batched
    order = tuple(x.layout.order[place + lead] for place in perm)
    return site.regridded(replace(x, layout=Layout((0, *order) if lead else order)))


@tflite_op("QUANTIZE")
def quantise(site: Site) -> Result:
    """Onto a grid."""
    x = site.view()
    return site.made(x.node, x.layout, x.batched)


@tflite_op("DEQUANTIZE")
def dequantise(site: Site) -> Result:
    """The real numbers that the integers stand for."""
    return site.checked(replace(site.view(), grid=None))


@tflite_op("CAST")
def cast(site: Site) -> Result:
    """Between kinds of real numbers."""
    tensor = site.tensor(0)
    kinds = {site.model.tensors[site.operator.outputs[0]].dtype, "" if tensor is None else tensor.dtype}
    if kinds != {"float32"}:
        site.emitter.refuse(f"converts {' to '.join(sorted(kinds))}", "mcc reads networks of real numbers")
    return site.checked(site.view())


@tflite_op("CONCATENATION")
def concat(site: Site) -> Result:
    """Along an axis; constants of one value at the ends become padding."""
    e = site.emitter
    views = site.values.together([view for view in site.inputs if view is not None] or [site.view()])
    views = [view if view.layout.flat is None else site.values.plain(view) for view in views]
    like, pending = views[0], iter(views)
    parts: list[AnyValue] = []
    for index, given in enumerate(site.inputs):
        if given is None:
            parts.append(Const(_real(site, index, like), f"{e.hint}_part"))
        else:
            parts.append(next(pending).node)
    axis = like.axis(int(site.get("axis")))
    if axis == 0:
        e.refuse("joins values along the batch axis")
    _, other = site.fused()
    node = e.node(e.concat(parts, axis))
    return site.as_made(like, node, other if site.fused()[0] == "none" else site.fused()[0])


def _real(site: Site, index: int, like: View) -> Tensor:
    tensor = site.tensor(index)
    if tensor is None:
        site.emitter.refuse(f"lacks its input {index}")
    site.array(index)
    return site.constants.real(tensor, lambda value: site.values.constant(value, like)).tensor


# -- parts -------------------------------------------------------------------------------------------------


def _part(site: Site, x: View, place: int, start: int, length: int, step: int = 1) -> View:
    """`length` elements along an axis of the file."""
    axis = x.axis(place)
    whole = shape_of(x.node)[axis]
    if (start, length, step) == (0, whole, 1):
        return x
    if axis == 0:
        site.emitter.refuse("takes parts of the batch")
    stop = min(whole, start + (length - 1) * step + 1)
    if not 0 <= start < stop:
        site.emitter.refuse("takes an empty slice")
    return replace(x, node=site.values.moved(x, "slice", axis=axis, start=start, stop=stop, step=step))


def _unflat(site: Site, x: View) -> View:
    return x if x.layout.flat is None else site.values.plain(x)


@tflite_op("SPLIT", "SPLIT_V")
def split(site: Site) -> Result:
    """Parts along an axis: equal ones, or of given lengths."""
    even = site.code == "SPLIT"
    x = _unflat(site, site.view(1 if even else 0))
    place = site.numbers(0 if even else 2)[0] % x.rank
    length, count = site.values.shape(x)[place], len(site.operator.outputs)
    if not even:
        lengths = site.numbers(1)
        lengths = [length - sum(n for n in lengths if n >= 0) if n < 0 else n for n in lengths]
    else:
        lengths = [length // count] * count
    if sum(lengths) != length or len(lengths) != count:
        site.emitter.refuse(f"splits {length} into {lengths}")
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        site.regridded(_part(site, x, place, int(start), n), index)
        for index, (start, n) in enumerate(zip(starts, lengths, strict=True))
    ]


@tflite_op("SLICE")
def slice_(site: Site) -> Result:
    """A part along each axis; a size of -1 is the rest."""
    x = _unflat(site, site.view())
    shape = site.values.shape(x)
    begin, size = site.numbers(1), site.numbers(2)
    if len(begin) != len(shape) or len(size) != len(shape):
        site.emitter.refuse(f"names {len(begin)} axes of {len(shape)}")
    for place, (start, length) in enumerate(zip(begin, size, strict=True)):
        x = _part(site, x, place, start, shape[place] - start if length < 0 else length)
    return site.regridded(x)


@tflite_op("STRIDED_SLICE")
def strided_slice(site: Site) -> Result:
    """NumPy's slices: masks open a side, and drop an axis of one element."""
    x = _unflat(site, site.view())
    shape = site.values.shape(x)
    begin, end, steps = (site.numbers(index) for index in (1, 2, 3))
    for option in ("ellipsisMask", "newAxisMask"):
        if int(site.get(option)):
            site.emitter.refuse(f"has an {option}", "convert the model with plain slices")
    if not len(begin) == len(end) == len(steps) <= len(shape):
        site.emitter.refuse(f"names {len(begin)} axes of {len(shape)}")
    for place, (first, last, step) in enumerate(zip(begin, end, steps, strict=True)):
        bit = 1 << place
        if int(site.get("shrinkAxisMask")) & bit:
            start, length = first % shape[place], 1
        else:
            if step < 1:
                site.emitter.refuse(
                    f"has the step {step} along axis {place}", "only positive steps are supported"
                )
            opened = slice(
                None if int(site.get("beginMask")) & bit else first,
                None
                if int(site.get("endMask")) & bit
                else last + (first if site.get("offset", False) else 0),
                step,
            )
            positions = range(shape[place])[opened]
            start, length = positions.start, len(positions)
        x = _part(site, x, place, start, length, step)
    return site.regridded(site.values.reshape(x, site.declared) if site.get("shrinkAxisMask") else x)


@tflite_op("PACK")
def pack(site: Site) -> Result:
    """Values stacked along a new axis."""
    views = [site.view(index) for index in range(len(site.inputs))]
    place = int(site.get("axis")) % len(site.declared)
    grown = [site.values.reshape(v, _grown(site.values.shape(v), place)) for v in views]
    grown = [_unflat(site, view) for view in site.values.together(grown)]
    if grown[0].axis(place) == 0:
        grown = [site.values.loose(view) for view in grown]
    node = site.emitter.call_node("concat", *(v.node for v in grown), axis=grown[0].axis(place))
    return site.as_made(grown[0], node)


def _grown(shape: Shape, place: int) -> Shape:
    return (*shape[:place], 1, *shape[place:])


@tflite_op("UNPACK")
def unpack(site: Site) -> Result:
    """The slices along an axis, without it."""
    x = _unflat(site, site.view())
    shape = site.values.shape(x)
    place = int(site.get("axis")) % len(shape)
    if x.axis(place) == 0 and shape[place] == 1:
        x = site.values.loose(x)
    site.emitter.limit_copies(shape[place], "takes an axis apart")
    left = (*shape[:place], *shape[place + 1 :])
    return [
        site.regridded(site.values.reshape(_part(site, x, place, index, 1), left), index)
        for index in range(min(shape[place], len(site.operator.outputs)))
    ]


@tflite_op("GATHER")
def gather(site: Site) -> Result:
    """Elements at constant positions along an axis."""
    x = _unflat(site, site.view())
    if int(site.get("batchDims")):
        site.emitter.refuse("gathers for each sample")
    positions = site.array(1)
    place = int(site.get("axis")) % x.rank
    axis = x.axis(place)
    if axis == 0 or positions.ndim > 1:
        site.emitter.refuse("gathers along the batch, or at positions of several axes")
    node = site.emitter.node(take(site.emitter, x.node, axis, [int(i) for i in positions.reshape(-1)]))
    found = replace(x, node=site.values.on_grid(node, x.grid))
    return site.regridded(site.values.reshape(found, site.declared) if positions.ndim == 0 else found)


@tflite_op("TILE", "BROADCAST_TO", shapes=(1,))
def tile(site: Site) -> Result:
    """Repeated along axes, to the shape that the file declares."""
    x = _unflat(site, site.view())
    wanted = site.declared
    if len(wanted) > x.rank:
        x = _unflat(site, site.values.reshape(x, (1,) * (len(wanted) - x.rank) + site.values.shape(x)))
    for place, (have, want) in enumerate(zip(site.values.shape(x), wanted, strict=True)):
        if have == want:
            continue
        if want % have or x.axis(place) == 0:
            site.emitter.refuse(f"repeats {list(site.values.shape(x))} to {list(wanted)}")
        site.emitter.limit_copies(want // have, "repeats an axis")
        node = site.emitter.call_node("concat", *([x.node] * (want // have)), axis=x.axis(place))
        x = replace(x, node=site.values.on_grid(node, x.grid))
    return site.regridded(x)


# -- pads --------------------------------------------------------------------------------------------------


@tflite_op("PAD", "PADV2", "MIRROR_PAD")
def pad(site: Site) -> Result:
    """Zeros, another number, or a mirror image that leaves out the border or repeats it once."""
    x, table = _unflat(site, site.view()), site.array(1)
    if table.shape != (x.rank, 2):
        site.emitter.refuse(f"has amounts of shape {list(table.shape)} for {x.rank} axes")
    rank = len(shape_of(x.node))
    amounts = [(0, 0)] * rank
    for place, (low, high) in enumerate(table.tolist()):
        amounts[x.axis(place)] = (int(low), int(high))
    if amounts[0] != (0, 0):
        site.emitter.refuse("pads the batch axis")
    value, mode = 0.0, "constant"
    if site.code == "PADV2":
        tensor = site.tensor(2)
        if tensor is None or site.array(2).size != 1:
            site.emitter.refuse("pads with something that is not one number")
        value = float(site.constants.real(tensor, lambda v: v.reshape(())).tensor)
    if site.code == "MIRROR_PAD":
        mode = "reflect"
        if int(site.get("mode")) == MIRROR_SYMMETRIC:
            if max(max(pair) for pair in amounts) > 1:
                site.emitter.refuse("mirrors the border with its last element more than once")
            mode = "replicate"  # the same for one element
    node = site.emitter.call_node("pad", x.node, padding=tuple(amounts), mode=mode, value=value)
    return site.as_made(x, node)

"""ONNX rules: views, slices, joins, padding, resizing."""

from __future__ import annotations

import math

import torch
from onnx import TensorProto

from mcc.frontend import aten_shape as shapes
from mcc.frontend import masks
from mcc.frontend.gather import take
from mcc.frontend.onnx_table import Result, Site, onnx_op
from mcc.frontend.values import AnyValue, Const


@onnx_op("Identity", "Dropout")
def same(site: Site) -> Result:
    """The value itself; dropout is off at inference."""
    training = site.optional(2)
    if site.op == "Dropout" and isinstance(training, Const) and bool(training.tensor):
        site.emitter.refuse("applies dropout at inference", "export the model in eval mode")
    return site.value()


@onnx_op("Cast", "CastLike")
def cast(site: Site) -> Result:
    """Float to float changes nothing; of a mask, neither does a conversion to integers."""
    if site.op == "CastLike" or site.get("to") == TensorProto.FLOAT:
        return site.value()
    if site.get("to") == TensorProto.BOOL:
        return masks.truth(site.emitter, site.value())
    if site.value() in site.emitter.compared:  # zeros and ones are integers
        return site.value()
    site.emitter.refuse("converts to another type than float", "mcc compresses float32 models")


@onnx_op("Shape")
def shape_of(site: Site) -> Result:
    """The shape of a value is a constant."""
    e = site.emitter
    full = e.captured_shape(site.value())
    return Const(torch.tensor(full[site.get("start", 0) : site.get("end")]), f"{e.hint}_value")


@onnx_op("Size")
def size_of(site: Site) -> Result:
    """The number of elements of a value is a constant."""
    e = site.emitter
    full = e.captured_shape(site.value())
    return Const(torch.tensor(math.prod(full)), f"{e.hint}_value")


def _target(site: Site, wanted: list[int]) -> list[int]:
    """A full shape at the captured batch, with 0 and -1 resolved."""
    own = site.emitter.captured_shape(site.value())
    if not site.get("allowzero", 0):
        wanted = [own[i] if n == 0 and i < len(own) else n for i, n in enumerate(wanted)]
    known = math.prod(n for n in wanted if n != -1)
    return [math.prod(own) // known if n == -1 and known else n for n in wanted]


@onnx_op("Reshape")
def reshape(site: Site) -> Result:
    """To a constant shape."""
    e, wanted = site.emitter, site.numbers(1, "shape") or []
    e.out = tuple(_target(site, [int(n) for n in wanted]))
    return e.reshape_out(site.value())


@onnx_op("Flatten")
def flatten(site: Site) -> Result:
    """To two axes."""
    e = site.emitter
    own, axis = e.captured_shape(site.value()), site.get("axis", 1)
    e.out = (math.prod(own[:axis]), math.prod(own[axis:]))
    return e.reshape_out(site.value())


@onnx_op("Squeeze", "Unsqueeze")
def squeeze(site: Site) -> Result:
    """Axes of length one come or go."""
    e, x = site.emitter, site.value()
    given = site.numbers(1, "axes")
    shape = list(e.captured_shape(x))
    if site.op == "Unsqueeze":
        rank = len(shape) + len(given or ())
        axes = sorted(int(axis) % rank for axis in given or ())
        for axis in axes:
            shape.insert(axis, 1)
    else:
        rank = len(shape)
        axes = [i for i in range(rank) if shape[i] == 1] if given is None else [int(a) % rank for a in given]
        shape = [n for i, n in enumerate(shape) if i not in axes]
    e.out = tuple(shape)
    return e.reshape_out(x)


@onnx_op("Transpose")
def transpose(site: Site) -> Result:
    """Permute the axes; reversed where none are given."""
    rank = len(site.emitter.shape(site.value()))
    return site.emitter.turn(site.value(), site.get("perm") or range(rank)[::-1])


@onnx_op("Concat")
def concat(site: Site) -> Result:
    """Join along an axis."""
    values = site.rest()
    reference = next(value for value in values if not isinstance(value, Const))
    return site.emitter.concat(values, site.emitter.axis(reference, site.get("axis")))


@onnx_op("Split")
def split(site: Site) -> Result:
    """Windows of given sizes, or of one size."""
    e, x = site.emitter, site.value()
    axis = e.axis(x, site.get("axis", 0))
    sizes = site.numbers(1, "split")
    if sizes is None:
        length, count = e.shape(x)[axis], site.get("num_outputs") or site.outputs
        step = -(-length // count)
        sizes = [min(step, length - start) for start in range(0, length, step)]
    return shapes.split_with_sizes(e, x, [int(n) for n in sizes], axis)


@onnx_op("Slice")
def slice_(site: Site) -> Result:
    """Windows along several axes."""
    e, value = site.emitter, site.value()
    starts, stops = site.numbers(1, "starts") or [], site.numbers(2, "ends") or []
    axes = site.numbers(3, "axes") or list(range(len(starts)))
    steps = site.numbers(4, "steps") or [1] * len(starts)
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        if step < 0:
            value = _backwards(site, value, int(axis), slice(int(start), int(stop), int(step)))
            continue
        value = shapes.slice_(e, value, int(axis), int(start), int(stop), int(step))
    return value


def _backwards(site: Site, value: AnyValue, dim: int, window: slice) -> AnyValue:
    e = site.emitter
    axis = e.axis(value, dim)
    singles = e.singles(value, axis)
    return e.concat([singles[i] for i in range(*window.indices(len(singles)))], axis)


@onnx_op("Gather")
def gather(site: Site) -> Result:
    """Constant positions along an axis."""
    e, x = site.emitter, site.value()
    index = site.optional(1)
    if not isinstance(index, Const):
        e.refuse("Gather with computed positions is not supported", "indices have no static meaning")
    axis = e.axis(x, site.get("axis", 0))
    positions = [int(i) for i in index.tensor.reshape(-1).tolist()]
    return shapes.select(e, x, axis, positions[0]) if index.tensor.dim() == 0 else take(e, x, axis, positions)


@onnx_op("Pad")
def pad(site: Site) -> Result:
    """Begins of all axes, then ends; negative amounts crop."""
    e, x = site.emitter, site.value()
    rank = len(e.shape(x))
    given = [int(n) for n in site.numbers(1, "pads") or []]
    axes = [int(a) % rank for a in site.numbers(3, "") or range(rank)]
    pairs = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        pairs[axis] = (given[position], given[position + len(axes)])
    fill = site.numbers(2, "value")
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    flat = [n for pair in reversed(pairs) for n in pair]
    return shapes.pad(e, x, flat, mode[site.get("mode", "constant")], float(fill[0]) if fill else 0.0)


@onnx_op("Expand")
def expand(site: Site) -> Result:
    """Broadcast to a constant shape."""
    e, x = site.emitter, site.value()
    wanted = [int(n) for n in site.numbers(1, "shape") or []]
    own = (e.batch, *e.shape(x)[1:])
    rank = max(len(own), len(wanted))
    full = [
        max(a, b)
        for a, b in zip((1,) * (rank - len(own)) + own, [1] * (rank - len(wanted)) + wanted, strict=True)
    ]
    if rank != len(own) or full[0] != e.batch:
        e.refuse("expands the batch axis", "keep axis 0 for the batch")
    return e.expand(x, full[1:])


@onnx_op("Tile")
def tile(site: Site) -> Result:
    """Repeat along axes."""
    return shapes.repeat(site.emitter, site.value(), [int(n) for n in site.numbers(1, "repeats") or []])


@onnx_op("DepthToSpace")
def depth_to_space(site: Site) -> Result:
    """CRD is torch's pixel shuffle; DCR has the block in front of the channels."""
    e, x, block = site.emitter, site.value(), int(site.get("blocksize"))
    if site.get("mode", "DCR") == "CRD":
        return e.call("pixel_shuffle", x, factor=block)
    _, channels, height, width = site.map_shape()
    inner = channels // (block * block)
    parts = e.reshape(x, (block, block, inner, height, width))
    turned = e.transpose(parts, (0, 3, 4, 1, 5, 2))
    return e.reshape(turned, (inner, height * block, width * block))


@onnx_op("SpaceToDepth")
def space_to_depth(site: Site) -> Result:
    """The inverse of DepthToSpace in mode DCR."""
    e, block = site.emitter, int(site.get("blocksize"))
    _, channels, height, width = site.map_shape()
    parts = e.reshape(site.value(), (channels, height // block, block, width // block, block))
    turned = e.transpose(parts, (0, 3, 5, 1, 2, 4))
    return e.reshape(turned, (channels * block * block, height // block, width // block))

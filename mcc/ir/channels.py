"""Channel rules: coupling of channels between axes of operands, weights and outputs.

One rule per row of the op table; labels and their records are in `mcc.ir.labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mcc.ir.labels import (
    LabelArray,
    Labels,
    Operand,
    Role,
    Site,
    along,
    channel_axis,
    frozen_labels,
    rectangular,
    varying,
)


def carries(site: Site, space: Labels) -> LabelArray:
    """Element-wise operators: channels pass through."""
    return site.input(0, space)


def spatial(site: Site, space: Labels) -> LabelArray:
    """Operators over windows of the last two axes: channels pass through, unless they are on those axes."""
    labels = site.input(0, space)
    if all(axis < 2 for axis in varying(labels)):
        return labels
    reason = f"{site.name} ({site.op}) works across axes on which channels lie"
    space.freeze(labels, reason)
    return frozen_labels(space, site.shape, reason)


def per_channel(site: Site, space: Labels, axis: int = 1) -> LabelArray:
    """batch_norm, prelu: constants of one entry per channel (or a single one) follow axis 1."""
    labels = site.input(0, space)
    vector = along(labels, site.shape, axis, space)
    for operand in site.operands[1:]:
        if operand is not None and operand.constant is not None and operand.shape != (1,):
            site.bind(operand, 0, "carries", vector, space)
        elif operand is not None and operand.labels is not None:
            for held in (vector, operand.labels):
                space.freeze(held, f"{site.name} ({site.op}) takes a computed parameter")
    return labels


def group_norm(site: Site, space: Labels) -> LabelArray:
    """Channels normalised together are removed together: the other groups' statistics do not change."""
    groups = int(site.attributes["groups"])
    if groups == 1:
        return mixes(site, space)
    labels = per_channel(site, space)
    rows = along(labels, site.shape, 1, space).reshape(groups, -1)
    space.union(rows[:, :1], rows)
    return labels


def global_response_norm(site: Site, space: Labels) -> LabelArray:
    """Channels on the axis of the mean can be removed: it is then over the others (see `mask_out`)."""
    axis = int(site.attributes["axis"]) % len(site.shape)
    if set(varying(site.input(0, space))) <= {axis}:
        return per_channel(site, space, axis)
    return mixes(site, space)


def fake_quantize(site: Site, space: Labels) -> LabelArray:
    """Scales along an axis follow the channels of that axis; a weight's are bound where it is read."""
    x = site.operands[0]
    if x is not None and x.constant is not None:
        return frozen_labels(space, site.shape, f"{site.name} ({site.op}) quantises a constant")
    labels = site.input(0, space)
    axis = site.attributes["axis"]
    if axis is not None:
        vector = along(labels, site.shape, axis, space)
        for operand in site.operands[1:]:
            if operand is not None and operand.constant is not None:
                site.bind(operand, 0, "carries", vector, space)
    return labels


def _weight(site: Site, space: Labels, axis: int, role: Role, labels: LabelArray) -> None:
    operand = site.operands[1]
    assert operand is not None
    if operand.constant is not None:
        site.bind(operand, axis, role, labels, space)
        return
    assert operand.labels is not None
    space.freeze(labels, f"{site.name} ({site.op}) has a computed weight")
    space.freeze(operand.labels, f"{site.name} ({site.op}) has a computed weight")


def _bias(site: Site, space: Labels, labels: LabelArray) -> None:
    operand = site.operands[2] if len(site.operands) > 2 else None
    if operand is not None and operand.constant is not None:
        site.bind(operand, 0, "carries", labels, space)
    elif operand is not None and operand.labels is not None:
        space.freeze(labels, f"{site.name} ({site.op}) has a computed bias")
        space.freeze(operand.labels, f"{site.name} ({site.op}) has a computed bias")


def conv2d(site: Site, space: Labels) -> LabelArray:
    """Output channels are new labels; groups keep the same number each, depthwise ties output to input."""
    x = site.operands[0]
    weight = site.operands[1]
    assert x is not None
    assert weight is not None
    groups, channels_in, channels_out = int(site.attributes["groups"]), x.shape[1], site.shape[1]
    read = along(site.input(0, space), x.shape, 1, space)
    out = space.fresh(site.shape, 1)
    made = out.reshape(-1)
    if groups == 1:
        _weight(site, space, 1, "reads", read)
    elif groups == channels_in:
        space.union(made.reshape(groups, -1), read.reshape(groups, 1))
    else:
        for vector in (read.reshape(groups, -1), made.reshape(groups, -1)):
            space.union(vector[:1], vector)
        _weight(site, space, 1, "reads", read[: channels_in // groups])
    _weight(site, space, 0, "produces", made)
    _bias(site, space, made)
    assert channels_out == made.size
    return out


def conv_transpose2d(site: Site, space: Labels) -> LabelArray:
    """As conv2d, with weight axes I O/groups H W: groups keep the same number each."""
    x = site.operands[0]
    assert x is not None
    groups, channels_in = int(site.attributes["groups"]), x.shape[1]
    read = along(site.input(0, space), x.shape, 1, space)
    out = space.fresh(site.shape, 1)
    made = out.reshape(-1)
    if groups == 1:
        _weight(site, space, 1, "produces", made)
        _weight(site, space, 0, "reads", read)
    elif groups == channels_in:
        space.union(made.reshape(groups, -1), read.reshape(groups, 1))
        _weight(site, space, 0, "carries", read)
    else:
        for vector in (read.reshape(groups, -1), made.reshape(groups, -1)):
            space.union(vector[:1], vector)
        _weight(site, space, 1, "produces", made[: made.size // groups])
        _weight(site, space, 0, "reads", read)
    _bias(site, space, made)
    return out


def linear(site: Site, space: Labels) -> LabelArray:
    """The last axis of x is read, the last axis of the output is new."""
    x = site.operands[0]
    assert x is not None
    read = along(site.input(0, space), x.shape, len(x.shape) - 1, space)
    out = space.fresh(site.shape, len(site.shape) - 1)
    _weight(site, space, 1, "reads", read)
    _weight(site, space, 0, "produces", out.reshape(-1))
    _bias(site, space, out.reshape(-1))
    return out


def recurrent(site: Site, space: Labels) -> LabelArray:
    """The features that are read may go; the units are kept: each reads all others in the next step."""
    x = site.operands[0]
    assert x is not None
    reason = f"{site.name} ({site.op}) keeps its units"
    _weight(site, space, 1, "reads", along(site.input(0, space), x.shape, 2, space))
    for operand in site.operands[1:]:
        if operand is not None and operand.labels is not None:
            space.freeze(operand.labels, f"{site.name} ({site.op}) has a computed weight")
    return frozen_labels(space, site.shape, reason)


def mixes(site: Site, space: Labels) -> LabelArray:
    """Operators that mix channels without weights: all channels of their operands are frozen."""
    reason = f"{site.name} ({site.op}) mixes channels without weights"
    for index, operand in enumerate(site.operands):
        if operand is not None and operand.labels is not None:
            space.freeze(site.input(index, space), reason)
    x = site.operands[0]
    if x is not None and x.labels is not None and x.shape == site.shape and len(varying(x.labels)) == 1:
        return x.labels  # on the axis of the channels, whichever it is
    return frozen_labels(space, site.shape, reason)


def layer_norm(site: Site, space: Labels) -> LabelArray:
    """Layer norm mixes along its axes; channels on another one pass through."""
    labels = site.input(0, space)
    if all(labels.shape[axis] == 1 for axis in site.attributes["axes"]):
        return labels
    return mixes(site, space)


def reduces(site: Site, space: Labels) -> LabelArray:
    """Reductions: over channels they mix, over other axes channels pass through."""
    x = site.operands[0]
    assert x is not None
    labels = site.input(0, space)
    axes = tuple(axis % len(x.shape) for axis in site.attributes["axes"])
    if any(labels.shape[axis] > 1 for axis in axes):
        space.freeze(labels, f"{site.name} ({site.op}) mixes channels without weights")
        return frozen_labels(space, site.shape, f"{site.name} ({site.op}) mixes channels without weights")
    return labels if site.attributes["keepdim"] else np.squeeze(labels, axes)


def softmax(site: Site, space: Labels) -> LabelArray:
    """Softmax mixes along its axis."""
    labels = site.input(0, space)
    if labels.shape[site.attributes["axis"]] > 1:
        space.freeze(labels, f"{site.name} (softmax) mixes channels without weights")
    return labels


def broadcasts(site: Site, space: Labels) -> LabelArray:
    """Two operands with broadcasting: labels that meet are coupled; a constant follows the value."""
    rank = len(site.shape)
    values = [o for o in site.operands if o is not None and o.labels is not None]
    aligned = [_align(o, rank) for o in values]
    labels = aligned[0]
    for other in aligned[1:]:
        meets = [n > 1 and m > 1 for n, m in zip(labels.shape, other.shape, strict=True)]
        if any(meets) or labels.size == 1 or other.size == 1:
            if (labels.size == 1) != (other.size == 1):
                single, wide = (labels, other) if labels.size == 1 else (other, labels)
                space.freeze(single, f"{site.name} ({site.op}) spreads one channel over all")
                labels = wide
                continue
            space.union(labels, other)
            labels = np.broadcast_to(labels, np.broadcast_shapes(labels.shape, other.shape))
        else:
            reason = f"{site.name} ({site.op}) joins different axes"
            space.freeze(labels, reason)
            space.freeze(other, reason)
            return frozen_labels(space, site.shape, reason)
    if any(_is_stiff(operand, labels) for operand in values):
        space.freeze(labels, f"{site.name} ({site.op}) joins channels with an axis that holds none")
    labels = rectangular(np.ascontiguousarray(labels), site.shape, space)
    for operand in site.operands:
        if operand is not None and operand.constant is not None:
            _bind_broadcast(site, operand, labels, space)
    return labels


def _is_stiff(operand: Operand, joined: LabelArray) -> bool:
    """Whether a value has the length of the channels along an axis without removable labels."""
    own = _align(operand, joined.ndim)
    lengths = (1,) * (joined.ndim - len(operand.shape)) + operand.shape
    return any(n > 1 and m == 1 and k > 1 for n, m, k in zip(lengths, own.shape, joined.shape, strict=True))


def _align(operand: Operand, rank: int) -> LabelArray:
    labels = operand.labels
    assert labels is not None
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def _bind_broadcast(site: Site, operand: Operand, labels: LabelArray, space: Labels) -> None:
    offset = len(site.shape) - len(operand.shape)
    for axis, length in enumerate(operand.shape):
        if length > 1 and labels.shape[axis + offset] > 1:
            site.bind(operand, axis, "carries", along(labels, site.shape, axis + offset, space), space)


def concat(site: Site, space: Labels) -> LabelArray:
    """Along the channel axis labels are concatenated; along others they are coupled."""
    axis = int(site.attributes["axis"]) % len(site.shape)
    parts = [site.input(index, space) for index in range(len(site.operands))]
    if all(part.shape[axis] == 1 for part in parts) and any(part.size > 1 for part in parts):
        for part in parts[1:]:
            space.union(parts[0], part)
        return np.broadcast_to(parts[0], np.broadcast_shapes(*(part.shape for part in parts)))
    common = np.broadcast_shapes(
        *(tuple(1 if i == axis else n for i, n in enumerate(p.shape)) for p in parts)
    )
    full: list[LabelArray] = []
    for part, operand in zip(parts, site.operands, strict=True):
        assert operand is not None
        full.append(
            np.broadcast_to(part, [operand.shape[axis] if i == axis else n for i, n in enumerate(common)])
        )
    return rectangular(np.concatenate(full, axis), site.shape, space)


def slice_(site: Site, space: Labels) -> LabelArray:
    """A slice of channels is a slice of labels; channels sliced with a step are frozen."""
    labels = site.input(0, space)
    axis = int(site.attributes["axis"])
    if labels.shape[axis] == 1:
        return labels
    if site.attributes["step"] != 1:
        space.freeze(labels, f"{site.name} (slice) takes channels at a step")
    window = range(site.attributes["start"], site.attributes["stop"], site.attributes["step"])
    return np.take(labels, list(window), axis)


def pad(site: Site, space: Labels) -> LabelArray:
    """Padding channels are new labels without a producer; reflected channels are frozen."""
    labels = site.input(0, space)
    x = site.operands[0]
    assert x is not None
    for axis, (low, high) in enumerate(site.attributes["padding"]):
        if not (low or high) or (labels.shape[axis] == 1 and axis != channel_axis(site.shape)):
            continue
        if site.attributes["mode"] != "constant":
            space.freeze(labels, f"{site.name} (pad) repeats channels")
        vector = along(labels, x.shape, axis, space)
        edges = [space.fresh((amount,), 0) for amount in (low, high)]
        joined = np.concatenate([edges[0], vector, edges[1]])
        labels = joined.reshape([joined.size if i == axis else 1 for i in range(len(site.shape))])
    return labels


def transpose(site: Site, space: Labels) -> LabelArray:
    """Labels are permuted with the axes."""
    return np.transpose(site.input(0, space), site.attributes["perm"])


def pixel_shuffle(site: Site, space: Labels) -> LabelArray:
    """The factor * factor input channels of one output channel stay together."""
    x = site.operands[0]
    assert x is not None
    vector = along(site.input(0, space), x.shape, 1, space).reshape(site.shape[1], -1)
    space.union(vector[:, :1], vector)
    return vector[:, 0].reshape(1, -1, 1, 1)


def reshape(site: Site, space: Labels) -> LabelArray:
    """Labels are expanded over axes that merge and coupled over the axes that a channel axis splits into."""
    x = site.operands[0]
    assert x is not None
    labels = site.input(0, space)
    old, new = x.shape[1:], site.shape[1:]
    pieces: list[LabelArray] = []
    expanded: list[int] = []
    result: list[int] = []
    for first, second in reshape_blocks(old, new):
        varies = any(labels.shape[1 + axis] > 1 for axis in first)
        expanded += [old[axis] if varies else 1 for axis in first]
        result += [new[axis] if varies else 1 for axis in second]
    full = np.broadcast_to(labels, [1, *expanded])
    pieces.append(np.ascontiguousarray(full).reshape([1, *result]))
    return rectangular(pieces[0], site.shape, space)


def reshape_blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Shortest runs of axes with equal products: pairs of old axes and the new axes they become."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, second = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        i, j = i + len(first), j + len(second)
        while prod(old[k] for k in first) != prod(new[k] for k in second):
            if (prod(old[k] for k in first) < prod(new[k] for k in second) and i < len(old)) or j >= len(new):
                first.append(i)
                i += 1
            else:
                second.append(j)
                j += 1
        blocks.append((first, second))
    return blocks

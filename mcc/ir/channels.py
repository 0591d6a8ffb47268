"""Channel rules: which axes of operands, weights and outputs must keep the same channels.

Every value carries a *label array*: integers in the shape of the value (batch axis of length 1), with length
1 along axes on which the label does not vary. Two elements with the same label live and die together. A rule
computes the labels of an operator's output from those of its operands and records

* which axis of which constant is indexed by which labels (`Labels.bind`),
* which labels must stay together (`Labels.union`),
* which labels must stay, and why (`Labels.freeze`).

The arrays make concatenation, splitting, channel shuffle, flattening and padding ordinary index arithmetic
(in place of following layers by type; the idea of coupled groups is that of Fang 2023, DepGraph).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

LabelArray = npt.NDArray[np.int64]
Role = Literal["produces", "reads", "carries"]


@dataclass(frozen=True)
class Binding:
    """One axis of one constant is indexed by labels.

    Attributes:
        constant: name of the constant.
        axis: its axis.
        role: `produces` (output channels of a weight), `reads` (input channels), `carries` (per channel).
        labels: one label for each index of the axis.
        node: name of the node through which it was found.
    """

    constant: str
    axis: int
    role: Role
    labels: LabelArray = field(repr=False)
    node: str


class Labels:
    """Union-find over labels, with reasons for frozen ones."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._bound: dict[tuple[str, int], LabelArray] = {}
        self.bindings: list[Binding] = []

    def __len__(self) -> int:
        """Number of labels made so far; labels count from 0."""
        return len(self._parent)

    def fresh(self, shape: Sequence[int], axis: int) -> LabelArray:
        """New labels along one axis of a value, length 1 elsewhere."""
        start = len(self._parent)
        self._parent.extend(range(start, start + shape[axis]))
        array = np.arange(start, start + shape[axis], dtype=np.int64)
        return array.reshape([shape[axis] if i == axis else 1 for i in range(len(shape))])

    def find(self, label: int) -> int:
        """Representative of a label's class."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def roots(self, labels: LabelArray) -> LabelArray:
        """Representatives, element by element."""
        flat = np.fromiter((self.find(int(label)) for label in labels.flat), np.int64, labels.size)
        return flat.reshape(labels.shape)

    def union(self, a: LabelArray, b: LabelArray) -> None:
        """Couple two label arrays element by element, with broadcasting. The smaller label represents."""
        for first, second in zip(*(array.flat for array in np.broadcast_arrays(a, b)), strict=True):
            x, y = self.find(int(first)), self.find(int(second))
            if x != y:
                low, high = min(x, y), max(x, y)
                self._parent[high] = low
                if high in self._reasons:
                    self._reasons.setdefault(low, self._reasons[high])

    def freeze(self, labels: LabelArray, reason: str) -> None:
        """Labels that must stay, with the reason in the user's words."""
        for label in labels.flat:
            self._reasons.setdefault(self.find(int(label)), reason)

    def reason(self, label: int) -> str | None:
        """Why the class of a label must stay, or None when it may go."""
        return self._reasons.get(self.find(label))

    def bind(self, constant: str, axis: int, role: Role, labels: LabelArray, node: str) -> None:
        """Record that labels index an axis of a constant; a second binding of the same axis couples both."""
        flat = labels.reshape(-1)
        first = self._bound.setdefault((constant, axis), flat)
        if first is not flat:
            self.union(first, flat)
        self.bindings.append(Binding(constant, axis, role, flat, node))


@dataclass(frozen=True)
class Operand:
    """One operand as a channel rule sees it.

    Attributes:
        shape: in elements.
        labels: None for a constant.
        constant: its name; None for a value.
        quantised: scales and zero points of the constant along an axis: their names and that axis.
    """

    shape: tuple[int, ...]
    labels: LabelArray | None
    constant: str | None
    quantised: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Site:
    """Where a rule is applied: the node's name, operands, attributes and output shape."""

    name: str
    op: str
    operands: tuple[Operand | None, ...]
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]

    def input(self, index: int, space: Labels) -> LabelArray:
        """Labels of operand `index`; a constant in the place of a value stays whole, and gets frozen ones."""
        operand = self.operands[index]
        assert operand is not None
        if operand.labels is not None:
            return operand.labels
        reason = f"{self.name} ({self.op}) reads a constant"
        for axis, length in enumerate(operand.shape):
            held = space.fresh((length,), 0)
            space.freeze(held, reason)
            self.bind(operand, axis, "carries", held, space)
        return _frozen(space, operand.shape, reason)

    def bind(self, operand: Operand, axis: int, role: Role, labels: LabelArray, space: Labels) -> None:
        """Record that labels index an axis of a constant operand, and its scales along that axis."""
        if operand.constant is not None:
            space.bind(operand.constant, axis, role, labels, self.name)
        for name, along_axis in operand.quantised:
            if along_axis == axis:
                space.bind(name, 0, "carries", labels, self.name)


Rule = Callable[[Site, Labels], LabelArray]


def channel_axis(shape: Sequence[int]) -> int:
    """The axis that holds channels: 1, or the last of a value without one."""
    return 1 if len(shape) in (2, 4) or len(shape) > 4 else len(shape) - 1


def produced_axis(op: str, shape: Sequence[int]) -> int:
    """The axis along which a weighted operator makes channels: the last for linear, else 1."""
    return len(shape) - 1 if op == "linear" else 1


def _frozen(space: Labels, shape: Sequence[int], reason: str) -> LabelArray:
    labels = space.fresh(shape, channel_axis(shape)) if len(shape) else space.fresh((1,), 0).reshape(())
    space.freeze(labels, reason)
    return labels


def _varies(labels: LabelArray) -> list[int]:
    return [axis for axis, length in enumerate(labels.shape) if length > 1]


def along(labels: LabelArray, shape: Sequence[int], axis: int, space: Labels) -> LabelArray:
    """Labels as a vector along one axis; what varies along other axes is coupled across them."""
    full = np.broadcast_to(
        labels, [n if i == axis else m for i, (n, m) in enumerate(zip(shape, labels.shape, strict=True))]
    )
    moved = np.moveaxis(full, axis, 0).reshape(shape[axis], -1)
    for column in range(1, moved.shape[1]):
        space.union(moved[:, 0], moved[:, column])
    return np.ascontiguousarray(moved[:, 0])


def rectangular(labels: LabelArray, shape: Sequence[int], space: Labels) -> LabelArray:
    """Couple labels until those kept always form a smaller array: they may vary along one axis only.

    The axis is that of the channels in a map [N, C, H, W], else the longest one on which labels vary.
    """
    varying = _varies(labels)
    if len(varying) <= 1:
        return labels
    axis = 1 if len(shape) == 4 and 1 in varying else max(varying, key=lambda i: labels.shape[i])
    vector = along(labels, shape, axis, space)
    return vector.reshape([shape[axis] if i == axis else 1 for i in range(len(shape))])


# -- rules -------------------------------------------------------------------------------------------------


def carries(site: Site, space: Labels) -> LabelArray:
    """Operators that work element by element: channels pass through."""
    return site.input(0, space)


def spatial(site: Site, space: Labels) -> LabelArray:
    """Operators over windows of the last two axes: channels pass through, unless they lie on those axes."""
    labels = site.input(0, space)
    if all(axis < 2 for axis in _varies(labels)):
        return labels
    reason = f"{site.name} ({site.op}) works across axes on which channels lie"
    space.freeze(labels, reason)
    return _frozen(space, site.shape, reason)


def per_channel(site: Site, space: Labels) -> LabelArray:
    """batch_norm, prelu: constants of one entry per channel (or of a single one) go with axis 1."""
    labels = site.input(0, space)
    vector = along(labels, site.shape, 1, space)
    for operand in site.operands[1:]:
        if operand is not None and operand.constant is not None and operand.shape != (1,):
            site.bind(operand, 0, "carries", vector, space)
        elif operand is not None and operand.labels is not None:
            for held in (vector, operand.labels):
                space.freeze(held, f"{site.name} ({site.op}) takes a computed parameter")
    return labels


def fake_quantize(site: Site, space: Labels) -> LabelArray:
    """Scales along an axis go with the channels of that axis; a weight's are bound where it is read."""
    x = site.operands[0]
    if x is not None and x.constant is not None:
        return _frozen(space, site.shape, f"{site.name} ({site.op}) quantises a constant")
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
    """As conv2d, with weight axes I O/groups H W."""
    x = site.operands[0]
    assert x is not None
    groups, channels_in = int(site.attributes["groups"]), x.shape[1]
    read = along(site.input(0, space), x.shape, 1, space)
    out = space.fresh(site.shape, 1)
    made = out.reshape(-1)
    if groups == 1:
        _weight(site, space, 1, "produces", made)
        _weight(site, space, 0, "reads", read)
    elif groups == channels_in == made.size:
        space.union(made, read)
        _weight(site, space, 0, "carries", read)
    else:
        for vector in (read, made):
            space.freeze(vector, f"{site.name} is a grouped transposed convolution")
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


def mixes(site: Site, space: Labels) -> LabelArray:
    """Operators that mix channels without weights: all their operands must stay."""
    reason = f"{site.name} ({site.op}) mixes channels without weights"
    for index, operand in enumerate(site.operands):
        if operand is not None and operand.labels is not None:
            space.freeze(site.input(index, space), reason)
    return _frozen(space, site.shape, reason)


def reduces(site: Site, space: Labels) -> LabelArray:
    """Reductions: over channels they mix, over other axes channels pass through."""
    x = site.operands[0]
    assert x is not None
    labels = site.input(0, space)
    axes = tuple(axis % len(x.shape) for axis in site.attributes["axes"])
    if any(labels.shape[axis] > 1 for axis in axes):
        space.freeze(labels, f"{site.name} ({site.op}) mixes channels without weights")
        return _frozen(space, site.shape, f"{site.name} ({site.op}) mixes channels without weights")
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
            return _frozen(space, site.shape, reason)
    if any(_is_stiff(operand, labels) for operand in values):
        space.freeze(labels, f"{site.name} ({site.op}) joins channels with an axis that holds none")
    labels = rectangular(np.ascontiguousarray(labels), site.shape, space)
    for operand in site.operands:
        if operand is not None and operand.constant is not None:
            _bind_broadcast(site, operand, labels, space)
    return labels


def _is_stiff(operand: Operand, joined: LabelArray) -> bool:
    """Whether a value is as long as channels along some axis on which it has no labels that could go."""
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
    """Along the axis of channels labels follow one another; along others they are coupled."""
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
    """A slice of channels is a slice of labels; every second channel cannot shrink evenly and stays."""
    labels = site.input(0, space)
    axis = int(site.attributes["axis"])
    if labels.shape[axis] == 1:
        return labels
    if site.attributes["step"] != 1:
        space.freeze(labels, f"{site.name} (slice) takes channels at a step")
    window = range(site.attributes["start"], site.attributes["stop"], site.attributes["step"])
    return np.take(labels, list(window), axis)


def pad(site: Site, space: Labels) -> LabelArray:
    """Padding channels are new labels that nothing produces; reflecting channels cannot shrink."""
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
    """Shortest runs of axes of equal product: which old axes become which new ones."""
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

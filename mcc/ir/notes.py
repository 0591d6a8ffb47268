"""Notes: decisions about a node, as frozen data under one `node.meta` key.

Properties that can be computed from the graph (channel groups, liveness, costs) are never noted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import fx

from mcc.ir.interface import Interface

META_KEY = "mcc"

DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i32": torch.int32,
    "i64": torch.int64,
    "bool": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorType:
    """Static type of a value: shape in elements (axis 0 is the declared batch) and dtype name."""

    shape: tuple[int, ...]
    dtype: str = "f32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; one of {', '.join(DTYPES)}")
        if any(length < 1 for length in self.shape):
            raise ValueError(f"a length in shape {self.shape} is not positive")

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @property
    def elements(self) -> int:
        """Number of elements."""
        total = 1
        for length in self.shape:
            total *= length
        return total

    @property
    def size_bytes(self) -> int:
        """Size of the value in bytes."""
        return self.elements * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class SparseNote:
    """Sparse storage of the weight of a 1x1 convolution.

    Attributes:
        block: Number of output channels that share one pattern (1: unstructured).
        sparsity: Share of zeros in the weight, 0 to 1.
    """

    block: int
    sparsity: float

    def __post_init__(self) -> None:
        if self.block not in (1, 2, 4):
            raise ValueError(f"block must be 1, 2 or 4, not {self.block}")
        if not 0.0 <= self.sparsity <= 1.0:
            raise ValueError(f"sparsity must lie in 0..1, not {self.sparsity}")


@dataclass(frozen=True)
class Note:
    """The note of one node.

    Attributes:
        type: Declared type of the value; None for the output node.
        origin: Names of the nodes of the captured graph that this one comes from.
        frozen: Reason why no pass may change the node, or None.
        keep: Output channels to keep, ascending, once decided; None after pruning.
        pruned_from: Number of output channels before pruning, once pruned.
        precision: `float`, `int8` or `int7` once decided, or None.
        sparse: Sparsity and storage of its weight, once decided.
        rank: Rank (inner channels) of the low-rank pair that this node will become, or belongs to.
        interface: Of the output node: inputs and outputs of the file that the graph was read from, or None.
    """

    type: TensorType | None = None
    origin: tuple[str, ...] = ()
    frozen: str | None = None
    keep: tuple[int, ...] | None = None
    pruned_from: int | None = None
    precision: str | None = None
    sparse: SparseNote | None = None
    rank: int | None = None
    interface: Interface | None = None

    def __post_init__(self) -> None:
        # Notes may come from text, where a field can have any value.
        if self.precision not in (None, "float", "int8", "int7"):
            raise ValueError(f"precision must be float, int8 or int7, not {self.precision!r}")
        frozen, sparse = cast(object, self.frozen), cast(object, self.sparse)
        if not isinstance(frozen, str | None):
            raise ValueError(f"frozen must be a reason, not {frozen!r}")
        if not isinstance(sparse, SparseNote | None):
            raise ValueError(f"sparse must be a block and a sparsity, not {sparse!r}")
        if not isinstance(cast(object, self.interface), Interface | None):
            raise ValueError(f"interface must be inputs and outputs, not {self.interface!r:.80}")
        if not (_is_tuple_of(self.origin, str)):
            raise ValueError(f"origin must be names, not {self.origin!r}")
        for name, value in (("pruned_from", self.pruned_from), ("rank", self.rank)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if self.keep is not None and not _is_ascending(self.keep):
            raise ValueError(f"keep must be ascending channel indices, at least one, not {self.keep!r}")


def _is_tuple_of(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and all(type(item) is kind for item in cast(tuple[object, ...], value))


def _is_ascending(keep: tuple[int, ...]) -> bool:
    if not keep or not _is_tuple_of(keep, int) or keep[0] < 0:
        return False
    return all(low < high for low, high in pairwise(keep))


def note(node: fx.Node) -> Note:
    """The note of a node; an empty note by default."""
    found = node.meta.get(META_KEY)
    return found if isinstance(found, Note) else Note()


def annotate(node: fx.Node, **changes: object) -> Note:
    """Replace fields of a node's note. Raises TypeError for an unknown field, ValueError for a bad value."""
    changed = dataclasses.replace(note(node), **changes)  # pyright: ignore[reportArgumentType]
    node.meta[META_KEY] = changed
    return changed


def absorb(node: fx.Node, *others: fx.Node) -> None:
    """Add the origins of `others` to a node that replaces them, in graph order."""
    origins = [name for each in sorted((node, *others)) for name in note(each).origin]
    annotate(node, origin=tuple(dict.fromkeys(origins)))


def type_of(node: fx.Node) -> TensorType:
    """The declared type of a value. Raises ValueError if none is declared."""
    declared = note(node).type
    if declared is None:
        raise ValueError(f"node {node.name} declares no type")
    return declared


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The declared shape of a value, in elements."""
    return type_of(node).shape

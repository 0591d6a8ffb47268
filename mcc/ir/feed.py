"""Batches for graphs with any number of inputs: a tensor for one, `Several` for more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Shape = tuple[int, ...]
Taken = Shape | dict[str, Shape]
"""Shape of a graph's only input, or shapes by name in the order of its inputs; with the batch."""
Arrays = NDArray[Any] | tuple[NDArray[Any], ...]


@dataclass(frozen=True, eq=False)
class Several:
    """A batch for a graph with several inputs; operations apply to each.

    Args:
        tensors: [N, ...] for each input, in the order of the graph's inputs.
    """

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: slice) -> Several:
        return Several(tuple(tensor[index] for tensor in self.tensors))

    def double(self) -> Several:
        """The batch in float64."""
        return Several(tuple(tensor.double() for tensor in self.tensors))

    def split(self, count: int) -> list[Several]:
        """Batches of at most `count` examples."""
        return [self[begin : begin + count] for begin in range(0, len(self), count)]


Feed = Tensor | Several


def feed_of(arrays: Arrays) -> Feed:
    """A batch of a data module for a graph."""
    if isinstance(arrays, tuple):
        return Several(tuple(torch.from_numpy(array) for array in arrays))
    return torch.from_numpy(arrays)


def feed_from(tensors: Sequence[Tensor]) -> Feed:
    """A batch of one tensor for each input."""
    return tensors[0] if len(tensors) == 1 else Several(tuple(tensors))


def tensors_of(feed: Feed) -> tuple[Tensor, ...]:
    """One tensor for each input."""
    return feed.tensors if isinstance(feed, Several) else (feed,)


def arrays_of(arrays: Arrays) -> tuple[NDArray[Any], ...]:
    """One array for each input."""
    return arrays if isinstance(arrays, tuple) else (arrays,)


def joined(feeds: Sequence[Feed]) -> Feed:
    """The examples of all batches as one."""
    return feed_from([torch.cat(parts) for parts in zip(*map(tensors_of, feeds), strict=True)])


def bytes_of(feed: Feed) -> bytes:
    """All numbers, for a hash."""
    return b"".join(np.ascontiguousarray(tensor.numpy()).tobytes() for tensor in tensors_of(feed))

"""Which of a network's outputs a task judges: by shape, then by name, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from mcc.errors import DataError, NotFiniteError, UsageError

Value = TypeVar("Value", covariant=True)

MAIN = re.compile(
    r"(^|[^a-z])(logits?|outputs?|out|main|head|pred(iction)?s?|prob(abilitie)?s?|scores?)([^a-z]|$)"
)
"""Names that networks give to what they answer."""

BESIDE = re.compile(
    r"(^|[^a-z])(aux|auxiliary|feat|feature|features|embed|embedding|hidden|backbone|pooled)[a-z]*"
)
"""Names of what they return besides: auxiliary classifiers, features."""


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
        name: that people know it by.
        shape: with batch, in the axes of the graph.
    """

    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)}"


class Named(Sequence[Value], Generic[Value]):
    """Values of all of a network's outputs, in the order and the axes of its graph, by name or by place.

    Args:
        values: One for each output.
        outputs: Of the network, in the same order.
    """

    def __init__(self, values: Sequence[Value], outputs: Sequence[Output]) -> None:
        if len(values) != len(outputs):
            raise ValueError(f"{len(values)} values for {len(outputs)} outputs")
        self._values, self._outputs = tuple(values), tuple(outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return tuple(output.name for output in self._outputs)

    @overload
    def __getitem__(self, index: int | str) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...

    def __getitem__(self, index: int | str | slice) -> Value | Sequence[Value]:
        """The output of that name or place. Raises DataError for a name that no output, or several, have."""
        if not isinstance(index, str):
            return self._values[index]
        if self.names.count(index) != 1:
            found = "several outputs" if index in self.names else "no output"
            raise DataError(
                f"the network has {found} called {index!r}", hint=f"there is {listed(self._outputs)}"
            )
        return self._values[self.names.index(index)]

    def __len__(self) -> int:
        return len(self._values)


def named_output(outputs: Sequence[Output], asked: str) -> int:
    """The place of the output that the user names, by its name or its place. Raises UsageError."""
    names = [output.name for output in outputs]
    if names.count(asked) == 1:
        return names.index(asked)
    if asked.isdecimal() and int(asked) < len(outputs):
        return int(asked)
    raise UsageError(
        f"there is no output {asked!r}" if asked not in names else f"several outputs are called {asked!r}",
        where="--judge",
        hint=f"give a name or a place from 0 on; there is {listed(outputs)}",
    )


def likely_output(outputs: Sequence[Output], fits: Sequence[int]) -> int:
    """The place of the output that is meant, of those whose shape fits.

    A name as `logits` counts for an output, one as `aux` or `features` against it.

    Raises:
        UsageError: names do not decide.
    """
    ranks = {place: _rank(outputs[place].name) for place in fits}
    best = max(ranks.values())
    found = [place for place, rank in ranks.items() if rank == best]
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} outputs could be the one that is judged: {listed(outputs, found)}",
            where="model",
            hint=f"say which with --judge, as --judge {found[0]}",
        )
    return found[0]


def outstanding(outputs: Sequence[Output]) -> int:
    """The place of the first output with the best name, where nothing hangs on which it is."""
    return max(range(len(outputs)), key=lambda place: (_rank(outputs[place].name), -place))


def listed(outputs: Sequence[Output], places: Sequence[int] | None = None) -> str:
    """Outputs with their places, for a sentence."""
    chosen = range(len(outputs)) if places is None else places
    return ", ".join(f"{place}: {outputs[place]}" for place in chosen)


def _rank(name: str) -> int:
    lowered = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()  # auxLogits is aux_logits
    if BESIDE.search(lowered):
        return -1
    return 1 if MAIN.search(lowered) else 0


def check_finite(value: NDArray[np.generic], name: str, where: str) -> None:
    """Refuse an output that holds a value that is no number, or infinite. Raises NotFiniteError.

    Args:
        value: [N, ...] of N images.
        name: of the output.
        where: the file, or whatever made it.
    """
    bad = np.asarray(~np.isfinite(value.reshape(len(value), -1)).all(axis=1))
    if bad.any():
        kind = "not a number" if np.isnan(value).any() else "infinite"
        raise NotFiniteError(
            f"output {name!r} is {kind} for {int(bad.sum())} of {len(bad)} images",
            where=where,
            hint="look for such weights, or for overflow behind large ones",
        )

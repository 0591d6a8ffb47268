"""Which of a network's outputs a task judges: by shape, then by name, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcc.errors import NotFiniteError, UsageError

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

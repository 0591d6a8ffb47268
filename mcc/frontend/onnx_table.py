"""The table of ONNX operators, and what a rule sees of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mcc.frontend.emitter import Emitter
from mcc.frontend.rows import RANK, as_map, as_row
from mcc.frontend.values import AnyValue, Const, pair

Result = Any
"""A value, a list of values, or a `Quantised` one."""


@dataclass(frozen=True)
class Site:
    """One ONNX node.

    Attributes:
        op: operator name.
        inputs: values by position; None where left out.
        attributes: attributes as plain data.
        outputs: number of outputs that the node names.
        opset: version of the default operator set.
    """

    emitter: Emitter
    op: str
    inputs: Sequence[Any]
    attributes: Mapping[str, Any]
    outputs: int
    opset: int

    def value(self, index: int = 0) -> AnyValue:
        """An input that must be there."""
        found = self.optional(index)
        if found is None:
            self.emitter.refuse(f"{self.op} lacks its input {index}")
        return found

    def optional(self, index: int) -> AnyValue | None:
        """An input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def rest(self, start: int = 0) -> list[AnyValue]:
        """All inputs from a position on."""
        return [value for value in self.inputs[start:] if value is not None]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def numbers(self, index: int, name: str) -> list[Any] | None:
        """Numbers given by an attribute (older opsets) or by a constant input; None where left out."""
        if name and name in self.attributes:
            given = self.attributes[name]
            return list(given) if isinstance(given, list | tuple) else [given]
        found = self.optional(index)
        if found is None:
            return None
        if not isinstance(found, Const):
            self.emitter.refuse(f"{self.op} takes {name or 'numbers'} that depend on the values of the input")
        return found.tensor.reshape(-1).tolist()

    def is_row(self) -> bool:
        """Whether the first input is a row [N, C, L]; else it must be a map [N, C, H, W]."""
        rank = len(self.emitter.shape(self.value()))
        if rank not in (RANK, RANK + 1):
            self.emitter.refuse(
                f"{self.op} on {rank - 2}-dimensional maps is not supported",
                "mcc reads networks on maps [N, C, H, W] and rows [N, C, L]",
            )
        return rank == RANK

    def map_shape(self) -> tuple[int, int, int, int]:
        """Shape of the first input as a map [N, C, H, W]."""
        shape = self.emitter.shape(self.value())
        if self.is_row():
            return shape[0], shape[1], 1, shape[2]
        return shape[0], shape[1], shape[2], shape[3]

    def as_map(self) -> AnyValue:
        """The first input as a map."""
        return as_map(self.emitter, self.value()) if self.is_row() else self.value()

    def as_read(self, made: AnyValue) -> AnyValue:
        """A map as the model sees it: a row where the first input is one."""
        return as_row(self.emitter, made) if self.is_row() else made

    def both(self, name: str, neutral: int) -> tuple[int, int]:
        """An attribute for height and width; of a row, neutral for its height."""
        given = self.get(name) or (neutral,) * (1 if self.is_row() else 2)
        return (neutral, int(given[0])) if self.is_row() else pair(given)

    def kernel(self) -> AnyValue:
        """The weight of a convolution, for maps."""
        weight = self.value(1)
        if not self.is_row():
            return weight
        unfolded = self.emitter.weight_of_map(weight)
        if unfolded is None:
            self.emitter.refuse(f"{self.op} with computed weights is not supported")
        return unfolded


Rule = Callable[[Site], Result]
_R = TypeVar("_R", bound=Rule)

RULES: dict[str, Rule] = {}


def onnx_op(*names: str) -> Callable[[_R], _R]:
    """Register a rule for operators."""

    def register(rule: _R) -> _R:
        for name in names:
            assert name not in RULES, name
            RULES[name] = rule
        return rule

    return register


def pads_of(site: Site) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) from `pads`."""
    given = site.get("pads") or (0, 0, 0, 0)
    if site.is_row():
        return 0, 0, given[0], given[-1]
    top, left, bottom, right = given
    return top, bottom, left, right


def padding_of(
    site: Site, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) from `pads` or `auto_pad`."""
    auto = site.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return pads_of(site)
    if auto == "VALID":
        return 0, 0, 0, 0
    sides: list[int] = []
    for length, k, s, d in zip(site.map_shape()[2:], kernel, stride, dilation, strict=True):
        total = max(0, (-(-length // s) - 1) * s + d * (k - 1) + 1 - length)
        less, more = total // 2, total - total // 2
        sides += [less, more] if auto == "SAME_UPPER" else [more, less]
    return sides[0], sides[1], sides[2], sides[3]

"""What the frontend asks about ATen operators: name, arguments, what is shared with or written into operands.

torch keeps these under private names; they are touched here only.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload  # pyright: ignore[reportPrivateUsage]

# Whether they return their operand or a copy depends on the operand or on the mode.
_MAYBE_VIEWS = frozenset(
    {"contiguous", "reshape", "dropout", "feature_dropout", "alpha_dropout", "to", "flatten"}
)


@dataclass(frozen=True)
class Argument:
    """One argument of an operator: its name, whether by keyword only, and its default."""

    name: str
    keyword: bool
    has_default: bool
    default: Any


@dataclass(frozen=True)
class Operator:
    """An ATen operator.

    Attributes:
        packet: `relu_`, `conv2d`, ...
        name: `relu.default`: without the underscore of in-place operators, with the overload.
        mutable: whether it writes into its first operand.
        view: whether its result may share storage with its first operand.
    """

    packet: str
    name: str
    arguments: tuple[Argument, ...]
    mutable: bool
    view: bool


def is_aten(target: object) -> bool:
    """Whether the target of a node is an ATen operator."""
    return isinstance(target, OpOverload) and target.namespace == "aten"


@cache
def operator_of(target: Any) -> Operator:
    """What is known about an ATen operator."""
    schema = target._schema
    packet = str(schema.name).split("::")[1]
    plain = packet[:-1] if packet.endswith("_") and not packet.startswith("__") else packet
    arguments = tuple(
        Argument(
            a.name, a.kwarg_only, a.has_default_value(), a.default_value if a.has_default_value() else None
        )
        for a in schema.arguments
    )
    alias = schema.returns[0].alias_info if schema.returns else None
    view = plain in _MAYBE_VIEWS or (alias is not None and not alias.is_write)
    return Operator(packet, f"{plain}.{target._overloadname}", arguments, bool(schema.is_mutable), view)


def is_view(node: fx.Node) -> bool:
    """Whether the result of a node may share storage with its first operand."""
    return node.target is operator.getitem or (is_aten(node.target) and operator_of(node.target).view)


def written(node: fx.Node) -> fx.Node | None:
    """The value that a node overwrites, if any."""
    if is_aten(node.target) and operator_of(node.target).mutable and node.args:
        first = node.args[0]
        return first if isinstance(first, fx.Node) else None
    return None


def draws(target: Any) -> bool:
    """Whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in target.tags


def is_pure(target: Any) -> bool:
    """Whether an operator does nothing but compute tensors (`from_file`, for one, touches the disk)."""
    return not any(argument.name in ("filename", "shared") for argument in operator_of(target).arguments)


def result_bytes(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Bytes of the results, found without allocating them; 0 where torch cannot say."""
    options = {key: _without_storage(value) for key, value in kwargs.items()}
    if any(argument.name == "device" for argument in operator_of(target).arguments):
        options["device"] = torch.device("meta")
    try:
        with torch.no_grad():
            result = target(*map(_without_storage, args), **options)
    except RuntimeError:
        return 0
    results = result if isinstance(result, tuple | list) else [result]
    return sum(value.numel() * value.element_size() for value in results if isinstance(value, Tensor))


def _without_storage(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return [_without_storage(item) for item in value] if isinstance(value, list) else value

"""The table of ATen operators: which canonical operators each one becomes.

A rule is a function of the emitter and of arguments named as in the operator's schema (`self` and `input`
are called `x`). Arguments that a rule does not name must have their default, else the operator is refused:
nothing is dropped in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from mcc.frontend.emitter import Emitter
from mcc.frontend.operators import Operator, operator_of
from mcc.frontend.values import AnyValue, Expanded

Result = AnyValue | Sequence[AnyValue]
Rule = Callable[..., Result]
_R = TypeVar("_R", bound=Rule)

RULES: dict[str, Rule] = {}
_BROADCASTING: set[str] = set()

# They choose storage or kernels, and say nothing about numbers (`momentum` concerns training only).
_IRRELEVANT = frozenset(
    {
        *("cudnn_enabled", "cudnn_enable", "momentum", "memory_format", "device", "layout", "pin_memory"),
        *("non_blocking", "copy", "implicit", "inplace", "path"),
    }
)


def aten(*names: str, broadcasting: bool = False) -> Callable[[_R], _R]:
    """Register a rule for overloads such as `add.Tensor`.

    Args:
        broadcasting: the rule takes expanded values as they are, since its operators broadcast.
    """

    def register(rule: _R) -> _R:
        for name in names:
            assert name not in RULES, name
            RULES[name] = rule
            if broadcasting:
                _BROADCASTING.add(name)
        return rule

    return register


def translate(emitter: Emitter, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Result:
    """Apply the rule of an operator. Raises UnsupportedError, naming operator and place."""
    known = operator_of(target)
    name = known.name
    rule = RULES.get(name)
    if rule is None:
        emitter.refuse(f"operator aten.{known.packet} is not supported", _hint(name))
    bound = _bind(known, args, kwargs)
    if name not in _BROADCASTING:
        bound = {key: _plain(emitter, value) for key, value in bound.items()}
    wanted = list(inspect.signature(rule).parameters)[1:]
    for argument in known.arguments:
        key = _rule_name(argument.name)
        value = bound.get(key)
        if key in wanted or key in _IRRELEVANT or value is None or value == argument.default:
            continue
        if key == "dtype" and value == torch.float32:
            continue
        emitter.refuse(f"operator aten.{known.packet} with {key}={value} is not supported")
    return rule(emitter, **{key: bound[key] for key in wanted if key in bound})


def _rule_name(name: str) -> str:
    return "x" if name in ("self", "input") else name


def _bind(known: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound: dict[str, Any] = {}
    for index, argument in enumerate(known.arguments):
        key = _rule_name(argument.name)
        if index < len(args):
            bound[key] = args[index]
        elif argument.name in kwargs:
            bound[key] = kwargs[argument.name]
        elif argument.has_default:
            bound[key] = argument.default
    return bound


def _plain(emitter: Emitter, value: Any) -> Any:
    """A value as a node where it is seen at a larger shape than it is stored."""
    if isinstance(value, Expanded):
        return emitter.node(value)
    return [_plain(emitter, item) for item in value] if isinstance(value, list | tuple) else value


_HINTS = (
    (("item.", "_local_scalar_dense", "sym_"), "compute with tensors, without reading numbers out of them"),
    (("nonzero", "masked_select"), "indices that depend on values have no static shape"),
    (("conv3d", "conv_transpose3d", "avg_pool3d", "max_pool3d", "adaptive_avg_pool3d"),
     "mcc reads networks on maps [N, C, H, W] and rows [N, C, L]"),
    (("lstm", "gru", "rnn"), "end before it: --cut PLACE"),
    (("nms", "topk", "sort", "argsort", "argmax"),
     "leave post-processing out of the model, or end before it: --cut PLACE"),
    (("bernoulli", "rand", "normal"), "the model draws random numbers; call .eval() or remove it"),
)  # fmt: skip


def _hint(name: str) -> str:
    for prefixes, hint in _HINTS:
        if name.startswith(prefixes):
            return hint
    return "rewrite that part with supported operators, or leave it out of the model"

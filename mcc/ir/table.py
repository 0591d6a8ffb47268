"""The op table: one row per operator of the canonical form.

A row holds all properties of an operator that the rest of the code uses: reference evaluation, attributes
with defaults, shape rule, channel rule, multiply-accumulates, and its quantisation. Nothing else
switches on operator names, except the lowerings, which have one emit function per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, fx

from mcc.errors import UnsupportedError
from mcc.ir import channels, ops, recurrent
from mcc.ir.labels import Rule
from mcc.ir.notes import DTYPE_NAMES, DTYPES, TensorType

Scales = Literal["weighted", "own", "tied", "fixed", "float"]
"""Quantisation of an operator.

`weighted`: integer kernel with quantised weight and its own output scale; `own`: integer kernel with its own
output scale; `tied`: output scale equals the input's; `fixed`: the runtime dictates the output scale;
`float`: no integer kernel, runs in float between dequantise and quantise.
"""

Sign = Literal["any", "kept", "positive"]
"""Sign of a result: unknown; non-negative if all operands are; always non-negative."""

MacsRule = Callable[[Sequence[TensorType | None], Mapping[str, Any], TensorType], int]
_REQUIRED = object()

MISFITS = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, ArithmeticError, AssertionError)
"""Exceptions of evaluating an operator whose operands and attributes do not fit."""


@dataclass(frozen=True)
class OpRow:
    """One operator.

    Attributes:
        function: Reference evaluation, a function of `mcc.ir.ops` or `mcc.ir.recurrent`.
        attributes: Keyword attributes with their defaults (`_REQUIRED` where there is none).
        channels: Channel rule, see `mcc.ir.channels`.
        macs: Multiply-accumulate operations of one evaluation at the declared shapes.
        scales: Quantisation of the operator, see `Scales`.
        operands: Minimum and maximum number of tensor operands.
        unary: Whether it is element-wise on one operand.
        integral: Whether it maps integers to integers, by sums, products and selection alone.
        moves: Whether its integer kernel only moves or clamps codes: a requantise can follow it.
        clamps: Whether it clamps values and leaves others unchanged.
        sign: Sign of its result, see `Sign`.
        parameters: Whether its constants are weights, statistics or scales, which must be finite.
        counts: Attributes that are numbers or positions of channels.
        bfloat16: Whether its result can be bfloat16 (8 bits of mantissa) in training; not for exponentials,
            divisions and most norms.
    """

    function: Callable[..., Tensor]
    attributes: Mapping[str, Any]
    channels: Rule
    macs: MacsRule
    scales: Scales
    operands: tuple[int, int]
    unary: bool = False
    integral: bool = False
    moves: bool = False
    clamps: bool = False
    sign: Sign = "any"
    parameters: bool = False
    counts: tuple[str, ...] = ()
    bfloat16: bool = False

    @property
    def name(self) -> str:
        """The operator's name: that of its function."""
        return self.function.__name__

    @property
    def fuses_activation(self) -> bool:
        """Whether an activation can be fused into the operator."""
        return "activation" in self.attributes

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All attributes in table order, defaults filled in. Raises ValueError for wrong or missing ones."""
        unknown = set(given) - set(self.attributes)
        if unknown:
            raise ValueError(f"{self.name} has no attribute {', '.join(sorted(unknown))}")
        full = {key: given.get(key, default) for key, default in self.attributes.items()}
        missing = [key for key, value in full.items() if value is _REQUIRED]
        if missing:
            raise ValueError(f"{self.name} needs the attribute {', '.join(missing)}")
        return full

    def infer(self, types: Sequence[TensorType | None], attributes: Mapping[str, Any]) -> TensorType:
        """Shape rule: evaluate the reference on tensors without storage.

        Raises one of `MISFITS` when operands and attributes do not fit.
        """
        least, most = self.operands
        if not least <= len(types) <= most:
            raise ValueError(f"{self.name} takes {least} to {most} operands, not {len(types)}")
        for key, default in self.attributes.items():
            given = attributes.get(key, default)
            # torch's shape rules for convolutions accept surplus lengths, which its kernels refuse.
            if isinstance(default, tuple) and (not isinstance(given, tuple) or len(given) != len(default)):
                raise ValueError(f"{key} must hold {len(default)} numbers, not {given!r}")
        items = tuple(attributes.items())
        # Shapes do not depend on the precision: a verification in float64 reuses the evaluations in float32.
        double = {t.dtype for t in types if t is not None and DTYPES[t.dtype].is_floating_point} == {"f64"}
        single = tuple(TensorType(t.shape, "f32") if t is not None and t.dtype == "f64" else t for t in types)
        result = _evaluate(self.function, single if double else tuple(types), items, repr(items))
        return TensorType(result.shape, "f64") if double and result.dtype == "f32" else result


@lru_cache(maxsize=65536)
def _evaluate(
    function: Callable[..., Tensor],
    types: tuple[TensorType | None, ...],
    attributes: tuple[tuple[str, Any], ...],
    spelling: str,
) -> TensorType:
    """The type of a result; cached, since an evaluation takes torch milliseconds even without storage.

    The text of the attributes distinguishes 1 from 1.0 and True, which are equal but not all valid.
    """
    values = [
        None if t is None else torch.empty(t.shape, dtype=DTYPES[t.dtype], device="meta") for t in types
    ]
    with torch.no_grad():
        result = function(*values, **dict(attributes))
    return TensorType(tuple(result.shape), DTYPE_NAMES[result.dtype])


def _no_macs(types: Sequence[TensorType | None], attributes: Mapping[str, Any], out: TensorType) -> int:
    return 0


def _conv_macs(types: Sequence[TensorType | None], attributes: Mapping[str, Any], out: TensorType) -> int:
    weight = types[1]
    assert weight is not None
    return out.elements * weight.shape[1] * weight.shape[2] * weight.shape[3]


def _transposed_macs(
    types: Sequence[TensorType | None], attributes: Mapping[str, Any], out: TensorType
) -> int:
    x, weight = types[0], types[1]
    assert x is not None
    assert weight is not None
    return x.elements * weight.shape[1] * weight.shape[2] * weight.shape[3]


def _inner_macs(types: Sequence[TensorType | None], attributes: Mapping[str, Any], out: TensorType) -> int:
    x = types[0]
    assert x is not None
    return out.elements * x.shape[-1]


def _recurrent_macs(
    types: Sequence[TensorType | None], attributes: Mapping[str, Any], out: TensorType
) -> int:
    read, own = types[1], types[2]
    assert read is not None
    assert own is not None
    return out.elements // out.shape[2] * (read.elements + own.elements)


TABLE: dict[str, OpRow] = {}


def _row(
    function: Callable[..., Tensor],
    rule: Rule,
    scales: Scales,
    operands: int | tuple[int, int] = 1,
    macs: MacsRule = _no_macs,
    **columns: Any,
) -> None:
    """Add a row; keywords that are not columns are attributes of the operator."""
    span = operands if isinstance(operands, tuple) else (operands, operands)
    given = {key: columns.pop(key) for key in _OPTIONAL & columns.keys()}
    TABLE[function.__name__] = OpRow(function, columns, rule, macs, scales, span, **given)


_OPTIONAL = {field.name for field in fields(OpRow) if field.default is not MISSING}
_NONE4 = (0, 0, 0, 0)
# fmt: off
_row(
    ops.conv2d, channels.conv2d, "weighted", 3, _conv_macs, integral=True, parameters=True, bfloat16=True,
    counts=("groups",),
    stride=(1, 1), padding=_NONE4, dilation=(1, 1), groups=1, activation="none",
)
_row(
    ops.conv_transpose2d, channels.conv_transpose2d, "weighted", 3, _transposed_macs,
    integral=True, parameters=True, counts=("groups",),
    stride=(1, 1), padding=_NONE4, output_padding=(0, 0), dilation=(1, 1), groups=1, activation="none",
)
_row(
    ops.linear, channels.linear, "weighted", 3, _inner_macs, integral=True, parameters=True, bfloat16=True,
    activation="none",
)
_row(ops.matmul, channels.mixes, "float", 2, _inner_macs, integral=True, parameters=True)
_row(
    recurrent.lstm, channels.recurrent, "float", 5, _recurrent_macs, parameters=True, reverse=False,
)
_row(
    recurrent.gru, channels.recurrent, "float", 5, _recurrent_macs, parameters=True,
    reverse=False, reset_after=True,
)
_row(ops.batch_norm, channels.per_channel, "float", 5, parameters=True, bfloat16=True, eps=1e-5)
_row(ops.layer_norm, channels.layer_norm, "float", 3, parameters=True, axes=_REQUIRED, eps=1e-5)
_row(
    ops.group_norm, channels.group_norm, "float", 3, parameters=True, counts=("groups",),
    groups=_REQUIRED, eps=1e-5,
)
_row(
    ops.global_response_norm, channels.global_response_norm, "float", 3, parameters=True,
    axis=_REQUIRED, eps=1e-6,
)
_row(
    ops.identity, channels.carries, "tied",
    unary=True, integral=True, moves=True, sign="kept", bfloat16=True,
)
for _function in (ops.relu, ops.relu6):
    _row(
        _function, channels.carries, "tied",
        unary=True, integral=True, moves=True, clamps=True, sign="positive", bfloat16=True,
    )
_row(ops.hardswish, channels.carries, "own", unary=True, bfloat16=True)
_row(ops.hardsigmoid, channels.carries, "float", unary=True, sign="positive", bfloat16=True)
_row(ops.silu, channels.carries, "float", unary=True, bfloat16=True)
_row(ops.mish, channels.carries, "float", unary=True)
_row(ops.softplus, channels.carries, "float", unary=True, sign="positive")
_row(ops.sigmoid, channels.carries, "fixed", unary=True, sign="positive", bfloat16=True)
_row(ops.tanh, channels.carries, "fixed", unary=True, bfloat16=True)
_row(ops.exp, channels.carries, "float", unary=True, sign="positive")
for _function in (ops.log, ops.sqrt):
    _row(_function, channels.carries, "float", unary=True)
_row(ops.abs, channels.carries, "float", unary=True, integral=True, sign="positive")
_row(ops.neg, channels.carries, "float", unary=True, integral=True)
_row(ops.sign, channels.carries, "float", unary=True, integral=True)
_row(ops.gelu, channels.carries, "float", unary=True, approximate="none")
_row(ops.leaky_relu, channels.carries, "own", unary=True, bfloat16=True, slope=0.01)
_row(ops.elu, channels.carries, "float", unary=True, alpha=1.0)
_row(
    ops.clamp, channels.carries, "tied", unary=True, integral=True, moves=True, clamps=True, bfloat16=True,
    min=float("-inf"), max=float("inf"),
)
_row(ops.prelu, channels.per_channel, "float", 2, parameters=True, bfloat16=True)
_row(
    ops.max_pool2d, channels.spatial, "tied", integral=True, moves=True, sign="kept", bfloat16=True,
    kernel=_REQUIRED, stride=_REQUIRED, padding=_NONE4, dilation=(1, 1),
)
_row(
    ops.avg_pool2d, channels.spatial, "tied", sign="kept", bfloat16=True,
    kernel=_REQUIRED, stride=_REQUIRED, padding=_NONE4, count_include_pad=True,
)
_row(ops.mean, channels.reduces, "own", bfloat16=True, axes=_REQUIRED, keepdim=False)
_row(ops.sum, channels.reduces, "float", integral=True, axes=_REQUIRED, keepdim=False)
_row(ops.amax, channels.reduces, "float", integral=True, bfloat16=True, axes=_REQUIRED, keepdim=False)
for _function in (ops.add, ops.sub, ops.mul):
    _row(_function, channels.broadcasts, "own", 2, integral=True, bfloat16=True, activation="none")
_row(ops.div, channels.broadcasts, "float", 2, activation="none")
_row(
    ops.concat, channels.concat, "tied", (1, 1024), integral=True, moves=True, sign="kept", bfloat16=True,
    axis=_REQUIRED,
)
_row(
    ops.slice, channels.slice_, "tied", integral=True, moves=True, sign="kept", bfloat16=True,
    counts=("start", "stop"),
    axis=_REQUIRED, start=_REQUIRED, stop=_REQUIRED, step=1,
)
_row(
    ops.pad, channels.pad, "tied", integral=True, moves=True, bfloat16=True, counts=("padding",),
    padding=_REQUIRED, mode="constant", value=0.0,
)
_row(
    ops.resize, channels.spatial, "tied", moves=True, sign="kept",
    size=_REQUIRED, mode="nearest", align_corners=False,
)
_row(
    ops.reshape, channels.reshape, "tied", integral=True, moves=True, sign="kept", bfloat16=True,
    counts=("shape",), shape=_REQUIRED,
)
_row(
    ops.transpose, channels.transpose, "tied", integral=True, moves=True, sign="kept", bfloat16=True,
    perm=_REQUIRED,
)
_row(
    ops.pixel_shuffle, channels.pixel_shuffle, "tied", integral=True, moves=True, sign="kept", bfloat16=True,
    factor=_REQUIRED,
)
_row(ops.softmax, channels.softmax, "fixed", sign="positive", axis=_REQUIRED)
_row(
    ops.fake_quantize, channels.fake_quantize, "tied", 3, sign="kept", parameters=True, bfloat16=True,
    qmin=-128, qmax=127, axis=None,
)
# fmt: on

WEIGHTED = frozenset(name for name, row in TABLE.items() if row.scales == "weighted")
"""Operators with a weight as operand 1 and a bias as operand 2; the integer kernel's bias is int32."""

MOVING = frozenset(name for name, row in TABLE.items() if row.moves)
"""Operators whose integer kernel moves or clamps codes: their output scale is that of their operands."""


def row(name: str) -> OpRow:
    """The row of an operator by name. Raises UnsupportedError for a name outside the table."""
    try:
        return TABLE[name]
    except KeyError:
        raise UnsupportedError(
            f"operator {name!r} is not in the canonical form", hint=f"it knows {', '.join(sorted(TABLE))}"
        ) from None


def row_of(node: fx.Node) -> OpRow:
    """The row of the operator a node calls. Raises UnsupportedError where it calls anything else."""
    function = node.target
    found = TABLE.get(getattr(function, "__name__", ""))
    if found is None or found.function is not function:
        raise UnsupportedError(f"calls {function!r}, which is not in the canonical form", where=node.name)
    return found

"""Recurrent layers of ATen and ONNX: one operator for each layer and direction.

The model sees sequences as [T, N, C] or [N, T, C], and last states as [layers, N, H]; the canonical form has
the batch in front (`Turned`). The last state of a direction is its last step, so it is a slice of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from mcc.frontend.aten import aten
from mcc.frontend.emitter import Emitter
from mcc.frontend.moved_batch import place_of
from mcc.frontend.onnx_table import Result, Site, onnx_op
from mcc.frontend.values import AnyValue, Const, Turned

_STATE_HINT = "start without a state, or end before it: --cut PLACE"


@dataclass(frozen=True)
class Direction:
    """The constants of one layer in one direction: input and recurrent weight, and their biases."""

    constants: Sequence[AnyValue | None]
    reverse: bool


def _sequence(e: Emitter, x: AnyValue, batch_axis: int) -> fx.Node:
    """A sequence as [N, T, C]. Refuses a layer that runs along the batch."""
    shape, place = e.shape(x), place_of(x)
    if len(shape) != 3:
        e.refuse(f"reads {len(shape)} axes", "a recurrent layer reads a batch of sequences, three axes")
    if place != batch_axis and not (e.batch == 1 and shape[batch_axis] == 1):
        e.refuse("runs along the batch axis", "use batch_first=True for [N, T, C], False for [T, N, C]")
    inner = x.inner if isinstance(x, Turned) else e.node(x)
    return e.reshape(inner, [length for axis, length in enumerate(shape) if axis != batch_axis])


def _run(
    e: Emitter, op: str, x: fx.Node, layers: Sequence[Sequence[Direction]], **attributes: Any
) -> tuple[fx.Node, fx.Node]:
    """All layers on [N, T, C]: the result [N, T, directions * H], and the last states [N, layers, H]."""
    steps = e.shape(x)[1]
    states: list[AnyValue] = []
    for directions in layers:
        made: list[AnyValue] = []
        for one in directions:
            y = e.call_node(op, x, *one.constants, reverse=one.reverse, **attributes)
            last = 0 if one.reverse else steps - 1
            states.append(e.window(y, 1, last, last + 1))
            made.append(y)
        x = e.node(e.concat(made, 2))
    return x, e.node(e.concat(states, 1))


def _need_zeros(e: Emitter, states: Sequence[Any]) -> None:
    """Refuse initial states other than zero."""
    for state in states:
        if state is not None and not (isinstance(state, Const) and not bool(state.tensor.any())):
            e.refuse("starts with a state other than zero", _STATE_HINT)


# -- ATen --------------------------------------------------------------------------------------------------


@aten("lstm.input")
def lstm(
    e: Emitter, x: AnyValue, hx: Sequence[AnyValue], params: Sequence[AnyValue], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> list[AnyValue]:  # fmt: skip
    """LSTM, all layers and directions; the last state of the cells is not among its results."""
    layers = _layers(e, params, has_biases, num_layers, bidirectional)
    return _aten(e, "lstm", x, hx, layers, batch_first)


@aten("gru.input")
def gru(
    e: Emitter, x: AnyValue, hx: AnyValue, params: Sequence[AnyValue], has_biases: bool,
    num_layers: int, dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> list[AnyValue]:  # fmt: skip
    """GRU, all layers and directions."""
    layers = _layers(e, params, has_biases, num_layers, bidirectional)
    return _aten(e, "gru", x, [hx], layers, batch_first, reset_after=True)


def _layers(
    e: Emitter, params: Sequence[AnyValue], has_biases: bool, num_layers: int, bidirectional: bool
) -> list[list[Direction]]:
    each, ways = (4 if has_biases else 2), (2 if bidirectional else 1)
    if len(params) != each * ways * num_layers:
        e.refuse("projects its state (proj_size)", "end before it: --cut PLACE")
    groups = [[*params[i : i + each], None, None][:4] for i in range(0, len(params), each)]
    made = [Direction(group, index % ways == 1) for index, group in enumerate(groups)]
    return [made[i : i + ways] for i in range(0, len(made), ways)]


def _aten(
    e: Emitter, op: str, x: AnyValue, states: Sequence[AnyValue], layers: list[list[Direction]],
    batch_first: bool, **attributes: Any,
) -> list[AnyValue]:  # fmt: skip
    _need_zeros(e, states)
    y, last = _run(e, op, _sequence(e, x, 0 if batch_first else 1), layers, **attributes)
    return [e.seen_at(y, 0 if batch_first else 1), e.seen_at(last, 1)]


# -- ONNX --------------------------------------------------------------------------------------------------

_LSTM_ORDER = (0, 2, 3, 1)  # ONNX stores input, output, forget, cell
_GRU_ORDER = (1, 0, 2)  # ONNX stores update, reset, new
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
_INITIAL, _PEEPHOLES = 5, 7
_BATCH_IN_RESULT, _BATCH_IN_STATE = 2, 1


@onnx_op("LSTM", "GRU")
def recurrent(site: Site) -> Result:
    """Y [T, directions, N, H] and Y_h [directions, N, H]; with layout 1 the batch is in front of both."""
    e, front = site.emitter, bool(site.get("layout", 0))
    _need_plain(site)
    x = _sequence(e, site.value(0), 0 if front else 1)
    steps = e.shape(x)[1]
    lengths = site.optional(4)
    if lengths is not None and not (isinstance(lengths, Const) and bool((lengths.tensor == steps).all())):
        e.refuse("takes sequences of several lengths", "export it without sequence_lens")
    _need_zeros(e, [site.optional(index) for index in (_INITIAL, _INITIAL + 1)])
    ways = _directions(site)
    after = {} if site.op == "LSTM" else {"reset_after": bool(site.get("linear_before_reset", 0))}
    y, last = _run(e, site.op.lower(), x, [ways], **after)
    apart = e.reshape(y, (steps, len(ways), e.shape(y)[2] // len(ways)))
    return [
        e.seen_at(apart, 0 if front else _BATCH_IN_RESULT),
        e.seen_at(last, 0 if front else _BATCH_IN_STATE),
    ]


def _need_plain(site: Site) -> None:
    """Refuse what the canonical operators do not have."""
    wanted = _ACTIVATIONS[site.op]
    given = [name.lower() for name in site.get("activations", [])]
    for least, found in (
        ("other activations", given not in ([], wanted, wanted * 2)),
        ("clip", site.get("clip") is not None),
        ("input_forget", bool(site.get("input_forget", 0))),
        ("peepholes", site.optional(_PEEPHOLES) is not None),
    ):
        if found:
            site.emitter.refuse(f"{site.op} with {least} is not supported", "end before it: --cut PLACE")


def _directions(site: Site) -> list[Direction]:
    e, order = site.emitter, _LSTM_ORDER if site.op == "LSTM" else _GRU_ORDER
    weights, bias = [site.value(1), site.value(2)], site.optional(3)
    consts = [value for value in (*weights, bias) if isinstance(value, Const)]
    if len(consts) != len(weights) + (bias is not None):
        e.refuse(f"{site.op} with computed weights is not supported", "end before it: --cut PLACE")
    way, made = str(site.get("direction", "forward")), list[Direction]()
    for index, reverse in enumerate([False, True] if way == "bidirectional" else [way == "reverse"]):
        end = "_reverse" if reverse else ""
        held: list[AnyValue | None] = [
            e.like(const, _reordered(const.tensor[index], order), f"{suffix}{end}")
            for const, suffix in zip(consts[:2], ("_ih", "_hh"), strict=True)
        ]
        halves = consts[2].tensor[index].chunk(2) if bias is not None else ()
        for half, suffix in zip(halves, ("_ih", "_hh"), strict=False):
            held.append(e.like(consts[2], _reordered(half, order), f"{suffix}{end}"))
        made.append(Direction([*held, None, None][:4], reverse))
    return made


def _reordered(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """The blocks of gates in another order."""
    blocks = tensor.chunk(len(order))
    return torch.cat([blocks[gate] for gate in order])

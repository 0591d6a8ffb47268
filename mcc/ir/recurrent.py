"""Recurrent layers of the canonical form: one layer in one direction, as plain functions on tensors.

They continue `mcc.ir.ops`. x is [N, T, I], the result [N, T, H]; the state before the first step is zero, and
`reverse` starts at the last step. Weights have the axes and the order of gates of PyTorch, biases may be
absent. Two directions are two of them and a concat, several layers follow each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LSTM_GATES, GRU_GATES = 4, 3


def _checked(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, *biases: Tensor | None, gates: int) -> int:
    """The number of hidden units. Raises ValueError where the operands do not fit."""
    if x.dim() != 3:
        raise ValueError(f"needs a sequence [N, T, I], not {tuple(x.shape)}")
    hidden, width = weight_hh.shape[-1], x.shape[2]
    rows = gates * hidden
    if tuple(weight_ih.shape) != (rows, width) or tuple(weight_hh.shape) != (rows, hidden):
        raise ValueError(
            f"weights {tuple(weight_ih.shape)} and {tuple(weight_hh.shape)} are not those of {gates} gates "
            f"of {hidden} units that read {width} features"
        )
    for bias in biases:
        if bias is not None and tuple(bias.shape) != (rows,):
            raise ValueError(f"a bias has {rows} entries, not {tuple(bias.shape)}")
    return hidden


def _biases(weight: Tensor, *biases: Tensor | None) -> list[Tensor]:
    """Both biases, zeros where one is absent."""
    return [weight.new_zeros(weight.shape[0]) if bias is None else bias for bias in biases]


def _in_order(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(1) if reverse else x


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    *,
    reverse: bool,
) -> Tensor:
    """Long short-term memory (Hochreiter 1997), gates in the order input, forget, cell, output."""
    hidden = _checked(x, weight_ih, weight_hh, bias_ih, bias_hh, gates=LSTM_GATES)
    if x.is_meta:  # torch takes a third of a second for the shape of 80 steps
        return x.new_empty((*x.shape[:2], hidden))
    held = [weight_ih, weight_hh, *_biases(weight_ih, bias_ih, bias_hh)]
    state = x.new_zeros((1, x.shape[0], hidden))
    y = torch.lstm(_in_order(x, reverse), [state, state], held, True, 1, 0.0, False, False, True)[0]
    return _in_order(y, reverse)


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    *,
    reverse: bool,
    reset_after: bool,
) -> Tensor:
    """Gated recurrent unit (Cho 2014), gates in the order reset, update, new.

    `reset_after` is the form of PyTorch and cuDNN: tanh(.. + r * (W h + b)); else tanh(.. + W (r * h) + b).
    """
    hidden = _checked(x, weight_ih, weight_hh, bias_ih, bias_hh, gates=GRU_GATES)
    if x.is_meta:
        return x.new_empty((*x.shape[:2], hidden))
    own, other = _biases(weight_ih, bias_ih, bias_hh)
    steps, state = _in_order(x, reverse), x.new_zeros((x.shape[0], hidden))
    if reset_after:
        held = [weight_ih, weight_hh, own, other]
        y = torch.gru(steps, state.unsqueeze(0), held, True, 1, 0.0, False, False, True)[0]
        return _in_order(y, reverse)
    read = F.linear(steps, weight_ih, own)
    found: list[Tensor] = []
    for step in range(x.shape[1]):
        gates = F.linear(state, weight_hh[: 2 * hidden], other[: 2 * hidden]) + read[:, step, : 2 * hidden]
        reset, update = torch.sigmoid(gates).chunk(2, 1)
        new = F.linear(reset * state, weight_hh[2 * hidden :], other[2 * hidden :])
        new = torch.tanh(new + read[:, step, 2 * hidden :])
        state = new + update * (state - new)
        found.append(state)
    return _in_order(torch.stack(found, 1), reverse)

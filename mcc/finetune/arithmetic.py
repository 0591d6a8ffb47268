"""Number format and memory layout of training on this processor, and the operators that they need.

Measured with MobileNetV2 0.5 at 64x64 on one core with AVX512-BF16 and AMX (torch 2.13, batch 128): 75 images
a second with NCHW float32, 120 to 140 with channels last, 140 with bfloat16 besides, and 200 once strided
depthwise convolutions stay in float32: oneDNN has no fast bfloat16 kernel for their gradient (60 ms instead
of 0.5 ms for 96 channels at 16x16).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from mcc.errors import UsageError
from mcc.finetune.fake_quantize import quantise
from mcc.finetune.settings import Arithmetic
from mcc.ir import ops, table
from mcc.ir.feed import Feed, tensors_of
from mcc.ir.graph import Graph, calls, copy_graph, op_name, operand


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); else it is slow."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    return False


def choose_arithmetic(wanted: Arithmetic, graph: Graph) -> str:
    """`float32` or `bfloat16` for the activations of a graph. Raises UsageError for an unknown name."""
    if wanted not in ("auto", "float32", "bfloat16"):
        raise UsageError(f"arithmetic must be auto, float32 or bfloat16, not {wanted!r}")
    if wanted != "auto":
        return wanted
    bears = all(table.row_of(node).bfloat16 for node in calls(graph))
    return "bfloat16" if bears and has_bfloat16() else "float32"


def training_copy(graph: Graph, arithmetic: str) -> Graph:
    """A private copy with the same results in less time: weights channels last, other gradient functions.

    Its operators are not in the op table any more: query the original graph instead.
    """
    copy = copy_graph(graph)
    for node in calls(copy):
        if op_name(node) == "fake_quantize":
            _take_over_activation(node)
            node.target = quantise
        elif arithmetic == "bfloat16" and _has_slow_gradient(node):
            node.target = float32_conv2d
    for _, value in copy.named_parameters(recurse=False):
        if value.dim() == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    copy.recompile()
    return copy


def _take_over_activation(quantiser: fx.Node) -> None:
    """Clamp in the quantiser instead of its operand, which saves a pass over the value."""
    value = operand(quantiser, 0)
    activation = value.kwargs.get("activation", "none")
    if activation != "none" and len(value.users) == 1:
        quantiser.kwargs = {**quantiser.kwargs, "activation": activation}
        value.kwargs = {**value.kwargs, "activation": "none"}


def _has_slow_gradient(node: fx.Node) -> bool:
    if op_name(node) != "conv2d":
        return False
    return bool(node.kwargs["groups"] != 1 and node.kwargs["stride"] != (1, 1))


def float32_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, **attributes: Any) -> Tensor:
    """`ops.conv2d` in float32 amid bfloat16; the result has the number format of x [N, I, H, W]."""
    with torch.autocast("cpu", enabled=False):
        return ops.conv2d(x.float(), weight, bias, **attributes).to(x.dtype)


def evaluate(graph: Graph, x: Feed, arithmetic: str) -> tuple[Tensor, ...]:
    """The outputs of a graph in float32, its activations computed in `arithmetic` and channels last."""
    given = [
        one.contiguous(memory_format=torch.channels_last) if one.dim() == 4 else one for one in tensors_of(x)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == "bfloat16"):
        values: tuple[Tensor, ...] = graph(*given)
    return tuple(value.float() for value in values)

"""Float operators between integer ones, evaluated as XNNPACK's float32 kernels round.

A last-bit difference of a float kernel moves an int8 code only next to a rounding boundary. The operators
that networks put between integer ones are reproduced exactly; the transcendental ones (exp, log, gelu,
softmax, ...) follow torch, whose results differ by a unit or two in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from mcc.ir.graph import op_name
from mcc.ir.table import row_of

_SIXTH = float(np.float32(1.0 / 6.0))


def evaluate(node: fx.Node, values: Sequence[Tensor | None]) -> Tensor:
    """The float32 result of one operator node for its operands."""
    kernel = _KERNELS.get(op_name(node))
    if kernel is not None:
        return kernel(values[0])
    function: Callable[..., Tensor] = row_of(node).function
    attributes: dict[str, Any] = dict(node.kwargs)
    return function(*values, **attributes)


def hardswish(x: Tensor | None) -> Tensor:
    """f32-vhswish: x * clamp(fma(x, 1/6, 1/2), 0, 1), the fused step rounded once."""
    assert x is not None
    gate = (x.to(torch.float64) * _SIXTH + 0.5).to(torch.float32)
    return gate.clamp(0.0, 1.0) * x


_KERNELS: dict[str, Callable[[Tensor | None], Tensor]] = {"hardswish": hardswish}

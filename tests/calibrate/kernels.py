"""Kernels for the tests of calibration."""

from __future__ import annotations

import math

from mcc.cost_api import Kernel, OperandShape, Precision


def conv(
    read: int, made: int, *, size: int = 8, window: int = 1, groups: int = 1, activation: str = "none",
    precision: Precision = "float",
) -> Kernel:  # fmt: skip
    """A convolution without stride on square images."""
    weight = (made, read // groups, window, window)
    attributes = {
        "stride": (1, 1), "padding": (window // 2,) * 4, "dilation": (1, 1), "groups": groups,
        "activation": activation,
    }  # fmt: skip
    operands = (OperandShape((1, read, size, size)), OperandShape(weight, True), OperandShape((made,), True))
    return Kernel("conv2d", operands, (1, made, size, size), tuple(attributes.items()), precision)


def add(channels: int, size: int = 8, precision: Precision = "float", activation: str = "none") -> Kernel:
    """A sum of two values."""
    x = OperandShape((1, channels, size, size))
    return Kernel("add", (x, x), x.shape, (("activation", activation),), precision)


def pool(channels: int, size: int = 8, precision: Precision = "float") -> Kernel:
    """A global mean."""
    x = OperandShape((1, channels, size, size))
    return Kernel("mean", (x,), (1, channels), (("axes", (2, 3)), ("keepdim", False)), precision)


def linear(read: int, made: int, precision: Precision = "float") -> Kernel:
    """A fully connected layer."""
    operands = (OperandShape((1, read)), OperandShape((made, read), True), OperandShape((made,), True))
    return Kernel("linear", operands, (1, made), (("activation", "none"),), precision)


def surface_us(kernel: Kernel) -> float:
    """A made-up device: 2 us for each kernel, 20 GMAC/s in tiles of 16 channels, 4 bytes a nanosecond."""
    tiles = kernel.macs * math.ceil(kernel.output[1] / 16) * 16 / kernel.output[1]
    return 2.0 + tiles / 20e3 + kernel.bytes_moved / 4e3

"""Modules of half weights and examples of bytes are read as float32; arithmetic of bytes is refused."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from mcc.errors import UnsupportedError
from mcc.frontend import capture
from mcc.frontend.torch_precision import in_float32
from mcc.ir.graph import run
from tests.frontend.constructs import Of

PICTURE = torch.zeros(1, 6, 5, 3, dtype=torch.uint8)


def _from_bytes(s: nn.Module, x: Tensor) -> Tensor:
    conv: nn.Module = s.get_submodule("conv")
    return conv((x.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25)


def test_a_picture_of_bytes(caplog: pytest.LogCaptureFixture) -> None:
    network = Of(_from_bytes, conv=nn.Conv2d(3, 4, 3)).eval()
    with caplog.at_level(logging.WARNING):
        module, values = in_float32(network, (PICTURE,))
    assert "input 0 of bytes: read as float32" in caplog.text
    x = torch.randint(0, 256, (2, *PICTURE.shape[1:]), dtype=torch.uint8)
    with torch.no_grad():
        wanted = network(x)
    torch.testing.assert_close(run(capture(module, values), x.float())[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [lambda s, x: (x + 200).float(), lambda s, x: (x * 3).float()])
def test_arithmetic_of_bytes_is_refused(function: object) -> None:
    with pytest.raises(UnsupportedError, match=r"input 0: of bytes is computed with as integers"):
        in_float32(Of(function), (PICTURE,))  # pyright: ignore[reportArgumentType]


def test_half_weights(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).half().eval()
    with caplog.at_level(logging.WARNING):
        module, values = in_float32(network, (torch.zeros(1, 3, 6, 6).half(),))
    assert "holds torch.float16" in caplog.text
    assert next(network.parameters()).dtype == torch.float16
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(run(capture(module, values), x)[0], module(x), rtol=1e-5, atol=1e-6)

"""The route through TensorFlow, as far as it goes without it; `tools.checks.tensorflow_oracle` runs it."""

from __future__ import annotations

import sys

import pytest
import torch

from mcc.errors import TargetError, UnsupportedError
from mcc.ir import table
from mcc.ir.graph import GraphBuilder
from mcc.lower.tensorflow.converter import convert
from mcc.lower.tensorflow.functions import functions
from tests.quant.graphs import case_graph, quantise


class _AnyModule:
    """Stands for `tensorflow` while functions are only listed: every attribute is a function."""

    def __getattr__(self, name: str) -> _AnyModule:
        return self

    def __call__(self, *args: object, **options: object) -> _AnyModule:
        return self


def test_every_row_has_a_function() -> None:
    assert set(functions(_AnyModule())) == set(table.TABLE) - {"fake_quantize"}


def test_quantised_graphs_and_a_missing_library_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = case_graph("conv1x1")
    with pytest.raises(UnsupportedError, match="would not keep the trained scales"):
        convert(quantise(graph, torch.randn(2, 8, 9, 9)))
    b = GraphBuilder()
    x = b.input("x", (1, 4))
    with pytest.raises(UnsupportedError, match="does not keep the order of 2 outputs"):
        convert(b.finish(b.relu(x), b.abs(x)))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        TargetError, match=r'TensorFlow is not installed; .* -m pip install -e ".*\[tensorflow\]"'
    ):
        convert(graph)

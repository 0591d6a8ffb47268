"""Every construct comes through with the same numbers, at other batches, and as text and back."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_flatten

from mcc.frontend import capture
from mcc.ir.graph import inputs, run
from mcc.ir.notes import note, shape_of
from mcc.ir.text import parse_graph, print_graph, text_constants
from mcc.verify import check_shapes, check_structure
from tests.frontend.constructs import ALL, trained


@pytest.mark.parametrize("name", list(ALL))
def test_construct(name: str) -> None:
    factory, shape = ALL[name]
    module = trained(factory()).eval()
    graph = capture(module, (torch.zeros(shape),))
    x = torch.randn(3, *shape[1:])
    with torch.no_grad():
        expected = [value for value in tree_flatten(module(x.clone()))[0] if value is not None]
    got = run(graph, x)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    check_structure(graph)
    check_shapes(graph)
    text = print_graph(graph)
    assert print_graph(parse_graph(text, text_constants(graph))) == text
    assert [shape_of(node) for node in inputs(graph)] == [(1, *shape[1:])]
    assert all(note(node).origin for node in graph.graph.nodes if node.op != "output")

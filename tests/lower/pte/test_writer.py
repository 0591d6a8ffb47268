"""What a `.pte` program holds, what is refused, and the route through ExecuTorch's own exporter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mcc.errors import UnsupportedError, UsageError
from mcc.ir.graph import GraphBuilder, run
from mcc.lower.pte.program import read_answers
from mcc.lower.pte.writer import to_pte, write_pte
from mcc.lower.tflite.metadata import Normalisation
from mcc.quant.simulator import Simulator
from tests.lower.pte.running import delegates, infer, nodes, program, steps_between
from tests.quant.graphs import case_graph, mobile_net, quantise


def test_constant_methods_answer_labels_and_normalisation() -> None:
    raw = to_pte(
        case_graph("linear"),
        labels=["cat", "köter"],
        normalisation=Normalisation((1.0, 2.5, 3.0), (3.0, 4.0, 5.0)),
    )
    answers = read_answers(raw)
    assert json.loads(str(answers["labels"])) == ["cat", "köter"]
    loaded = program(raw)
    assert loaded.run_method("labels") == [answers["labels"]]
    assert answers["normalisation_mean"] == [1.0, 2.5, 3.0]
    assert answers["normalisation_deviation"] == [3.0, 4.0, 5.0]


def test_values_returned_twice_or_unchanged() -> None:
    b = GraphBuilder()
    x, c = b.input("x", (1, 3, 4, 5)), b.constant("c", torch.arange(6.0).reshape(1, 6))
    y = b.relu(x)
    graph, value = b.finish(x, y, y, c), torch.randn(1, 3, 4, 5)
    for got, expected in zip(infer(to_pte(graph), value), run(graph, value), strict=True):
        assert np.array_equal(got, expected.detach().numpy())


def test_padding_is_left_to_the_convolution() -> None:
    kinds = nodes(to_pte(mobile_net()))
    assert kinds.count("XNNStaticTranspose") == 1  # the image, from PyTorch's order to XNNPACK's
    assert not {"XNNConvert", "XNNClamp"} & set(kinds)


def test_equal_calls_give_equal_bytes() -> None:
    graph = mobile_net()
    assert to_pte(graph) == to_pte(graph)


def test_int8_interface_has_no_conversions() -> None:
    x = torch.rand(4, 3, 32, 32)
    kinds = nodes(to_pte(quantise(mobile_net(), x), io="int8"))
    assert not {"XNNConvert", "XNNStaticTranspose"} & set(kinds)


def test_refusals_name_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="via='hope'"):
        to_pte(case_graph("linear"), via="hope")  # type: ignore[arg-type]
    b = GraphBuilder()
    x = b.input("x", (1, 2, 8, 8))
    graph = b.finish(b.max_pool2d(x, kernel=(1, 1), stride=(2, 2), name="thin"))
    with pytest.raises(
        UnsupportedError, match=r"^thin: MAX_POOL_2D has windows of one element with a stride"
    ):
        write_pte(graph, tmp_path / "x.pte", via="direct")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_the_delegate_lacks_goes_through_the_exporter() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 2, 8, 8))
    y = b.max_pool2d(x, kernel=(1, 1), stride=(2, 2))
    graph, value = (
        b.finish(b.conv2d(y, b.constant("w", torch.randn(4, 2, 1, 1)), None)),
        torch.randn(2, 2, 8, 8),
    )
    np.testing.assert_allclose(infer(to_pte(graph), value)[0], run(graph, value)[0].numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv3x3", "depthwise", "transposed", "linear_rank3", "add", "gelu"])
def test_the_exporter_agrees_with_the_writer(name: str) -> None:
    """ExecuTorch's own exporter and partitioner, one delegate, float and int8: the independent route."""
    from tests.quant.graphs import CASES

    x = torch.randn(3, *CASES[name][1][1:]) * 2
    graph = case_graph(name)
    raw = to_pte(graph, via="export")
    assert delegates(raw) == 1
    np.testing.assert_allclose(infer(raw, x)[0], infer(to_pte(graph), x)[0], atol=1e-5)
    graph = quantise(graph, x)
    raw = to_pte(graph, via="export")
    assert delegates(raw) == 1
    steps = steps_between(graph, infer(raw, x)[0], Simulator(graph, "executorch").run(x)[0].numpy())
    assert (steps > 0).mean() <= 0.005
    assert steps.max() <= 1


@pytest.mark.slow
def test_the_exporter_makes_one_delegate_of_a_network() -> None:
    x = torch.rand(30, 3, 32, 32) * 2 - 1
    graph = quantise(mobile_net(), x[:16])
    raw = to_pte(graph, via="export")
    assert delegates(raw) == 1
    simulated = Simulator(graph, "executorch").run(x)[0].numpy()
    assert (infer(raw, x)[0].argmax(1) == simulated.argmax(1)).mean() >= 0.995

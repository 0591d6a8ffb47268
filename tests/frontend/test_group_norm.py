"""Group normalisation in the spellings of exporters: found, pruned, and told from other functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mcc.errors import VerificationError
from mcc.frontend import capture, group_norm, load_model
from mcc.ir.graph import Graph, calls, run
from mcc.ir.notes import shape_of
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline
from tests.frontend.constructs import Of, trained

SHAPE = (1, 3, 6, 5)


def network(groups: int = 4, affine: bool = True, after: nn.Module | None = None) -> nn.Module:
    norm = nn.GroupNorm(groups, 16, affine=affine)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm, after or nn.ReLU(), nn.Conv2d(16, 5, 1))
    return trained(net).eval()


def exported(module: nn.Module, path: Path) -> Graph:
    """By the exporter that writes Reshape, InstanceNormalization, Reshape, Mul and Add."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is on its way out
        torch.onnx.export(
            module, (torch.zeros(SHAPE),), str(path / "net.onnx"), dynamo=False, opset_version=17
        )
    return load_model(str(path / "net.onnx")).graph


@pytest.mark.parametrize(("groups", "affine"), [(4, True), (4, False), (1, True), (16, True)])
def test_found_in_onnx_files(groups: int, affine: bool, tmp_path: Path) -> None:
    module = network(groups, affine)
    graph = exported(module, tmp_path)
    (norm,) = calls(graph, "group_norm")
    assert norm.kwargs["groups"] == groups
    assert not calls(graph, "reshape", "mul", "add")
    x = torch.randn(2, *SHAPE[1:])
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x)[0], module(x), rtol=1e-4, atol=1e-5)


def test_pruned_as_from_torch(tmp_path: Path) -> None:
    widths: list[list[int]] = []
    for graph in (exported(network(), tmp_path), capture(network(), (torch.zeros(SHAPE),))):
        result = Pipeline.parse("prune-channels{keep=0.5}").run(graph, PassContext())
        widths.append([shape_of(node)[1] for node in calls(result.graph, "conv2d")])
        assert result.reports[0].counts["channels removed"] == 8
        assert result.reports[0].counts["of channels"] == 16
    assert widths == [[8, 5]] * 2


def _shuffled(s: nn.Module, x: Tensor) -> Tensor:
    """Normalises pairs of rows, and returns them as channels."""
    y = nn.functional.instance_norm(x.transpose(1, 2).reshape(x.shape[0], 3, -1))
    return y.reshape(x.shape[0], 3, 6, 5)


def test_what_is_another_function_stays_spelled_out() -> None:
    graph = capture(Of(_shuffled), (torch.zeros(SHAPE),))
    assert calls(graph, "reshape")
    x = torch.randn(2, *SHAPE[1:])
    torch.testing.assert_close(run(graph, x)[0], _shuffled(nn.Identity(), x), rtol=1e-4, atol=1e-5)


def test_forgotten_factors_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = group_norm._scaled_by

    def wrong(graph: Graph, value: object, op: str, shape: tuple[int, ...]) -> object:
        last, numbers = right(graph, value, op, shape)  # pyright: ignore[reportArgumentType]
        return last, None if numbers is None else numbers * 1.01

    monkeypatch.setattr(group_norm, "_scaled_by", wrong)
    with pytest.raises(VerificationError, match="differs from onnxruntime"):
        exported(network(), tmp_path)

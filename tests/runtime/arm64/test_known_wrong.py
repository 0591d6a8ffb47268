"""What LiteRT 2.3 does wrong on ARM64, silently or not, is noticed; what is right passes the same checks."""

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mcc.cli import main
from mcc.compress.build import Structure
from mcc.compress.outcome import Outcome
from mcc.compress.report_builder import check_file
from mcc.data import load_data, load_task
from mcc.errors import TargetError, VerificationError
from mcc.ir.graph import Graph, inputs, outputs, run
from mcc.ir.notes import shape_of
from mcc.ir.storage import save_graph
from mcc.lower.tflite import lowering
from mcc.lower.tflite.writer import write_tflite
from mcc.report.compare import Comparison, compare_outputs
from mcc.report.kernels import against_reference, sparse_kernels
from mcc.report.measure import run_file
from mcc.runtime import get_target
from mcc.runtime.litert_arm64_sim import LiteRtArm64Sim
from tests.runtime.arm64 import networks

TARGET = LiteRtArm64Sim()


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the lowering write what it knows that runtimes misread."""
    known = lowering.find_sparse_cluster

    def find(graph: Graph) -> object:
        return dataclasses.replace(known(graph), misread=False)

    monkeypatch.setattr(lowering, "find_sparse_cluster", find)


def compared(graph: Graph, file: Path) -> tuple[Comparison, Comparison]:
    """The file on the target against torch, and against the target's reference kernels."""
    x = torch.randn((2, *shape_of(inputs(graph)[0])[1:]), generator=torch.Generator().manual_seed(3))
    shapes = [shape_of(node) for node in outputs(graph)]
    got = run_file(TARGET, file, [x.numpy()], shapes)
    slow = against_reference(TARGET, file, [x.numpy()], shapes, got)
    assert slow is not None
    return compare_outputs(got, [run(graph, x)[0].numpy()], integer=False), slow


@pytest.mark.slow
def test_a_network_that_the_sparse_path_takes_is_right_and_its_kernels_are_counted(tmp_path: Path) -> None:
    graph = networks.eligible()
    file = write_tflite(graph, tmp_path / "eligible.tflite")
    against_torch, slow = compared(graph, file)
    assert against_torch.passed
    assert slow.passed
    found = sparse_kernels(TARGET, file)
    assert found is not None
    assert (found.meant, found.ran) == (2, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("unguarded")
def test_a_sparse_prefix_before_another_operator_is_silently_wrong_and_noticed(tmp_path: Path) -> None:
    graph = networks.interrupted()
    file = write_tflite(graph, tmp_path / "interrupted.tflite")
    against_torch, slow = compared(graph, file)
    assert not against_torch.passed
    assert not slow.passed
    assert slow.worst is not None
    assert slow.worst > 0.05
    found = sparse_kernels(TARGET, file)
    assert found is not None
    assert not found.passed


@pytest.mark.usefixtures("unguarded")
def test_the_same_file_is_right_on_this_machine(tmp_path: Path) -> None:
    """So that no check here can stand for one on ARM64."""
    graph = networks.interrupted()
    file = write_tflite(graph, tmp_path / "interrupted.tflite")
    x = torch.randn((2, *shape_of(inputs(graph)[0])[1:]))
    got = run_file(get_target("litert-host"), file, [x.numpy()], [shape_of(node) for node in outputs(graph)])
    assert compare_outputs(got, [run(graph, x)[0].numpy()], integer=False).passed


@pytest.mark.slow
@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("interrupted", r"interrupted\.tflite: is not what its graph computes"),
        ("not_started", r"does not run as planned: 0 sparse kernels ran, for 1 sparse weights"),
        ("eligible", None),
    ],
)
def test_the_main_job_delivers_no_such_file(name: str, said: str | None, tmp_path: Path) -> None:
    graph = getattr(networks, name)()
    file = write_tflite(graph, tmp_path / f"{name}.tflite")
    job: Any = SimpleNamespace(
        data=load_data("digits"), target=TARGET, request=SimpleNamespace(threads=1), task=load_task()
    )
    outcome = Outcome("joint", Structure(), graph, file)
    if said is None:
        assert set(check_file(job, outcome)) == {"graph in torch", "reference kernels", "sparse kernels"}
        return
    with pytest.raises(VerificationError, match=said):
        check_file(job, outcome)


def test_the_lowering_writes_no_such_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    graph = networks.interrupted()
    with caplog.at_level(logging.WARNING):
        file = write_tflite(graph, tmp_path / "interrupted.tflite")
    assert "stored dense" in caplog.text
    assert all(comparison.passed for comparison in compared(graph, file))
    assert sparse_kernels(TARGET, file) is None


@pytest.mark.usefixtures("unguarded")
def test_a_convolution_behind_the_pool_fails_loudly(tmp_path: Path) -> None:
    file = write_tflite(networks.convolution_head(), tmp_path / "head.tflite")
    with pytest.raises(
        TargetError, match=r"head\.tflite: the ARM64 runner ended with status 1 \(ERROR: .*runner:"
    ):
        TARGET.counts([file])
    with TARGET.reference_session(file) as session:
        assert np.isfinite(session.run_many(np.zeros((1, 32, 32, 3), np.float32))).all()


def test_sparse_weights_that_run_dense_are_noticed(tmp_path: Path) -> None:
    graph = networks.not_started()
    file = write_tflite(graph, tmp_path / "not_started.tflite")
    assert all(comparison.passed for comparison in compared(graph, file))
    found = sparse_kernels(TARGET, file)
    assert found is not None
    assert (found.meant, found.ran, found.passed) == (1, 0, False)


@pytest.mark.slow
@pytest.mark.usefixtures("unguarded")
def test_mcc_verify_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = {}
    for name in ("eligible", "interrupted"):
        graph = getattr(networks, name)()
        save_graph(graph, tmp_path / f"{name}.mcc")
        write_tflite(graph, tmp_path / f"{name}.tflite")
        files = [str(tmp_path / f"{name}.mcc"), str(tmp_path / f"{name}.tflite")]
        verdicts[name] = main.run(
            ["verify", *files, "--target", "litert-arm64-sim", "--count", "2", "--json"]
        )
        shown = json.loads(capsys.readouterr().out)
        assert shown["passed"] == shown["reference_kernels"]["passed"] == (name == "eligible")
        assert shown["sparse_kernels"]["meant"] == 2 + (name == "interrupted")
    assert verdicts == {"eligible": 0, "interrupted": 1}

"""The fine-tuning as a whole: it recovers, keeps what it must, and goes on to the bit after a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mcc.data import DataModule
from mcc.errors import MccError, NotFiniteError
from mcc.finetune import (
    FineTuneProgress,
    FineTuneResult,
    FineTuneSettings,
    SparsityRamp,
    fine_tune,
    fine_tune_candidate,
    trainer,
)
from mcc.ir.graph import Graph, calls, constant, copy_graph, op_name
from mcc.ir.notes import SparseNote, annotate
from mcc.ir.storage import load_graph, save_graph
from mcc.ir.text import print_graph
from mcc.pass_api import PassContext, apply_pass
from mcc.pipeline import Pipeline
from mcc.quant.regions import integer_nodes
from passes.sparsify_1x1 import Sparsify1x1
from tests.finetune import networks
from tests.finetune.networks import TASK, accuracy, same

SHORT = FineTuneSettings(
    images=32 * 12,
    batch_size=32,
    norm_images=64,
    calibration_images=64,
    checkpoint_seconds=0,
    arithmetic="float32",
)


@pytest.fixture(scope="module", autouse=True)
def _no_waiting() -> Iterator[None]:
    """Whatever else is measured on this machine, tests go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "wait_while_measuring", lambda _: 0.0)
        yield


@pytest.fixture(scope="module")
def data() -> DataModule:
    return networks.digits()


@pytest.fixture(scope="module")
def teacher(data: DataModule) -> Graph:
    return networks.trained(data)


def damaged(teacher: Graph) -> Graph:
    """Every weight of the expansions and projections moved by half its layer's deviation."""
    graph = copy_graph(teacher)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in ("wide_w", "thin_w", "wide2_w", "thin2_w", "last_w"):
            weight = constant(graph, name)
            weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * 0.8)
    return graph


def test_a_damaged_network_is_repaired_and_nothing_that_was_given_changes(
    data: DataModule, teacher: Graph
) -> None:
    student = damaged(teacher)
    text, before, given = print_graph(student), copy_graph(student), copy_graph(teacher)
    result = fine_tune(
        student, teacher, data, TASK, dataclasses.replace(SHORT, images=3000, learning_rate=0.4)
    )
    lost, left = (accuracy(teacher, data) - accuracy(g, data) for g in (student, result.graph))
    assert lost > 0.1
    assert left < lost / 3
    assert same(student, before)
    assert same(teacher, given)
    assert print_graph(result.graph) == text
    assert result.first_loss is not None
    assert result.last_loss is not None
    assert result.last_loss < result.first_loss / 2
    assert (result.phase, result.steps, result.arithmetic) == ("float", 94, "float32")


@pytest.mark.slow
def test_candidates_end_quantised_and_accurate(data: DataModule, teacher: Graph) -> None:
    student = damaged(teacher)
    settings = dataclasses.replace(SHORT, images=4000, learning_rate=0.4, float_share=0.75)
    result = fine_tune_candidate(student, teacher, data, TASK, settings, quantise=True)
    operators = [node for node in calls(result.graph) if op_name(node) != "fake_quantize"]
    assert set(integer_nodes(result.graph)) == set(operators)
    assert not calls(result.graph, "batch_norm")
    assert calls(result.trained, "batch_norm")
    assert [phase.phase for phase in result.phases] == ["float", "quantised"]
    assert 4000 <= sum(phase.images for phase in result.phases) < 4000 + 2 * settings.batch_size
    assert accuracy(result.graph, data) > accuracy(teacher, data) - 0.05
    scales = [name for name, _ in result.graph.named_parameters() if name.endswith("_scale")]
    assert not scales, "scales are buffers again"


def test_without_images_only_statistics_and_ranges_are_made(data: DataModule, teacher: Graph) -> None:
    settings = dataclasses.replace(SHORT, images=0)
    result = fine_tune_candidate(teacher, teacher, data, TASK, settings, quantise=True)
    assert torch.equal(constant(result.trained, "stem_w"), constant(teacher, "stem_w"))
    assert not torch.equal(constant(result.trained, "stem_mean"), constant(teacher, "stem_mean"))
    assert all(phase.first_loss is None for phase in result.phases)
    assert accuracy(result.graph, data) > accuracy(teacher, data) - 0.05
    plain = fine_tune_candidate(teacher, None, data, TASK, settings, quantise=False)
    assert not calls(plain.graph, "fake_quantize", "batch_norm")
    assert len(plain.phases) == 1


def test_zeros_survive_both_phases(data: DataModule, teacher: Graph) -> None:
    graph = apply_pass(Sparsify1x1(sparsity=0.75), teacher, PassContext())
    result = fine_tune_candidate(graph, teacher, data, TASK, SHORT, quantise=True)
    for name in ("wide_w", "thin_w", "last_w"):
        kept = constant(graph, name) != 0
        for after in (result.trained, result.graph):
            assert torch.equal(constant(after, name) != 0, kept)
        assert not torch.equal(constant(result.trained, name), constant(graph, name))


def test_a_ramp_reaches_its_target(data: DataModule, teacher: Graph) -> None:
    graph = copy_graph(teacher)
    for node in calls(graph, "conv2d"):
        if node.name == "wide":
            annotate(node, sparse=SparseNote(1, 0.8))
    settings = dataclasses.replace(SHORT, sparsity_ramp=SparsityRamp(every=2))
    result = fine_tune_candidate(graph, teacher, data, TASK, settings, quantise=False)
    assert float((constant(result.graph, "wide_w") == 0).double().mean()) == pytest.approx(0.8, abs=0.01)
    checked = apply_pass(Sparsify1x1(), result.trained, PassContext())
    Sparsify1x1().ensures(checked)
    assert same(checked, result.trained)


def test_learned_scales_move_and_frozen_ones_do_not(data: DataModule, teacher: Graph) -> None:
    quantised = fine_tune_candidate(
        teacher, None, data, TASK, dataclasses.replace(SHORT, images=0), quantise=True
    ).graph
    frozen = fine_tune(quantised, teacher, data, TASK, SHORT).graph
    learned = fine_tune(
        quantised, teacher, data, TASK, dataclasses.replace(SHORT, activation_scales="learned")
    ).graph
    name = "wide2_scale"
    assert torch.equal(constant(frozen, name), constant(quantised, name))
    assert not torch.equal(constant(learned, name), constant(quantised, name))
    assert torch.equal(constant(learned, "x_scale"), constant(quantised, "x_scale"))
    assert name in dict(learned.named_buffers())
    assert not torch.equal(constant(frozen, "wide2_w_scale"), constant(quantised, "wide2_w_scale"))


# -- resumption ---------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill."""


def interrupted(
    at: int, graph: Graph, teacher: Graph, data: DataModule, settings: FineTuneSettings, folder: Path
) -> FineTuneResult:
    """Fine-tuning, killed after a step, and again."""

    def kill(progress: FineTuneProgress) -> None:
        if progress.step == at:
            raise Killed

    with pytest.raises(Killed):
        fine_tune(graph, teacher, data, TASK, settings, state_dir=folder, progress=kill)
    return fine_tune(graph, teacher, data, TASK, settings, state_dir=folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "sparse", "ramp", "quantised", "learned"])
def test_a_killed_run_goes_on_to_the_bit(kind: str, data: DataModule, teacher: Graph, tmp_path: Path) -> None:
    graph, settings = damaged(teacher), SHORT
    if kind in ("sparse", "ramp"):
        graph = apply_pass(Sparsify1x1(sparsity=0.5), graph, PassContext())
    if kind == "ramp":
        settings = dataclasses.replace(settings, sparsity_ramp=SparsityRamp(every=3))
        graph = Pipeline.parse("sparsify-1x1").run(graph).graph
        for node in calls(graph, "conv2d"):
            if node.name == "last":
                annotate(node, sparse=SparseNote(1, 0.9))
    if kind in ("quantised", "learned"):
        nothing = dataclasses.replace(settings, images=0)
        graph = fine_tune_candidate(graph, None, data, TASK, nothing, quantise=True).graph
    if kind == "learned":
        settings = dataclasses.replace(settings, activation_scales="learned")
    whole = fine_tune(graph, teacher, data, TASK, settings).graph
    at = int(np.random.default_rng(len(kind)).integers(1, settings.steps))
    again = interrupted(at, graph, teacher, data, settings, tmp_path)
    assert same(again.graph, whole)
    assert not same(again.graph, graph)
    assert fine_tune(graph, teacher, data, TASK, settings, state_dir=tmp_path).first_loss is None, "was done"


def test_a_checkpoint_of_other_settings_is_left_alone(
    data: DataModule, teacher: Graph, tmp_path: Path
) -> None:
    fine_tune(teacher, None, data, TASK, SHORT, state_dir=tmp_path)
    other = dataclasses.replace(SHORT, seed=5)
    assert same(
        fine_tune(teacher, None, data, TASK, other, state_dir=tmp_path).graph,
        fine_tune(teacher, None, data, TASK, other).graph,
    )


PROGRAM = """
import sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from mcc.ir.storage import load_graph, save_graph
from mcc.finetune import fine_tune_candidate
from tests.finetune import networks
from tests.finetune.test_fine_tune import SHORT
folder = Path(sys.argv[1])
graph = load_graph(folder / "student.mcc")
result = fine_tune_candidate(
    graph, load_graph(folder / "teacher.mcc"), networks.digits(), networks.TASK, SHORT, quantise=True,
    state_dir=folder / "state", progress=lambda p: print(p.phase, p.step, flush=True),
)
save_graph(result.graph, folder / "result.mcc")
"""


@pytest.mark.slow
@pytest.mark.parametrize("word", ["float 4", "quantised 2"])
def test_a_process_killed_by_the_system_goes_on_to_the_bit(
    word: str, data: DataModule, teacher: Graph, tmp_path: Path
) -> None:
    student = damaged(teacher)
    save_graph(student, tmp_path / "student.mcc")
    save_graph(teacher, tmp_path / "teacher.mcc")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # no lock of others' measurements to wait for
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == word:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True, cwd=root, env=environment)
    whole = fine_tune_candidate(student, teacher, data, TASK, SHORT, quantise=True).graph
    assert same(load_graph(tmp_path / "result.mcc"), whole)


# -- what goes wrong, and what is told -----------------------------------------------------------------------


def test_progress_tells_what_is_left(data: DataModule, teacher: Graph) -> None:
    seen: list[FineTuneProgress] = []
    fine_tune(teacher, None, data, TASK, SHORT, progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 13))
    assert seen[-1].remaining_s == 0
    assert all(p.images_per_second > 0 and p.steps == 12 for p in seen)


def test_a_loss_that_is_not_finite_stops_with_a_sentence(data: DataModule, teacher: Graph) -> None:
    graph = copy_graph(teacher)
    with torch.no_grad():
        constant(graph, "head_b").fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="the loss is nan in step 0"):
        fine_tune(graph, None, data, TASK, SHORT)


def test_a_state_folder_that_cannot_be_written_is_named(
    data: DataModule, teacher: Graph, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(MccError, match="file"):
        fine_tune(teacher, None, data, TASK, SHORT, state_dir=blocked)

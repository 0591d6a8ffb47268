"""Figures of files taken in a runtime: layouts, accuracy, numbers against the graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mcc.data import load_data, load_task
from mcc.errors import DataError, UsageError
from mcc.ir.diff import diff_views, view_graph
from mcc.ir.graph import Graph, GraphBuilder, outputs, run
from mcc.ir.notes import shape_of
from mcc.lower.formats import get_format
from mcc.lower.onnx.writer import to_onnx
from mcc.lower.tflite.writer import to_tflite
from mcc.quant.simulator import simulate
from mcc.report.compare import compare_outputs
from mcc.report.judge import COMPARED, evaluate_file
from mcc.report.measure import as_graph, as_stored, run_file, taken_shapes
from mcc.report.tflite_views import view_tflite
from mcc.runtime.litert_host import LiteRtHost
from mcc.runtime.registry import get_target
from mcc.runtime.session import Session, TensorInfo
from mcc.runtime.target import Target
from tests.report.networks import classifier

LITERT, ORT = get_target("litert-host"), get_target("ort-host")


def lowered(graph: Graph, folder: Path, kind: str) -> Path:
    """The graph in a file."""
    path = folder / f"model.{kind}"
    path.write_bytes(to_tflite(graph) if kind == "tflite" else to_onnx(graph))
    return path


def info(*shape: int) -> TensorInfo:
    return TensorInfo("x", shape, "float32")


def test_layouts() -> None:
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert as_stored(images, info(1, 4, 5, 3)).shape == (2, 4, 5, 3)
    assert as_stored(images, info(1, 4, 5, 3))[1, 2, 3, 1] == images[1, 1, 2, 3]
    assert np.array_equal(as_stored(images, info(1, 3, 4, 5)), images)
    assert np.array_equal(as_graph(np.moveaxis(images, 1, -1), (1, 3, 4, 5)), images)
    assert as_graph(images[:, 0, 0], (1, 5)) is not None
    with pytest.raises(UsageError, match="the images are"):
        as_stored(images, info(1, 8, 8, 3))
    with pytest.raises(UsageError, match="where the model returns"):
        as_graph(images, (1, 10))


@pytest.mark.parametrize("name", ["litert-host", "ort-host", "executorch-host"])
def test_images_as_wide_and_as_high_as_they_have_channels(tmp_path: Path, name: str) -> None:
    """Their shape does not tell how a file holds them; its kind does."""
    found = get_target(name)
    b = GraphBuilder()
    x = b.input("x", (1, 4, 4, 4))
    graph = b.finish(b.add(x, b.constant("c", torch.arange(64.0).reshape(1, 4, 4, 4)), name="sum"))
    path = tmp_path / f"model.{found.format}"
    path.write_bytes(get_format(found.format).lower(graph))
    values = np.random.default_rng(0).standard_normal((3, 4, 4, 4)).astype(np.float32)
    (made,) = run_file(found, path, [values], [(1, 4, 4, 4)])
    assert np.allclose(made, run(graph, torch.from_numpy(values))[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("target", "kind"), [(LITERT, "tflite"), (ORT, "onnx")], ids=["litert", "ort"])
def test_a_file_gives_the_numbers_and_the_accuracy_of_its_graph(
    tmp_path: Path, target: object, kind: str
) -> None:
    found = LITERT if kind == "tflite" else ORT
    graph = classifier()
    path = lowered(graph, tmp_path, kind)
    with found.session(path) as session:
        assert taken_shapes(session) == (3, 32, 32)
    data = load_data("digits", input_shape=(1, 3, 32, 32))
    batch = next(data.batches("validation", 100))
    reference = [run(graph, torch.from_numpy(batch.inputs))[0].numpy()]
    made = run_file(found, path, [batch.inputs], [shape_of(node) for node in outputs(graph)])
    assert compare_outputs(made, reference, integer=False).passed
    seen: list[tuple[int, int]] = []
    score = evaluate_file(
        found, path, data, "validation", limit=100, progress=lambda done, total: seen.append((done, total))
    )
    task = load_task(data.task)
    assert score.value == task.summarise(task.measure(reference, batch.targets)).value
    assert score.count == 100
    assert seen[-1] == (100, 100)


def test_a_quantised_file_equals_the_simulator_and_a_planted_fault_is_found(tmp_path: Path) -> None:
    graph = classifier(quantised=True)
    path = lowered(graph, tmp_path, "tflite")
    values = np.random.default_rng(0).standard_normal((64, 3, 32, 32)).astype(np.float32)
    reference = [simulate(graph, [torch.from_numpy(values)])[0].numpy()]
    made = run_file(LITERT, path, [values], [(1, 10)])
    result = compare_outputs(made, reference, integer=True)
    assert result.passed
    assert result.equal == 1
    with torch.no_grad():
        graph.get_parameter("head_weight")[3] += 0.5
    wrong = [simulate(graph, [torch.from_numpy(values)])[0].numpy()]
    assert not compare_outputs(made, wrong, integer=True).passed


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = lowered(classifier(), tmp_path, "tflite")
    image = np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(UsageError, match="has 1 inputs and 1 outputs; the model has 2"):
        run_file(LITERT, path, [image, image], [(1, 10)])
    with pytest.raises(UsageError, match="where the model returns"):
        run_file(LITERT, path, [image], [(1, 12)])
    with pytest.raises(UsageError, match="the images are"):
        run_file(LITERT, path, [image[:, :, :16]], [(1, 10)])


def test_a_file_whose_outputs_are_no_classes_is_not_evaluated(tmp_path: Path) -> None:
    """A detector of somebody else's, say."""
    b = GraphBuilder()
    path = lowered(b.finish(b.relu(b.input("x", (1, 3, 32, 32)))), tmp_path, "tflite")
    said = r"has 10 classes, and no output .* has a score for each \(0: relu \[1, 3, 32, 32\]\)"
    with pytest.raises(DataError, match=said):
        evaluate_file(LITERT, path, load_data("digits", input_shape=(1, 3, 32, 32)))


class Host(LiteRtHost):
    """LiteRT on this machine, which notes its sessions, and may run another file than it was given."""

    def __init__(self, option: str | None = None, instead: Path | None = None) -> None:
        super().__init__(option)
        self.instead = instead
        self.opened = 0

    def session(self, file: Path | str, threads: int = 1) -> Session:
        self.opened += 1
        return super().session(self.instead or file, threads)


class Slow(Host):
    """The same with a quicker target beside it."""

    other: Host | None = None

    def quicker(self) -> Target | None:
        return self.other


def test_a_quicker_target_takes_over_only_where_it_gives_the_same(tmp_path: Path) -> None:
    graph = classifier()
    path = lowered(graph, tmp_path, "tflite")
    with torch.no_grad():
        graph.get_parameter("head_weight")[3] += 0.5
    (tmp_path / "other").mkdir()
    another = lowered(graph, tmp_path / "other", "tflite")
    data = load_data("digits", input_shape=(1, 3, 32, 32))
    right = evaluate_file(LITERT, path, data, "validation", limit=100)
    assert evaluate_file(LITERT, another, data, "validation", limit=100) != right
    for instead, slow, quick in ((None, 1, 2), (another, 2, 1)):
        target = Slow()
        target.other = Host(instead=instead)
        assert evaluate_file(target, path, data, "validation", limit=100) == right
        assert (target.opened, target.other.opened) == (slow, quick)
    target = Slow()
    target.other = Host()
    evaluate_file(target, path, data, "validation", limit=COMPARED)  # nothing to be gained
    assert (target.opened, target.other.opened) == (1, 0)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_file_is_viewed_as_its_graph_is(tmp_path: Path, quantised: bool) -> None:
    graph = classifier(quantised=quantised)
    views = view_tflite(lowered(graph, tmp_path, "tflite"))
    diff = diff_views(view_graph(graph), views, attributes=False)
    assert diff.counts()["removed"] == 0, diff.to_text()
    changed = {e.b.name: {c.kind for c in e.changes} for e in diff.entries if e.b and e.changes}
    # LiteRT's mean keeps the axes and a reshape drops them; padding of unequal strides is an operator.
    assert changed.pop("pool") >= {"rewritten"}
    assert changed.pop("stem") == {"rewired"}
    if quantised:  # the file takes float images and quantises them itself
        assert changed.pop("x") == {"requantised"}
    assert changed == {}, diff.to_text()

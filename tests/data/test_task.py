import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mcc.data import load_task, task_names
from mcc.data.classification import Classification
from mcc.data.outputs import Output
from mcc.errors import DataError, UsageError
from tests.data.samples import module

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 1.0, 2.0], [0.0, 0.0, 9.0]], np.float32)
LABELS = np.array([0, 1, 2, 2])


def test_accuracy_by_hand() -> None:
    task = load_task("classification")
    statistics = task.measure([LOGITS], LABELS)
    assert statistics.tolist() == [1, 1, 0, 1]
    score = task.summarise(statistics)
    assert (score.metric, score.value, score.count) == ("accuracy", 0.75, 4)
    assert score.low < 0.75 < score.high
    assert str(score) == "accuracy 0.7500 (0.3006 to 0.9544, n=4)"


def test_a_logit_that_is_not_a_number_is_wrong() -> None:
    logits = LOGITS.copy()
    logits[0, 0] = np.nan  # numpy's greatest, and the right class
    logits[1, 2] = np.inf
    assert load_task().measure([logits], LABELS).tolist() == [0, 0, 0, 1]


def test_loss_by_hand() -> None:
    loss = load_task().loss([torch.tensor(LOGITS[:1])], torch.tensor([0]))
    expected = math.log(sum(math.exp(v) for v in (2, 1, 0))) - 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_distillation_by_hand() -> None:
    task = Classification(temperature=2.0, teacher_share=0.75)
    student, teacher = np.array([1.0, 0.0, -1.0]), np.array([0.0, 2.0, 1.0])

    def share(logits: np.ndarray, temperature: float) -> np.ndarray:
        powers = np.exp(logits / temperature)
        return powers / powers.sum()

    soft = (share(teacher, 2) * np.log(share(teacher, 2) / share(student, 2))).sum()
    expected = 0.25 * -np.log(share(student, 1)[2]) + 0.75 * 4 * soft
    outputs = [torch.tensor(student[None]), torch.zeros(1)]
    loss = task.distillation_loss(outputs, [torch.tensor(teacher[None])], torch.tensor([2]))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_it() -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    loss = Classification(teacher_share=1.0).distillation_loss([logits], [logits], torch.tensor(LABELS))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad is not None
    assert logits.grad.abs().max().item() < 1e-12


def test_agreement_and_words() -> None:
    task = load_task()
    other = LOGITS.copy()
    other[2] = [0, 1, 0]
    assert task.agreement([LOGITS], [other]).tolist() == [1, 1, 0, 1]
    first, *_ = task.postprocess([LOGITS], ("a", "b", "c"), top=2)
    assert first.labels == ("a", "b")
    assert first.shares[0] == pytest.approx(math.exp(2) / (math.exp(2) + math.exp(1) + 1))


def test_a_network_for_other_classes_is_refused() -> None:
    task = load_task()
    for shape in ((1, 3), (1, 3, 1, 1), (1, 1, 3)):
        assert task.bind([Output("y", shape)], module()).output == 0
    for shapes in ([(1, 1000)], [(1, 3, 4)], []):
        outputs = [Output("y", shape) for shape in shapes]
        with pytest.raises(
            DataError, match="has 3 classes, and no output of the network has a score for each"
        ):
            task.bind(outputs, module())


def test_values_that_cannot_be_are_refused() -> None:
    for fields in ({"temperature": 0.0}, {"teacher_share": 1.5}, {"label_smoothing": 1.0}):
        with pytest.raises(ValueError, match="has a value that cannot be"):
            Classification(**fields)


def test_tasks_are_found_by_their_file() -> None:
    assert task_names() == ("agreement", "classification", "detection", "segmentation")
    with pytest.raises(UsageError, match="there is agreement, classification, detection, segmentation"):
        load_task("pose")


NEWCOMER = '''
"""Brightness: whether the mean of an output is near its target."""
from dataclasses import dataclass
from mcc.data import Metric, Task

@dataclass(frozen=True)
class Brightness(Task):
    name: str = "brightness"
    metric: Metric = Metric("closeness")

    def loss(self, outputs, targets): return ((outputs[0].mean(1) - targets) ** 2).mean()
    def divergence(self, outputs, reference): return ((outputs[0] - reference[0]) ** 2).mean()
    def measure(self, outputs, targets): return 1 / (1 + abs(outputs[0].mean(1) - targets))
    def chance(self, statistics, targets, class_names, population): return None

class Nameless(Brightness):
    name: str = ""

TASK = Brightness()
NAMELESS = Nameless(name="")
LAME = object()

class Unlike:
    name, metric, loss, divergence, measure, chance = "unlike", 1, 1, 1, 1, 1

UNLIKE = Unlike()

def factory():
    return Brightness(metric=Metric("nearness"))

def broken():
    raise KeyError("no such thing")
'''


def test_a_newcomer_adds_a_task_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "brightness.py"
    file.write_text(NEWCOMER)
    task = load_task(f"{file}:TASK")
    score = task.summarise(task.measure([LOGITS], LABELS))
    assert (score.metric, score.count) == ("closeness", 4)
    assert score.low < score.value < score.high
    assert load_task(f"{file}:factory").metric.name == "nearness"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LAME", "lacks chance, divergence, loss, measure, metric, name"),
        ("UNLIKE", "is Unlike, which does not inherit from mcc.data.Task"),
        ("NAMELESS", "has no name"),
        ("broken", r"cannot be made \(KeyError: 'no such thing' \(brightness.py:\d+\)\)"),
    ],
)
def test_what_is_no_task_is_told_what_it_lacks(name: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "brightness.py"
    file.write_text(NEWCOMER)
    with pytest.raises(UsageError, match=said):
        load_task(f"{file}:{name}")

"""Which output is judged, and when a metric is no better than guessing."""

import numpy as np
import pytest

from mcc.data.classification import Classification
from mcc.data.outputs import Output, check_finite
from mcc.errors import DataError, NotFiniteError, UsageError
from tests.data.samples import module

CLASSES = 3


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (("aux", "logits"), 1),
        (("logits", "aux"), 0),
        (("features", "y"), 1),
        (("auxLogits", "x"), 1),
        (("aux_logits", "out"), 1),
        (("n_fc", "prediction"), 1),
        (("embedding", "hidden_state", "head"), 2),
    ],
)
def test_names_decide_between_outputs_of_one_shape(names: tuple[str, ...], place: int) -> None:
    outputs = [Output(name, (1, CLASSES)) for name in names]
    assert Classification().bind(outputs, module()).output == place


def test_shape_decides_before_names() -> None:
    outputs = [Output("logits", (1, 64)), Output("aux", (1, CLASSES))]
    assert Classification().bind(outputs, module()).output == 1


def test_the_user_decides_before_all() -> None:
    outputs = [Output("aux", (1, CLASSES)), Output("logits", (1, CLASSES)), Output("f", (1, 64))]
    for asked, place in (("aux", 0), ("0", 0), ("logits", 1)):
        assert Classification().bind(outputs, module(), asked).output == place
    with pytest.raises(UsageError, match="there is no output 'nope'"):
        Classification().bind(outputs, module(), "nope")
    with pytest.raises(UsageError, match="there is no output '3'"):
        Classification().bind(outputs, module(), "3")
    with pytest.raises(DataError, match="no output of the network has a score for each"):
        Classification().bind(outputs, module(), "f")


def test_a_tie_is_refused_and_says_how_to_decide() -> None:
    with pytest.raises(UsageError, match=r"2 outputs could be .*; say which with --judge, as --judge 0"):
        Classification().bind([Output("a", (1, CLASSES)), Output("b", (1, CLASSES))], module())


def test_every_member_reads_the_bound_output() -> None:
    task = Classification(output=1)
    first, second = np.eye(3, dtype=np.float32)[[0, 0, 0]], np.eye(3, dtype=np.float32)
    targets = np.arange(3)
    assert task.measure([first, second], targets).tolist() == [1, 1, 1]
    assert task.agreement([first, second], [second, first]).tolist() == [1, 0, 0]
    assert [p.labels[0] for p in task.postprocess([first, second], "abc")] == ["a", "b", "c"]


def chance(right: np.ndarray, targets: np.ndarray, classes: int = 10) -> str | None:
    names = [f"class {i}" for i in range(classes)]
    return Classification().chance(right.astype(np.float64), targets, names, targets)


def test_chance() -> None:
    targets = np.arange(2000) % 10
    generator = np.random.default_rng(0)
    assert chance(generator.random(2000) < 0.3, targets) is None
    assert "guessing among 10 classes gives 10.00 %" in str(chance(generator.random(2000) < 0.09, targets))
    assert "for it answers 'class 4' for every image" in str(chance(targets == 4, targets))
    assert "0.00 %" in str(chance(np.zeros(2000), targets))
    assert "do not tell from" in str(chance(np.arange(20) < 3, targets[:20]))


def test_the_most_frequent_class_is_no_skill() -> None:
    targets = (np.arange(500) % 50 == 0).astype(np.int64)  # 2 % rare
    assert "for it answers 'class 0' for every image" in str(chance(targets == 0, targets, 2))
    some = np.arange(500) % 49 != 0
    assert "always answering 'class 0' gives 98.00 %" in str(chance(some, targets, 2))
    assert chance(np.ones(500), targets, 2) is None


def test_values_that_are_not_finite() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        value = np.zeros((4, 3), np.float32)
        value[2, 1] = bad
        with pytest.raises(NotFiniteError, match=r"output 'logits' is .* for 1 of 4 images"):
            check_finite(value, "logits", "net.tflite")
    check_finite(np.zeros((4, 3), np.float32), "logits", "net.tflite")


def test_one_score_for_two_classes_is_refused_with_what_to_do() -> None:
    data = module(classes=2)
    with pytest.raises(DataError, match=r"one score for both .*torch\.cat"):
        Classification().bind([Output("y", (1, 1))], data)

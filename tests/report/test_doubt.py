"""What makes an accuracy doubtful is said, with what is likely; class names in another order are refused."""

from pathlib import Path

import pytest
import torch

from mcc.data.outputs import Output
from mcc.data.preprocessing import Preprocessing
from mcc.data.stated import Stated
from mcc.errors import DataError, UsageError
from mcc.report.doubt import Circumstances, chance_sentence, labels_warning, stated_by_model, zero_weights
from mcc.report.verdict import headline
from tests.report import examples

ASSUMED = Stated(Preprocessing(), "assumed: nothing states it, customary for digits", True)
NAMES = ("cat", "dog", "frog")
FILE = Path("net.tflite")


def test_likely_causes() -> None:
    zeros, count = zero_weights({"w": torch.zeros(2, 2), "v": torch.zeros(3, 3), "b": torch.ones(2)})
    assert (zeros, count) == (("w", "v"), 2)
    outputs = (Output("aux", (1, 10)), Output("logits", (1, 10)))
    known = Circumstances(ASSUMED, outputs, outputs[0], fresh=True, zeros=zeros, weights=count)
    said = chance_sentence("The original", "its accuracy is 9.75 %", known)
    assert said.startswith(
        "The original is not above chance: its accuracy is 9.75 %. Likely: all of its weights"
    )
    for cause in (
        "no --weights were given",
        "'aux' was judged",
        "the preprocessing was assumed",
        "another order",
    ):
        assert cause in said
    trained = Circumstances(Stated(Preprocessing(), "given: scale"), outputs[:1], outputs[0])
    said = chance_sentence("net.tflite", "it is so", trained)
    for cause in ("weights", "judged", "assumed"):
        assert cause not in said


def test_a_verdict_at_chance_claims_no_accuracy() -> None:
    report = examples.report()
    assert "not above chance" not in headline(report)
    doubtful = report.model_copy(update={"at_chance": True})
    assert "at no loss" not in headline(doubtful)
    assert "the original is not above chance" in headline(doubtful)


def test_class_names() -> None:
    for same in (NAMES, ("Cat", "DOG", "frog "), None, ()):
        assert labels_warning(FILE, same, NAMES) is None
    with pytest.raises(DataError, match="another order: 'dog' is its class 0, and that of the data is 'cat'"):
        labels_warning(FILE, ("dog", "cat", "frog"), NAMES)
    with pytest.raises(DataError, match="names 2 classes, and the data has 3"):
        labels_warning(FILE, ("cat", "dog"), NAMES)
    said = labels_warning(FILE, ("kitty", "dog", "frog"), NAMES)
    assert "'kitty' is its class 0, and that of the data is 'cat'" in str(said)
    for wrong in (("dog", "cat", "frog"), ("cat", "dog"), ("kitty", "dog", "frog")):
        assert labels_warning(FILE, wrong, NAMES, ignore=True) is None


def test_a_third_value_of_another_kind() -> None:
    with pytest.raises(UsageError, match="returns a str as third value"):
        stated_by_model("net.py:net", "imagenet")
    assert stated_by_model("net.py:net", None) is None

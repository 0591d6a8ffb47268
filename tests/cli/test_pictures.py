"""Kinds of networks whose accuracy is wrong unless somebody looks: each is right, said, or refused."""

import json
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.report.file_metadata import describe

SOURCE = '''
import numpy as np, torch
from torch import nn
from mcc.data import Preprocessing, from_arrays

def data(seed, preprocessing, input_shape):
    """Three classes: the colour that is brightest. Two thirds of it are no guess."""
    draw = np.random.default_rng(0)
    def part(count):
        labels = np.arange(count) % 3
        pixels = draw.integers(20, 60, (count, 3, 8, 8))
        pixels[np.arange(count), labels] += 140
        return pixels.astype(np.uint8), labels.astype(np.int64)
    return from_arrays(part(300), part(90), class_names=("red", "green", "blue"), preprocessing=preprocessing)

class Net(nn.Module):
    """Brightness of each colour, red favoured: right only for pixels in the range it was made for."""
    def __init__(self, scale=1.0, shift=0.0, answer=lambda y: y):
        super().__init__()
        self.colour = nn.Conv2d(3, 3, 1)
        self.colour.weight.data = torch.eye(3).view(3, 3, 1, 1) * scale
        self.colour.bias.data = torch.tensor([shift + 0.2, shift, shift])
        self.answer = answer
    def forward(self, x):
        return self.answer(self.colour(x).mean((2, 3)))

EX, UNIT = torch.zeros(1, 3, 8, 8), Preprocessing()
def good(): return Net(), EX, UNIT
def silent(): return Net(), EX
def bytes_(): return Net(1 / 255), EX
def symmetric(): return Net(0.5, 0.5), EX, Preprocessing((0.5,), (0.5,))
def bgr(): return Net(answer=lambda y: y.flip(1)), EX, UNIT
def dict_aux_first(): return Net(answer=lambda y: {"aux": -y, "logits": y}), EX, UNIT
def features_first(): return Net(answer=lambda y: (torch.cat((y, y), 1), y)), EX, UNIT
def tie(): return Net(answer=lambda y: (-y, y)), EX, UNIT
def wide(): return Net(answer=lambda y: y[:, :, None, None]), EX, UNIT
def zero():
    net = Net()
    for value in net.parameters(): value.data.zero_()
    return net, EX, UNIT
def single(): return Net(answer=lambda y: y[:, :1]), EX, UNIT
def infinite():
    net = Net()
    net.colour.weight.data *= 3e36  # finite for numbers near one, not for pixels
    return net, EX, Preprocessing(scale=1.0)
def text(): return Net(), EX, "imagenet"
def two(): return Net(), EX, Preprocessing((0.5, 0.5))
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the networks and their data in `nets.py`."""
    (tmp_path / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(capsys: pytest.CaptureFixture[str], model: str, *options: str) -> dict[str, object]:
    status = main.run(
        ["evaluate", model, "--target", "ort-host", "--data", "nets.py:data", "--json", *options]
    )
    out = capsys.readouterr()
    assert status == 0, out.err
    return json.loads(out.out)[0]


RIGHT = [
    ("good", ()),
    ("bytes_", ("--scale", "1")),
    ("symmetric", ()),
    ("good", ("--mean", "0", "--std", "1")),
    ("bgr", ("--channels", "bgr")),
    ("dict_aux_first", ()),
    ("features_first", ()),
    ("tie", ("--judge", "1")),
    ("wide", ()),
]


@pytest.mark.parametrize(("name", "options"), RIGHT)
def test_right(folder: Path, capsys: pytest.CaptureFixture[str], name: str, options: tuple[str, ...]) -> None:
    found = evaluated(capsys, f"nets.py:{name}", *options)
    assert (found["accuracy"], found["warnings"]) == (1.0, [])


CHANCE = [
    ("bytes_", (), "of the data arrays"),
    ("zero", (), "all of its weights are zero"),
    ("bgr", (), "another order"),
    ("dict_aux_first", ("--judge", "aux"), "of its 2 outputs 'aux' was judged"),
]


@pytest.mark.parametrize(("name", "options", "cause"), CHANCE)
def test_chance_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, options: tuple[str, ...], cause: str
) -> None:
    (said,) = evaluated(capsys, f"nets.py:{name}", *options)["warnings"]  # type: ignore[misc]
    assert "is not above chance" in said
    assert cause in said


REFUSED = [
    ("tie", (), 2, "say which with --judge"),
    ("single", (), 2, "no output of the network has a score for each"),
    ("infinite", (), 1, "is infinite for"),
    ("text", (), 2, "returns str as its third value"),
    ("good", ("--mean", "0,0"), 2, "for 2 channels"),
    ("good", ("--std", "0"), 2, "above zero"),
    ("good", ("--mean", "nan"), 2, "finite"),
    ("good", ("--scale", "-1"), 2, "above zero"),
    ("good", ("--size", "0"), 2, "at least one pixel"),
    ("good", ("--size", "16"), 2, "resizes to 16x16 and the network takes 8x8"),
    ("good", ("--judge", "nope"), 2, "there is no output 'nope'"),
    ("good", ("--preprocessing-of", "nets.py:silent"), 2, "states no preprocessing"),
]


@pytest.mark.parametrize(("name", "options", "status", "said"), REFUSED)
def test_refused_in_a_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    words = ["evaluate", f"nets.py:{name}", "--target", "ort-host", "--data", "nets.py:data", *options]
    assert main.run(words) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [("lower", "--to", "tflite"), ("opt", "-O0", "-o", "a.mcc")])
def test_no_file_states_what_no_picture_can_have(
    folder: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """A file is refused where it is written, not on the phone."""
    assert main.run([command[0], "nets.py:two", *command[1:]]) == 2
    said = capsys.readouterr().err
    assert "the preprocessing is for 2 channels, the network takes 3" in said
    assert "give one mean and one deviation, or 3 of each" in said
    assert {path.suffix for path in folder.iterdir()} <= {".py", ""}


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_files_carry_what_the_model_knew(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """Through a .mcc and an .onnx, into a file that is evaluated with no option."""
    assert main.run(["opt", "nets.py:symmetric", "-O0", "-o", "a.mcc", "-q"]) == 0
    assert main.run(["lower", "a.mcc", "--to", "onnx", "-o", "b.onnx", "-q"]) == 0
    assert main.run(["lower", "b.onnx", "--to", suffix, "-o", f"c.{suffix}", "--crop", "0.5", "-q"]) == 0
    capsys.readouterr()
    stated = describe(folder / f"c.{suffix}").preprocessing
    assert stated is not None
    assert (stated.mean, stated.crop) == (pytest.approx((0.5,)), 0.5)
    words = ["evaluate", f"c.{suffix}", "--data", "nets.py:data", "--json"]
    assert main.run(words) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == 1.0
    assert found["preprocessing"]["source"] == f"stated in c.{suffix}"

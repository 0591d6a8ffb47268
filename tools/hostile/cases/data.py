"""Data modules, pictures, preprocessing, several outputs, and originals that know nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tools.hostile.case import FAILED, JOB_S, REFUSED, WORKS, Case
from tools.hostile.inputs import data, network, onnx_file

JUDGE = "evaluate m.onnx --data data.py:data"
EITHER = REFUSED | WORKS  # a warning, or refused with the reason


def _arrays(train: str = "", test: str = "", more: str = "") -> Callable[[Path], None]:
    """A sound file and a data module of such arrays."""

    def make(folder: Path) -> None:
        network(folder)
        onnx_file(folder / "m.onnx")
        given = {key: value for key, value in (("train", train), ("test", test)) if value}
        data(folder, **given, more=more)

    return make


def _returning(result: str) -> Callable[[Path], None]:
    return _arrays(more=f"\ndef data(seed):\n    return {result}\n")


def _pictures(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """Two classes of pictures in `pets`, one of them as `write` has it."""

    def make(folder: Path) -> None:
        onnx_file(folder / "m.onnx")
        for part in ("train", "test"):
            for name in ("cat", "dog"):
                place = folder / "pets" / part / name
                place.mkdir(parents=True)
                for index in range(3):
                    pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
                    Image.fromarray(pixels).save(place / f"{index}.png")
        write(folder / "pets/test/cat/0.png")

    return make


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _bits16(path: Path) -> None:
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(path)


def _not_finite(folder: Path) -> None:
    network(folder)
    onnx_file(folder / "m.onnx", constants={"b": np.full(10, np.inf, np.float32)})
    data(folder)


def _class_names(folder: Path) -> None:
    _arrays()(folder)
    onnx_file(folder / "m.onnx", metadata={"labels": "\n".join(f"kind {i}" for i in range(10))})


def _neighbour(folder: Path) -> None:
    _arrays()(folder)
    (folder / "sizes.py").write_text("SIZE = 16\n")
    text = (folder / "data.py").read_text()
    (folder / "data.py").write_text(f"from sizes import SIZE\n{text}")


def _outputs(result: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        network(folder, output=result)
        data(folder)

    return make


_TARGET = "--target litert-host --epochs 0 --strategies int8-ptq"
_JOB = f"compress net.py:net --data data.py:data {_TARGET} -o ../out/job"
CASES = (
    Case("data/40 labels for 100 pictures", _arrays("(images(100), labels(40))"), JUDGE, "100.*40|40.*100"),
    Case("data/halves of labels", _arrays(test="(images(40), np.eye(10)[labels(40)] / 2)"), JUDGE, "label"),
    Case("data/float labels", _arrays(test="(images(40), labels(40) + 0.5)"), JUDGE, "label"),
    Case("data/labels from 5 on", _arrays(test="(images(40), labels(40) + 5)"), JUDGE, "label|class"),
    Case("data/labels below 0", _arrays(test="(images(40), labels(40) - 1)"), JUDGE, "label|class"),
    Case("data/no pictures", _arrays(test="(images(0), labels(0))"), JUDGE,
         "test|empty|no images"),
    Case("data/NaN in pictures", _arrays(test="(images(40) * np.nan, labels(40))"), JUDGE,
         "finite|nan|float"),
    Case("data/pictures of text", _arrays(test="(images(40).astype(str), labels(40))"), JUDGE, "data|images"),
    Case("data/channels last", _arrays("(images(100).transpose(0, 2, 3, 1), labels(100))"), JUDGE,
         "shape|channel"),
    Case("data/the factory gives None", _returning("None"), JUDGE, "None|DataModule"),
    Case("data/the factory gives a pair", _returning("(1, 2)"), JUDGE, "tuple|DataModule"),
    Case("data/the factory fails", _returning("1 / 0"), JUDGE, "division"),
    Case("data/the factory has a neighbour", _neighbour, JUDGE, "accuracy", WORKS),
    Case("data/a picture that is a pipe", _pictures(_pipe),
         "evaluate m.onnx --data imagefolder:pets", r"0\.png|class"),
    Case("data/half a picture", _pictures(lambda path: path.write_bytes(path.read_bytes()[:60])),
         "compress m.onnx --data imagefolder:pets --target ort-host -o ../out/j", r"0\.png|class"),
    Case("data/16-bit picture among others", _pictures(_bits16), "evaluate m.onnx --data imagefolder:pets",
         r"16|class", EITHER),
    Case("judged/outputs that are not finite", _not_finite, JUDGE, "finite|NaN", FAILED),
    Case("judged/class names of others", _class_names, JUDGE, "class names|labels|kind", EITHER),
    Case("judged/no better than chance", _arrays(), JUDGE, "chance", WORKS),
    Case("judged/preprocessing that nobody states", _arrays(), "evaluate m.onnx --data data.py:data",
         "preprocessing|mean", WORKS),
    Case("judged/a third value of another kind", lambda folder: (network(folder), data(folder), (
         folder / "net.py").write_text((folder / "net.py").read_text().replace(
         "16, 16)\n", "16, 16), 'imagenet'\n")))[0], "inspect net.py:net", "third|preprocessing", EITHER),
    Case("judged/an original that knows nothing", _outputs("self.fc(y.mean((2, 3)))"), _JOB, "chance",
         WORKS, limit_s=JOB_S),
    Case("judged/no output of ten classes", _outputs("y"), _JOB, r"classes|outputs?"),
    Case("judged/features before the classes", _outputs("(y.mean((2, 3)), self.fc(y.mean((2, 3))))"), _JOB,
         "output", WORKS, limit_s=JOB_S),
)  # fmt: skip

"""Shared by the result scripts: one network with one plan on one target, each figure measured once and
stored.

Everything is a command of mcc in its own process, and every result a file in the output folder: an
interrupted script continues where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Right = npt.NDArray[np.float64]

FORMS = {"ort-host": "onnx", "ort-android": "onnx", "executorch-host": "pte"}  # tflite where not named
RESAMPLES = 10_000
LATENCY_NOISE = 0.03  # accepted decrease of a speed-up that is measured again
SESSIONS = 5  # maximum number of measurements of a speed-up
AGREE = 0.05  # two sessions with a smaller relative difference count as undisturbed
MARK = "finished.json"  # in the folder of a job: its request
STEPS, BATCH = 390, 128


@dataclass(frozen=True)
class Inputs:
    """Inputs of a job.

    Attributes:
        network: Name of a factory of `tools/baselines/networks.py`.
        data: DATA of mcc, see `tools.results.data`.
        weights: Folder of the trained baselines.
        epochs: Epochs of each candidate's fine-tuning.
        folder: Output folder.
    """

    network: str
    data: str
    weights: str
    epochs: str
    folder: Path

    @property
    def model(self) -> list[str]:
        """MODEL and its weights, as arguments."""
        place = f"{self.weights}/{self.network}.safetensors"
        return [f"tools/baselines/networks.py:{self.network}", "--weights", place]


def mcc(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `mcc` of this environment. Raises CalledProcessError, its message on stderr."""
    program = str(Path(sys.executable).with_name("mcc"))
    done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if check and done.returncode:
        raise subprocess.CalledProcessError(done.returncode, ["mcc", *arguments])
    return done


def form_of(target: str) -> str:
    """Format of the files that a target runs."""
    return FORMS.get(target.partition(":")[0], "tflite")


def compressed(given: Inputs, target: str, speedup: float, seed: int, wanted: Sequence[str]) -> Path:
    """Folder in which `mcc compress` has run these strategies; run or resumed if necessary.

    A run in which no strategy keeps the budget is finished as well: it has no report.json.
    """
    folder = folder_of(given, target, speedup, seed)
    if not is_finished(given, target, speedup, seed, wanted):
        asked = list(dict.fromkeys([*_had(folder), *wanted]))
        words = [*given.model, "--data", given.data, "--target", target, "--speedup", f"{speedup:g}x"]
        words += ["--epochs", given.epochs, "--seed", str(seed), "-o", str(folder), "--resume"]
        done = mcc("compress", *words, "--strategies", ",".join(asked), check=False)
        if done.returncode > 1:
            raise SystemExit(f"{folder.name}: mcc compress ended with {done.returncode}; see above")
        (folder / MARK).write_text(json.dumps({"status": done.returncode, "strategies": asked}))
    return folder


def is_finished(given: Inputs, target: str, speedup: float, seed: int, wanted: Sequence[str]) -> bool:
    """Whether `compressed` has nothing left to run."""
    return set(wanted) <= set(_had(folder_of(given, target, speedup, seed)))


def folder_of(given: Inputs, target: str, speedup: float, seed: int) -> Path:
    """Folder of a job of `compressed`, whether run or not."""
    name = f"{given.network}-{target}-{speedup:g}x-seed{seed}".replace(":", "-")
    return given.folder / "jobs" / name


def _had(folder: Path) -> list[str]:
    mark = folder / MARK
    return json.loads(mark.read_text())["strategies"] if mark.exists() else []


@dataclass(frozen=True)
class Figures:
    """A job's figures of a strategy: speed-up, and share of correctly classified validation images."""

    speedup: float
    validation: float


def measured(folder: Path) -> dict[str, Figures]:
    """The figures of a finished job, by strategy."""
    report = folder / "report.json"
    if report.exists():
        found = json.loads(report.read_text())["strategies"]
    else:  # no strategy kept the budget
        found = json.loads((folder / "state" / "strategies.json").read_text())
    return {e["name"]: Figures(float(e["speedup"]), float(e["validation_accuracy"])) for e in found}


def outcome(folder: Path, strategy: str) -> Path:
    """Folder of a strategy's outcome in a job: for a joint plan that was tightened, the last one."""
    places = [folder / "state" / strategy, *(folder / "state").glob(f"{strategy}-at-*")]
    done = [place for place in places if (place / "outcome.json").exists()]
    return max(done, key=lambda place: (place / "outcome.json").stat().st_mtime)


def structure(folder: Path, strategy: str) -> dict[str, Any]:
    """The decisions of a strategy in a job."""
    return json.loads((outcome(folder, strategy) / "outcome.json").read_text())["structure"]


def cost_of(entry: dict[str, Any]) -> float:
    """Median microseconds, or model cycles on a simulator, of an entry of `mcc bench --json`."""
    return float(entry["model_cycles"] if "model_cycles" in entry else entry["latency_us"]["median"])


@dataclass(frozen=True)
class Cell:
    """A trained network on a target.

    Attributes:
        speedup: Speed-up over the original on the same target, measured (or modelled) in turns with it.
        right: For each split, 1.0 for every correctly classified image, in a fixed order.
    """

    speedup: float
    right: dict[str, Right]

    def keeps(self, speedup: float) -> bool:
        """Whether it has the requested speed-up, within the noise of two measurements."""
        return self.speedup >= speedup * (1 - LATENCY_NOISE)

    def accuracy(self, split: str) -> float:
        """Share of correctly classified images."""
        return float(self.right[split].mean())


def cell(given: Inputs, job: Path, strategy: str, target: str, limit: int | None = None) -> Cell:
    """Lower a strategy's trained network for a target, measure it there, and store the figures.

    Args:
        limit: Maximum number of images of each split; for trials of a script.
    """
    folder = given.folder / "cells" / f"{job.name}-{strategy}" / target.replace(":", "-")
    figures = folder / "cell.json"
    if not figures.exists():
        folder.mkdir(parents=True, exist_ok=True)
        form = form_of(target)
        original, file = folder / f"original.{form}", folder / f"model.{form}"
        mcc("lower", str(job / "state" / "original" / "model.mcc"), "--to", form, "-o", str(original))
        mcc("lower", str(outcome(job, strategy) / "model.mcc"), "--to", form, "-o", str(file))
        for split in ("validation", "test"):
            np.save(folder / f"{split}.npy", right_of(given, file, target, split, limit))
        figures.write_text(json.dumps({"speedup": repeated(lambda: speedup_of(original, file, target))}))
    right = {split: np.load(folder / f"{split}.npy") for split in ("validation", "test")}
    return Cell(json.loads(figures.read_text())["speedup"], right)


def speedup_of(original: Path, file: Path, target: str) -> float:
    """Speed-up of a file over the original, measured in turns in one session."""
    entries = json.loads(mcc("bench", str(original), str(file), "--target", target, "--json").stdout)
    return cost_of(entries[0]) / cost_of(entries[1])


def repeated(measure: Callable[[], float]) -> float:
    """Mean of the first two sessions that agree; if none do, the median of `SESSIONS`.

    A disturbed session once gave 4.1x for a file that is 1.5x as fast.
    """
    found: list[float] = []
    for _ in range(SESSIONS):
        latest = measure()
        for before in found:
            if abs(latest / before - 1) <= AGREE:
                return (latest + before) / 2
        found.append(latest)
    return float(np.median(found))


def right_of(given: Inputs, file: Path, target: str, split: Any, limit: int | None) -> Right:
    """1.0 for every image that the file, run in the target's runtime, classifies correctly."""
    from mcc.data import load_data
    from mcc.frontend.load import load_model
    from mcc.report.judge import statistics_of
    from mcc.report.measure import taken_shapes
    from mcc.runtime import get_target

    loaded: Any = load_model(given.model[0], weights=Path(given.model[2]))
    found = get_target(target)
    with found.session(file, 1) as session:
        shape = taken_shapes(session)
    data = load_data(given.data, seed=0, input_shape=shape, preprocessing=loaded.preprocessing)
    return statistics_of(found, file, data, split, limit=limit)


def paired_interval(
    one: Sequence[Right], other: Sequence[Right], seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference of accuracy in points, and its 95 % interval by a paired bootstrap over images.

    Args:
        one, other: For each comparison (budget, target, seed), the images that each classifies correctly.
    """
    differences = np.mean([a - b for a, b in zip(one, other, strict=True)], axis=0)
    chance = np.random.default_rng(seed)
    count = len(differences)
    means = np.array([differences[chance.integers(0, count, count)].mean() for _ in range(RESAMPLES)])
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(differences.mean()), 100 * float(low), 100 * float(high)


def epochs_for(train_images: int) -> str:
    """Passes over the training data that are `STEPS` steps of `BATCH` images."""
    return f"{STEPS * BATCH / train_images:.6f}"


def written(page: Path, lines: Sequence[str]) -> None:
    """Write a page of results atomically."""
    from mcc.files import write_beside

    text = "\n".join(lines) + "\n"
    write_beside(page, lambda beside: beside.write_text(text, encoding="utf-8"))

"""Whatever happens to a file of a job's state, going on ends well, or in one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mcc
from mcc.errors import MccError
from mcc.report.schema import load_report
from tests.compress import stand_ins

ASKED = {"speedup": 1.2, "epochs": 0.03, "strategies": ("int8-ptq", "low-rank", "joint")}


def _job(folder: Path, *, resume: bool) -> None:
    mcc.compress(stand_ins.MODEL, "digits", "litert-host", out=folder, resume=resume, **ASKED)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a job that was stopped after its last measurement, before it left anything."""
    place = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCC_CACHE_DIR", str(place / "cache"))
        patch.setattr("mcc.compress.final_measurement.FinalFigures.forget", lambda self: None)
        stand_ins.install(patch)
        _job(place / "out", resume=False)
    for path in (place / "out").iterdir():
        if path.is_file():
            path.unlink()
    assert (place / "out/state/final.json").exists()
    return place / "out"


def _kinds(state: Path) -> dict[str, Path]:
    """One file of each kind, by a name in which those of other strategies and trials are alike."""
    files = [path for path in sorted(state.rglob("*")) if path.is_file() and path.name != "in-use.lock"]
    places = {path: path.relative_to(state).parts for path in files}
    kept = ("trials", "fine-tuned", "statistics")
    return {
        "/".join(("*", *parts[1:])) if len(parts) > 1 and parts[0] not in kept
        else f"{parts[0]}/*{path.suffix}" if len(parts) > 1 else parts[0]: path
        for path, parts in places.items()
    }  # fmt: skip


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def _cut(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": _cut,
    "garbage": lambda path: path.write_bytes(os.urandom(64)),
    "another type": lambda path: path.write_text("[1, 2]"),
    "no keys": lambda path: path.write_text("{}"),
    "null": lambda path: path.write_text("null"),
    "a folder": _folder,
    "a link": _link_to_nothing,
    "absent": lambda path: path.unlink(),
}


def test_every_kind_of_file_is_known(unfinished: Path) -> None:
    kinds = set(_kinds(unfinished / "state"))
    assert {"job.json", "measurements.json", "final.json", "sensitivities.json", "*/outcome.json"} <= kinds
    assert any(kind.startswith("trials/") for kind in kinds)
    assert any("fine-tune" in kind for kind in kinds)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_the_state_is_made_again_or_named(
    damage: str, unfinished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCC_CACHE_DIR", str(unfinished.parent / "cache"))
    stand_ins.install(monkeypatch)
    wrong: list[str] = []
    for index, (kind, path) in enumerate(_kinds(unfinished / "state").items()):
        folder = tmp_path / str(index)
        shutil.copytree(unfinished, folder)
        DAMAGE[damage](folder / path.relative_to(unfinished))
        try:
            _job(folder, resume=True)
            assert load_report(folder / "report.json").met == {"speedup": True}
        except MccError as error:
            if "\n" in str(error) or not error.where:
                wrong.append(f"{kind}: {error}")
        except Exception as error:
            wrong.append(f"{kind}: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    assert wrong == []

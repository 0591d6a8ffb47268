"""CONTRIBUTING.md adds a pass, an operator, a target and a cost model; here copies of the checkout get them.

`tests/lower/test_formats.py` does the same with its format.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "drop-double-negation"
MOST_LINES = 60


@dataclass(frozen=True)
class Block:
    """A fenced block of a chapter.

    Attributes:
        language: What stands behind the fence.
        how: `title`, `append`, or nothing.
        file: Which file that is about.
        text: What stands between the fences.
    """

    language: str
    how: str
    file: str
    text: str

    def apply(self, desk: Path) -> None:
        """Do in a copy of the checkout what the block shows."""
        place = desk / self.file
        if self.language == "diff":
            signs = ("-", "+")
            old, new = (
                "".join(f"{row[1:]}\n" for row in self.text.splitlines() if row[0] == sign) for sign in signs
            )
            text = place.read_text()
            assert text.count(old) == 1, f"{self.file} has no single {old!r}"
            place.write_text(text.replace(old, new))
        elif self.how == "append":
            place.write_text(f"{place.read_text()}\n\n{self.text}")
        else:
            place.write_text(self.text)


def blocks(chapter: str) -> list[Block]:
    """What a chapter of the page shows, in order."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    text = page.split(f"## {chapter}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def copied(desk: Path, *names: str) -> None:
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, desk / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
            )
        else:
            (desk / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, desk / name)


def run_tests(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a copy of the checkout, which stands before the checkout itself."""
    env = {key: value for key, value in os.environ.items() if key != "CI"}
    env["PYTHONPATH"] = f"{desk}{os.pathsep}{ROOT}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=desk, env=env, capture_output=True, text=True, check=False)


# -- a pass ------------------------------------------------------------------------------------------------


def goldens(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command of the page."""
    return run_tests(desk, "tests/test_goldens.py", "-k", NAME, *arguments)


def test_it_is_short() -> None:
    written = {block.file: block.text for block in blocks("Add a pass")}
    assert sorted(written) == [f"golden_graphs/{NAME}/plain.mcc", "passes/drop_double_negation.py"]
    assert sum(len(text.splitlines()) for text in written.values()) < MOST_LINES


@pytest.mark.slow
def test_one_file_and_one_golden_are_a_pass(tmp_path: Path) -> None:
    copied(
        tmp_path, "passes", "golden_graphs", "tests/conftest.py", "tests/test_goldens.py", "pyproject.toml"
    )
    code, golden = blocks("Add a pass")
    code.apply(tmp_path)
    missing = goldens(tmp_path)
    assert missing.returncode == 1
    assert f"add golden_graphs/{NAME}/<case>.mcc" in missing.stdout

    (tmp_path / golden.file).parent.mkdir()
    golden.apply(tmp_path)
    made = goldens(tmp_path, "--update-golden")
    assert made.returncode == 0, made.stdout + made.stderr
    after = (tmp_path / golden.file).read_text().split("=== after\n")[1]
    assert "neg(" not in after
    assert "%y = relu(%x)" in after
    again = goldens(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 passed" in again.stdout


# -- an operator -------------------------------------------------------------------------------------------

CAPTURED = """
import torch
from mcc.frontend import capture
from mcc.ir.graph import calls, run

def test_softshrink_is_captured():
    module = torch.nn.Softshrink(0.3)
    graph = capture(module, (torch.zeros(1, 4),))
    x = torch.randn(2, 4)
    assert len(calls(graph, "softshrink")) == 1
    assert torch.allclose(run(graph, x)[0], module(x))
"""


@pytest.mark.slow
def test_the_steps_of_the_page_are_an_operator(tmp_path: Path) -> None:
    copied(tmp_path, "mcc", "passes", "cost_models", "tests", "pyproject.toml")
    steps = blocks("Add an operator")
    for step in steps:
        step.apply(tmp_path)
    (tmp_path / "tests/ir/test_captured.py").write_text(CAPTURED)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    command = re.search(r"-m pytest (tests/ir tests/lower.*) -k \"(.*softshrink.*)\"", page)
    assert command is not None
    files = [*command[1].split(), "-k", command[2]]
    done = run_tests(tmp_path, *files)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 10

    emit = next(step for step in steps if "emit_elementwise" in step.file)
    shutil.copy(ROOT / emit.file, tmp_path / emit.file)
    forgotten = run_tests(tmp_path, "tests/lower/tflite/test_float_parity.py", "-k", "every_operator")
    assert forgotten.returncode == 1
    assert "softshrink" in forgotten.stdout


# -- a target ----------------------------------------------------------------------------------------------

RUN = """
import numpy as np
import pytest
import torch
from mcc.errors import TargetError
from mcc.ir.graph import GraphBuilder, run
from mcc.lower.onnx.writer import write_onnx
from mcc.runtime import get_target

def test_a_file_computes_its_graph(tmp_path):
    b = GraphBuilder()
    x = b.input("x", (1, 4, 5, 6))
    graph = b.finish(b.relu(b.conv2d(x, b.constant("w", torch.randn(8, 4, 3, 3)), None)))
    file, given = write_onnx(graph, tmp_path / "net.onnx"), torch.randn(1, 4, 5, 6)
    target = get_target("onnx-reference")
    with target.session(file) as session:
        (got,) = session.run([given.numpy()])
    np.testing.assert_allclose(got, run(graph, given)[0].numpy(), rtol=1e-5, atol=1e-5)
    (samples,) = target.time([file], budget_s=0.1)
    assert samples.median_us > 0
    with pytest.raises(TargetError, match="no profiler"):
        target.profile(file)
"""


@pytest.mark.slow
def test_one_file_is_a_target(tmp_path: Path) -> None:
    copied(tmp_path, "mcc", "passes", "cost_models", "tests/conftest.py", "pyproject.toml")
    (target,) = blocks("Add a target")
    target.apply(tmp_path)
    (tmp_path / "tests/test_run.py").write_text(RUN)
    done = run_tests(tmp_path, "tests/test_run.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "1 passed" in done.stdout


# -- a cost model ------------------------------------------------------------------------------------------


def test_one_file_is_a_cost_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cost_models

    model, usage, shown = blocks("Add a cost model")
    assert model.file == "cost_models/rate.py"
    (tmp_path / "rate.py").write_text(model.text)
    monkeypatch.setattr(cost_models, "__path__", [*cost_models.__path__, str(tmp_path)])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(usage.text, "CONTRIBUTING.md", "exec"), {"__name__": "page"})
    finally:
        sys.modules.pop("cost_models.rate", None)
        vars(cost_models).pop("rate", None)
    assert said.getvalue() == shown.text

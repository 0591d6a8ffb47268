"""CONTRIBUTING.md adds a pass by one file and one golden; here that is done, in a copy of both folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "drop-double-negation"
MOST_LINES = 60


def files() -> dict[str, str]:
    """What the page says to write, by path."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    chapter = page.split("## Add a pass\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^```\w+ title=(\S+)\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL))


def goldens(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command of the page, in a copy of the checkout."""
    env = {key: value for key, value in os.environ.items() if key != "CI"} | {
        "PYTHONPATH": f"{desk}{os.pathsep}{ROOT}"
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_goldens.py"]
    return subprocess.run(
        [*command, "-k", NAME, *arguments], cwd=desk, env=env, capture_output=True, text=True, check=False
    )


def test_it_is_short() -> None:
    written = files()
    assert sorted(written) == [f"golden_graphs/{NAME}/plain.mcc", "passes/drop_double_negation.py"]
    assert sum(len(text.splitlines()) for text in written.values()) < MOST_LINES


@pytest.mark.slow
def test_one_file_and_one_golden_are_a_pass(tmp_path: Path) -> None:
    for folder in ("passes", "golden_graphs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name in ("tests/__init__.py", "tests/conftest.py", "tests/test_goldens.py", "pyproject.toml"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path / name)
    written = files()
    golden = f"golden_graphs/{NAME}/plain.mcc"
    (tmp_path / "passes/drop_double_negation.py").write_text(written["passes/drop_double_negation.py"])
    missing = goldens(tmp_path)
    assert missing.returncode == 1
    assert f"add golden_graphs/{NAME}/<case>.mcc" in missing.stdout

    (tmp_path / golden).parent.mkdir()
    (tmp_path / golden).write_text(written[golden])
    made = goldens(tmp_path, "--update-golden")
    assert made.returncode == 0, made.stdout + made.stderr
    after = (tmp_path / golden).read_text().split("=== after\n")[1]
    assert "neg(" not in after
    assert "%y = relu(%x)" in after
    again = goldens(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 passed" in again.stdout

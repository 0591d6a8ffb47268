"""docs/ship.md: the metadata script runs as a program, and versions are those in use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mcc.app.writer import LITERT_JS, PACKAGES
from mcc.ir.graph import GraphBuilder
from mcc.lower.tflite.metadata import Normalisation
from mcc.lower.tflite.writer import to_tflite
from mcc.runtime import get_target
from tests.pages import files

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ship.md"
SIDE = 16
LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as the page describes it."""
    b, g = GraphBuilder(), torch.Generator().manual_seed(3)
    weight = b.constant("w", torch.randn(12, 3, 3, 3, generator=g))
    x = b.conv2d(b.input("image", (1, 3, SIDE, SIDE)), weight, None, padding=(1, 1, 1, 1), activation="relu")
    head = b.constant("head", torch.randn(len(LABELS), 12, generator=g))
    graph = b.finish(b.linear(b.mean(x, axes=(2, 3), keepdim=False), head, None))
    normalisation = Normalisation((127.0,) * 3, (128.0,) * 3)
    (tmp_path / "model.tflite").write_bytes(to_tflite(graph, labels=LABELS, normalisation=normalisation))
    return tmp_path


@pytest.mark.slow
def test_the_metadata_script_reads_what_the_file_states(site: Path) -> None:
    (site / "read_metadata.py").write_text(files(PAGE)["read_metadata.py"])
    said = subprocess.run(
        [sys.executable, "read_metadata.py", "model.tflite"],
        cwd=site, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
    np.testing.assert_allclose([float(v) for v in lines["mean"]], 127, rtol=1e-5)
    np.testing.assert_allclose([float(v) for v in lines["std"]], 128, rtol=1e-5)
    assert lines["labels"] == list(LABELS)


def test_every_version_that_the_page_and_the_code_for_apps_name_is_the_one_in_use() -> None:
    page, project = (ROOT / "docs/ship.md").read_text(), (ROOT / "pyproject.toml").read_text()
    assert get_target("litert-web:node").runtime_version().split()[0] == LITERT_JS
    assert f"@litertjs/core@{LITERT_JS}" in page
    for suffix, digits in ((".tflite", 2), (".onnx", 2), (".pte", 2)):
        python, gradle = PACKAGES[suffix]
        wanted = re.search(rf'"{python}>=([\d.]+)', project)
        assert wanted is not None
        assert gradle.rsplit(":", 1)[1].split(".")[:digits] == wanted[1].split(".")[:digits]

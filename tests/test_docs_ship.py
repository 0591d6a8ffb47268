"""docs/ship.md: the web page runs in Chromium as it stands there, the metadata script as a program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcc.ir.graph import GraphBuilder
from mcc.lower.tflite.metadata import Normalisation
from mcc.lower.tflite.writer import to_tflite
from mcc.runtime import get_target
from mcc.runtime.litert_web import WEB
from mcc.runtime.page_server import PageServer
from tests.pages import files
from tests.runtime.chromium import opened

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
    (tmp_path / "index.html").write_text(files(PAGE)["index.html"])
    (tmp_path / "node_modules").symlink_to(WEB / "node_modules")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_web_page_says_what_litert_says_here(seed: int, site: Path) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., seed % 3] //= 4  # a colour, so that an order of channels that is wrong shows
    Image.fromarray(pixels).save(site / "picture.png")
    with get_target("litert-host").session(site / "model.tflite") as session:
        scores = session.run([(pixels[None].astype(np.float32) - 127) / 128])[0][0]
    with PageServer(site, "shop") as server, opened(server.address + "index.html") as page:
        page.wait_for_selector("#file:enabled", timeout=60_000)
        page.set_input_files("#file", site / "picture.png")
        page.wait_for_function("document.getElementById('answer').textContent.startsWith('class')")
        answer = re.fullmatch(r"class (\d+), score (-?[\d.]+)", page.inner_text("#answer"))
    assert answer is not None
    assert int(answer[1]) == scores.argmax()
    assert float(answer[2]) == pytest.approx(scores.max(), abs=2e-3)


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


def test_every_version_that_the_page_names_is_the_one_in_use() -> None:
    page = (ROOT / "docs/ship.md").read_text()
    assert f"@litertjs/core@{get_target('litert-web:node').runtime_version().split()[0]}" in page
    for dependency, pattern in (("ai-edge-litert", r"litert:litert:(\d+\.\d+)"),
                                ("onnxruntime", r"onnxruntime-android:(\d+\.\d+)")):  # fmt: skip
        wanted = re.search(rf'"{dependency}>=(\d+\.\d+)', (ROOT / "pyproject.toml").read_text())
        named = re.search(pattern, page)
        assert wanted is not None
        assert named is not None
        assert named[1] == wanted[1]

"""The web page of an app, in Chromium as it stands; what it fetches comes from node_modules."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from mcc.runtime import get_target
from mcc.runtime.litert_web import WEB
from mcc.runtime.page_server import PageServer
from tests.app.models import DECODERS, HEIGHT, LABELS, WIDTH, Written, expected, picture, written
from tests.app.test_python import loaded
from tests.runtime.chromium import opened

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

CDN = "https://cdn.jsdelivr.net/npm/"
pytestmark = pytest.mark.slow


def from_disk(route: Route) -> None:
    """Answer a request to the content network with the file of that package and version."""
    found = re.fullmatch(rf"{CDN}(@litertjs/[\w-]+)@([\d.]+)/(.+)", route.request.url)
    assert found is not None, route.request.url
    assert found[2] == get_target("litert-web:node").runtime_version().split()[0]
    route.fulfill(
        path=WEB / "node_modules" / found[1] / found[3], headers={"Access-Control-Allow-Origin": "*"}
    )


@contextmanager
def shown(made: Written, file: Path) -> Generator[Page]:
    """The page with a picture chosen and answered."""
    with PageServer(made.folder, "app") as server, opened("about:blank") as page:
        page.route(f"{CDN}**", from_disk)
        page.goto(server.address + "index.html")
        page.wait_for_selector("#file:enabled", timeout=60_000)
        page.set_input_files("#file", file)
        page.wait_for_function("document.getElementById('time').textContent.endsWith('ms')")
        yield page


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("seed", [1, 2])
def test_it_names_the_classes_that_the_graph_names(tmp_path: Path, seed: int, channels: int) -> None:
    made = written(tmp_path, ".tflite", "classes", channels=channels)
    file = picture(
        tmp_path, seed=seed, size=(2 * WIDTH, 2 * HEIGHT) if channels == 3 else (WIDTH, HEIGHT)
    )  # only cut
    scores = expected(made, file)[1][0]
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    order = np.argsort(-shares)
    with shown(made, file) as page:
        found = page.evaluate("window.found")
        words = page.inner_text("#answer")
    assert [name for name, _ in found] == [LABELS[place] for place in order]
    np.testing.assert_allclose([share for _, share in found], shares[order], atol=0.003)
    assert words.startswith(f"{LABELS[order[0]]} {100 * found[0][1]:.1f} %")


def test_it_paints_the_map_of_the_graph(tmp_path: Path) -> None:
    made = written(tmp_path, ".tflite", "map")
    file = picture(tmp_path, seed=1, size=(WIDTH, HEIGHT))
    wanted = expected(made, file)[1][0].argmax(0)
    with shown(made, file) as page:
        found = page.evaluate("({...window.found, classes: Array.from(window.found.classes)})")
        painted = page.evaluate(
            "Array.from(document.getElementById('over').getContext('2d')"
            f".getImageData(0, 0, {WIDTH}, {HEIGHT}).data).filter((v, i) => i % 4 == 3)"
        )
    assert (found["height"], found["width"]) == wanted.shape
    assert np.mean(np.array(found["classes"]) == wanted.reshape(-1)) > 0.98  # ties of two classes aside
    assert min(painted) > 0


@pytest.mark.parametrize("kind", DECODERS)
def test_its_boxes_are_those_of_the_python_file(tmp_path: Path, kind: str) -> None:
    made = written(tmp_path, ".tflite", kind)
    file, app = picture(tmp_path, seed=1, size=(WIDTH, HEIGHT)), loaded(made)
    with Image.open(file) as opened:
        wanted = app.Model().answer(opened)
    with shown(made, file) as page:
        found = page.evaluate("window.found")
    assert len(wanted) > 3
    assert [name for name, _, _ in found] == [name for name, _, _ in wanted]
    np.testing.assert_allclose([score for _, score, _ in found], [score for _, score, _ in wanted], atol=1e-3)
    np.testing.assert_allclose([box for _, _, box in found], [box for _, _, box in wanted], atol=0.02)

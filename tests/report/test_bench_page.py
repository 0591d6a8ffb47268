"""The page of `mcc bench --show`, as a browser shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.runtime.page_server import PageServer
from tests.runtime import models
from tests.runtime.chromium import opened


def shown(tmp_path: Path, target: str, suffix: str = ".tflite") -> Path:
    make = models.chain_tflite if suffix == ".tflite" else models.chain_onnx
    files = [make([models.conv(i, (3, 8 * (i + 1)))], tmp_path / f"net{i}{suffix}") for i in range(2)]
    words = ["bench", *map(str, files), "--target", target, "--budget", "0.1s", "--show", "-o"]
    assert main.run([*words, str(tmp_path / "page"), "-q"]) == 0
    return tmp_path / "page"


@pytest.mark.slow
def test_the_page_shows_what_was_measured_and_measures_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shown(tmp_path, "litert-web:node")
    assert str(folder / "index.html") in capsys.readouterr().out
    with PageServer(folder, "shown") as server, opened(server.address + "index.html#run") as page:
        measured = page.locator("#measured tbody tr")
        assert [row.split("\t")[0] for row in measured.all_inner_texts()] == ["net0.tflite", "net1.tflite"]
        assert page.locator("#measured svg").count() == 2
        assert page.locator("#measured svg circle").count() >= 60  # a dot for each sample
        page.wait_for_selector("body[data-state]", timeout=120_000)
        assert page.locator("body").get_attribute("data-state") == "done", page.inner_text("#state")
        live = page.locator("#here tbody tr").all_inner_texts()
        assert [row.split("\t")[0] for row in live] == ["net0.tflite", "net1.tflite"]
        assert "Chrome" in page.inner_text("#state")
        assert "; cross-origin isolated" in page.inner_text("#state")
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_measured_part_needs_no_server_and_a_failing_one_is_named(tmp_path: Path) -> None:
    folder = shown(tmp_path, "litert-web:node")
    (folder / "models/1.tflite").write_bytes(b"nothing")
    with opened((folder / "index.html").as_uri()) as page:
        assert page.locator("#measured tbody tr").count() == 2
    with PageServer(folder, "shown") as server, opened(server.address + "index.html#run") as page:
        page.wait_for_selector("body[data-state=failed]", timeout=120_000)
        assert page.inner_text("#state").startswith("it failed: ")


@pytest.mark.slow
def test_what_a_browser_cannot_run_is_shown_without_a_button(tmp_path: Path) -> None:
    folder = shown(tmp_path, "ort-host", ".onnx")
    assert sorted(path.name for path in folder.iterdir()) == [".mcc-made.json", "index.html"]
    with opened((folder / "index.html").as_uri()) as page:
        assert page.locator("#measured tbody tr").count() == 2
        assert page.locator("button").count() == 0


@pytest.mark.slow
def test_a_name_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    file = models.chain_tflite([models.conv()], tmp_path / "a'\"&<b>.tflite")
    words = ["bench", str(file), "--target", "litert-host", "--budget", "0.1s", "--show", "-o"]
    assert main.run([*words, str(tmp_path / "page"), "-q"]) == 0
    with opened((tmp_path / "page/index.html").as_uri()) as page:
        assert page.locator("#measured tbody tr td").first.inner_text() == file.name
        assert page.locator("#measured b").count() == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    file = models.chain_tflite([models.conv()], tmp_path / "a.tflite")
    words = ["bench", str(file), "--target", "litert-host", "--budget", "0.1s", "--show", "-o"]
    assert main.run([*words, str(tmp_path / "taken"), "-q"]) != 0
    said = capsys.readouterr().err
    assert "taken: is no folder" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_json_holds_the_same_with_and_without_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = models.chain_tflite([models.conv()], tmp_path / "a.tflite")
    words = ["bench", str(file), "--target", "litert-host", "--budget", "0.1s", "--json", "-q"]
    assert main.run([*words, "--show", "-o", str(tmp_path / "page")]) == 0
    assert json.loads(capsys.readouterr().out)[0]["file"] == str(file)
    assert (tmp_path / "page/index.html").exists()

"""docs/passes.md is run as it is written: files saved, commands typed, outputs compared."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from mcc.cli.main import run
from mcc.ir.text import parse_graph, print_graph
from mcc.pass_api import load_passes
from mcc.pipeline import Pipeline
from tests.pages import Block, blocks, files

PAGE = Path(__file__).parents[1] / "docs" / "passes.md"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page says to save."""
    for name, text in files(PAGE).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line prints on both streams."""
    words = shlex.split(command)
    assert words[0] == "mcc"
    capsys.readouterr()
    status = run(words[1:])
    said = capsys.readouterr()
    assert (status == 0) == (said.err == "")
    return said.out + said.err


CONSOLES = [block for block in blocks(PAGE) if block.language == "console"]


@pytest.mark.parametrize("block", CONSOLES, ids=range(len(CONSOLES)))
def test_commands_print_what_the_page_shows(
    block: Block, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if block.rest.startswith("edit="):
        old, new = block.rest.removeprefix("edit=").split("->")
        text = (desk / "drop_small_bias.py").read_text()
        assert text.count(old) == 1
        (desk / "drop_small_bias.py").write_text(text.replace(old, new))
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        assert typed(command, capsys).replace(f"{desk}/", "") == shown


def test_python_prints_what_the_page_shows(desk: Path) -> None:
    script = next(b.text for b in blocks(PAGE) if b.language == "python" and not b.rest)
    shown = next(b.text for b in blocks(PAGE) if b.rest == "output")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(script, "docs/passes.md", "exec"), {"__name__": "page"})
    assert said.getvalue() == shown


def test_the_golden_of_the_page_can_be_written(desk: Path) -> None:
    header, rest = files(PAGE)["golden_graphs/drop-small-bias/plain.mcc"].split("=== before\n")
    before = parse_graph(rest.split("=== after\n")[0])
    extra = load_passes([desk / "drop_small_bias.py"])
    pipeline = Pipeline.parse(header.strip().removeprefix("pipeline: "), extra)
    after = pipeline.run(before).graph
    assert "@first_b" not in print_graph(after)
    assert print_graph(pipeline.run(after).graph) == print_graph(after)


def test_the_pass_of_the_page_is_short_and_clean(desk: Path) -> None:
    text = files(PAGE)["drop_small_bias.py"]
    assert len(text.splitlines()) < 120
    assert all(len(line) <= 110 for line in text.splitlines())

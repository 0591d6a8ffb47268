"""docs/debugging.md: every command is typed as it stands there, and the failing one says what is shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mcc.cli.main import run

TEXT = (Path(__file__).parents[1] / "docs" / "debugging.md").read_text()


def blocks(opening: str) -> list[tuple[str, str]]:
    """Fenced blocks that begin with a word: what stands behind it, and the text."""
    return re.findall(rf"^```{opening}([^\n]*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


COMMANDS = [line for _, text in blocks("sh") for line in text.splitlines()]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page says to save."""
    for rest, text in blocks("python"):
        if rest:
            (tmp_path / rest.removeprefix(" title=")).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    words = shlex.split(command, comments=True)
    assert words[0] == "mcc"
    status = run(words[1:])
    said = capsys.readouterr()
    return status, said.out if status == 0 else said.err


def test_no_command_of_the_page_is_left_out() -> None:
    inline = re.findall(
        r"`mcc (?:opt|inspect|diff|lower|passes)[^`]*`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S)
    )
    assert inline == []
    assert len(COMMANDS) >= 16


@pytest.mark.slow
def test_every_command_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for command in COMMANDS:
        status, said[command] = typed(command, capsys)
        assert status == 0, f"{command}\n{said[command]}"
        assert said[command] or " -o " in command or "--model-explorer" in command, command
    printed = "\n".join(said.values())
    for shown in ("it is shared with another app", "verify ms", "# after fold-batch-norm", "- features_1"):
        assert shown in printed, shown
    left = {str(path.relative_to(desk)) for path in desk.rglob("*")}
    assert {"int8.mcc", "d.html", "net.onnx", "net.tflite", "out/net/graph.json"} <= left


@pytest.mark.slow
def test_a_failing_pass_is_repeated_with_its_data(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((_, session),) = blocks("console")
    parts = [part.partition("\n") for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]]
    for command, _, shown in parts:
        status, said = typed(command, capsys)
        assert status == 1
        assert said.replace(f"{desk}/", "") == shown
    assert f"repeat with: {parts[1][0]}\n" in parts[0][2]
    without = parts[1][0].replace(" --data digits", "")
    assert typed(without, capsys)[0] == 0, (
        "without the data there is no failure: the page would not show what it says"
    )


def test_the_python_of_the_page_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = [text for rest, text in blocks("python") if not rest]
    exec(compile(script, "docs/debugging.md", "exec"), {"__name__": "page"})
    assert "prune-channels{keep=0.75} True {'channels removed': " in capsys.readouterr().out

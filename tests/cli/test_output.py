"""Tables for people and machines, and progress where there is no terminal."""

import json

import pytest

from mcc.cli.output import plain_table, print_json, print_table
from mcc.cli.progress import Lines, Silent, progress_for, seconds_words
from mcc.cli.settings import QUIET, Settings


def test_plain_table_is_aligned() -> None:
    text = plain_table(["name", "us"], [["a", "1.0"], ["longer", "10.0"]], right=["us"], title="t")
    assert text == "t\nname      us\na        1.0\nlonger  10.0\n"


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [[None, "[red]"]])
    assert capsys.readouterr().out == "a  b\n   [red]\n"


def test_a_terminal_gets_a_drawn_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(["a", "b"], [["x", "[red]"]], right=["b"])
    out = capsys.readouterr().out
    assert "[red]" in out
    assert "─" in out


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "–"})
    assert json.loads(capsys.readouterr().out) == {"a": "–"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


def test_lines_say_begin_and_end_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 20.0, 21.0, 40.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines = Lines(every_s=15)
    lines("repair", 0, 100, "step 0")
    lines("repair", 5, 100)  # too soon for a line
    lines("repair", 50, 100, "step 50")
    lines("repair", 55, 100)
    lines("repair", 100, 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "repair (step 0)",
        "repair: 50 %, about 20 s left (step 50)",
        "repair: done in 40.0 s",
    ]


def test_lines_without_a_total(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines = Lines(every_s=15)
    lines("plan", 0, 0)
    lines("plan", 3, 0)
    assert capsys.readouterr().err.splitlines() == ["plan", "plan: 30 s so far"]


def test_lines_of_stages_inside_one_another_and_run_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 11.0, 40.0, 41.0, 43.0, 80.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    lines = Lines(every_s=15)
    lines("strategies", 0, 2, "first")
    lines("plan", 0, 1)
    lines("plan", 1, 1)
    lines("strategies", 1, 2, "second")
    lines("plan", 0, 1)
    lines("plan", 1, 1)
    lines("strategies", 2, 2)
    assert capsys.readouterr().err.splitlines() == [
        "strategies (first)",
        "plan",
        "plan: done in 10.0 s",
        "strategies: 50 %, about 40 s left (second)",
        "plan",
        "plan: done in 2.0 s",
        "strategies: done in 80.0 s",
    ]


def test_progress_fits_where_it_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_for(Settings(verbosity=QUIET)) as progress:
        assert isinstance(progress, Silent)
        progress("x", 1, 2)
    with progress_for(Settings()) as progress:
        assert isinstance(progress, Lines)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress_for(Settings()) as progress:
        progress("measure", 1, 2, "note")
        progress("measure", 2, 2)
        progress("measure", 0, 2, "again")
    assert "measure" in capsys.readouterr().err


def test_seconds_words() -> None:
    assert [seconds_words(s) for s in (5, 120, 4000)] == ["5 s", "2 min", "1 h 7 min"]

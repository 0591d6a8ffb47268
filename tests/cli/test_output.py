"""Tables for people and machines, and progress where there is no terminal."""

import json
import logging
import sys
from pathlib import Path

import click
import pytest

from mcc.cli import bench, main
from mcc.cli.output import harmless_streams, plain_table, print_json, print_table
from mcc.cli.progress import Lines, Silent, progress_for, seconds_words
from mcc.cli.settings import QUIET, OneLineFormatter, Settings


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
    lines("fine-tune", 0, 100, "step 0")
    lines("fine-tune", 5, 100)  # too soon for a line
    lines("fine-tune", 50, 100, "step 50")
    lines("fine-tune", 55, 100)
    lines("fine-tune", 100, 100)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "fine-tune (step 0)",
        "fine-tune: 50 %, about 20 s left (step 50)",
        "fine-tune: done in 40.0 s",
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


HOSTILE = "a\x1b[31mb\x1b]0;title\x07c\x9bd\u202ee\rmcc: fine"


def test_names_cannot_act_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with harmless_streams():
        print_table(["name"], [[f"{HOSTILE}\nnext line"]])
        print_json({"name": HOSTILE})
        click.echo(HOSTILE, err=True)
        sys.stderr.write(f"{HOSTILE}\n")
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set("\x1b\x07\x9b\u202e\r") & set(text)
    table, _, document = said.out.partition("{")
    assert len(table.splitlines()) == 2
    assert json.loads("{" + document)["name"] == HOSTILE


def test_a_hostile_name_in_an_error_stays_on_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["inspect", f"{tmp_path}/{HOSTILE}\nmcc: all is well.mcc"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "\\u001b" in said
    assert not set("\x1b\x07\x9b\u202e\r") & set(said)


def test_a_logged_name_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    formatted = OneLineFormatter("%(levelname)s %(message)s").format(
        logging.LogRecord("mcc", logging.WARNING, "file", 1, "node %s", (f"{HOSTILE}\nnext",), None)
    )
    assert len(formatted.splitlines()) == 1
    assert "\x1b" not in formatted


def test_the_tables_of_bench_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    latency = {"median": 12345.6, "ci95": [12300.1, 12400.2], "p10": 12200.5, "p90": 12999.9, "runs": 12345}
    entry = {
        "file": "out/compressed/model.tflite",
        "latency_us": latency,
        "size_bytes": 12_345_678,
        "peak_memory_bytes": 123_456_789,
    }
    bench._show([entry, entry], ops=False)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80

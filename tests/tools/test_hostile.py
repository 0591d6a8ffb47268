"""The check of hostile inputs: it sees each kind of fault, and a handful of inputs end as they should."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.hostile.case import WORKS, Case
from tools.hostile.cases import CASES
from tools.hostile.check import Found, run_case, snapshot
from tools.hostile.page import page

GENEROUS_S = 300.0  # wall time: what is tested is what becomes of the input


def _input(folder: Path) -> None:
    (folder / "mine.txt").write_text("three years of work")


SOUND = Case("planted/sound", _input, "", "mine.txt: is no table")
SAYS = "import sys; sys.stderr.write('mcc: error: mine.txt: is no table\\n'); "


def _run(code: str, folder: Path, case: Case = SOUND, limit_s: float = GENEROUS_S) -> Found:
    return run_case(case, folder, limit_s=limit_s, program=(sys.executable, "-c", code))


def test_a_command_that_refuses_in_one_sentence_passes(tmp_path: Path) -> None:
    found = _run(SAYS + "import time; time.sleep(1); sys.exit(2)", tmp_path)  # its memory is looked at
    assert found.problems == ()
    assert found.sentence == "mcc: error: mine.txt: is no table"
    assert found.peak_bytes > 1_000_000


PLANTED = {
    "overwrites": ("open('mine.txt', 'w').write('x'); sys.exit(2)", "changed mine.txt"),
    "removes": ("import os; os.unlink('mine.txt'); sys.exit(2)", "removed mine.txt"),
    "creates": ("open('new.txt', 'w'); sys.exit(2)", "created new.txt"),
    "traceback": ("1 / 0", "a traceback"),
    "internal": ("sys.stderr.write('mcc: internal error: KeyError: 3\\n'); sys.exit(2)", "an internal error"),
    "status": ("sys.exit(0)", "exit status 0, not 2"),
    "escape": ("sys.stderr.write('\\x1b[31m'); sys.exit(2)", "an escape sequence"),
    "twice": ("sys.stderr.write('mcc: error: and more\\n'); sys.exit(2)", "2 sentences"),
    "killed": ("import os; os.kill(os.getpid(), 11)", "exit status -11, not 2"),
    "children": (
        "import subprocess as s; s.run([sys.executable, '-c', \"open('new.txt', 'w')\"]); sys.exit(2)",
        "created new.txt",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_seen(fault: str, tmp_path: Path) -> None:
    code, problem = PLANTED[fault]
    assert problem in "; ".join(_run(SAYS + code, tmp_path).problems)


def test_another_sentence_is_seen(tmp_path: Path) -> None:
    found = _run("import sys; sys.stderr.write('mcc: error: no\\n'); sys.exit(2)", tmp_path)
    assert found.problems == ("does not say 'mine.txt: is no table'",)


def test_a_command_that_hangs_or_grows_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "not ended after 1 s" in _run("import time; time.sleep(600)", tmp_path / "hangs", limit_s=1).problems
    )
    monkeypatch.setattr("tools.hostile.check.LIMIT_BYTES", 100 << 20)
    grows = "held = bytearray(300 << 20); import time; time.sleep(600)"
    assert "more than 0 GB" in _run(grows, tmp_path / "grows").problems


def test_an_input_that_should_work_is_held_to_that(tmp_path: Path) -> None:
    works = replace(SOUND, status=WORKS, says="done")
    assert _run("print('done')", tmp_path / "a", works).problems == ()
    assert "an error, and exit status 0" in _run(SAYS + "print('done')", tmp_path / "b", works).problems


def test_pipes_and_links_are_looked_at_and_not_read(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    assert set(snapshot(tmp_path)) == {"pipe", "link"}


def test_there_are_sixty_of_all_kinds_and_names_are_unique() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    kinds = {
        "batch", "growth", "names", "weights", "graphs", "models", "tables", "kits", "plans", "cache", "data",
        "judged", "overwrite", "locks", "state", "files", "options",
    }  # fmt: skip
    assert {case.kind for case in CASES} == kinds


HANDFUL = ("tables/date zzzz", "plans/a million brackets", "graphs/sparsity of 1.5", "files/a folder as ONNX")


@pytest.mark.slow
@pytest.mark.parametrize("name", HANDFUL)
def test_a_handful_end_as_they_should(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == name)
    found = run_case(case, tmp_path, limit_s=GENEROUS_S)
    # Processor time of a busy machine, whose cores two programs share, is not what is tested here.
    assert [problem for problem in found.problems if "processor time" not in problem] == []


def test_the_page_counts_what_went_wrong() -> None:
    good = Found(CASES[0].name, 2, 1.0, 1.0, 10**9, "mcc: error: a | b", ())
    bad = Found(CASES[1].name, 0, 2.0, 1.0, 10**9, "", ("exit status 0, not 2",))
    text = page(CASES, [good, bad])
    assert "1 of 2 end as they should; the slowest refusal took 1.0 s of a processor" in text
    assert "a \\| b" in text
    assert "exit status 0, not 2" in text

"""The program as a user meets it: help without weight, errors as sentences, exit statuses, JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from mcc.cli import failures, main
from mcc.errors import ConstraintError, UsageError


class Ran:
    """What one command line did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        """Its stdout, which must be one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def mcc(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process."""

    def run(*arguments: str) -> Ran:
        status = main.run(arguments)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `mcc targets` fail."""

    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def failing(as_json: bool) -> None:
        raise error

    monkeypatch.setattr("mcc.cli.targets.targets", failing)


def one_sentence(text: str) -> str:
    """The text, which must be a single line and no traceback."""
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.strip()


# -- help --------------------------------------------------------------------------------------------------


def test_every_command_is_listed_and_described_as_it_describes_itself(mcc: Any) -> None:
    listed = mcc("--help").out
    context = click.Context(main.GROUP)
    for name, entry in main.COMMANDS.items():
        command = main.GROUP.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == entry.summary
        assert f"  {name}" in listed
        assert entry.summary in " ".join(listed.split())


def test_every_command_has_the_common_options_and_help_for_each(mcc: Any) -> None:
    for name in main.COMMANDS:
        ran = mcc(name, "--help")
        assert ran.status == 0
        for option in ("--json", "--seed", "-q, --quiet", "-v, --verbose", "-h, --help"):
            assert option in ran.out, (name, option)


def test_help_of_every_command_imports_no_engine() -> None:
    script = (
        "import sys\nfrom mcc.cli import main\n"
        "for name in main.COMMANDS: assert main.run([name, '--help']) == 0\n"
        "assert main.run(['compress', '--nonsense']) == 2\n"
        "heavy = {'torch', 'numpy', 'rich', 'pydantic', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "print('loaded', sorted(heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=False)
    assert ran.stdout.splitlines()[-1] == "loaded []", ran.stderr


def test_module_runs_as_the_program() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mcc", "--version"], text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0
    assert ran.stdout.startswith("mcc 0.")


def test_without_a_command_help_is_shown_and_the_use_is_wrong(mcc: Any) -> None:
    ran = mcc()
    assert ran.status == 2
    assert "Commands:" in ran.err


# -- wrong use ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["comprss"], "there is no command 'comprss'; did you mean 'compress'?"),
        (["zzz"], "mcc --help"),
        (["compress"], "Missing argument 'MODEL'"),
        (["compress", "m", "--data", "digits", "--target", "t", "--latency", "8"], "'8' has no unit"),
        (["compress", "m", "--data", "digits", "--target", "t", "--size", "-1MB"], "above zero"),
        (["compress", "m", "--data", "digits", "--target", "t", "--max-drop", "nan"], "between 0 and 100"),
        (["compress", "m", "--nonsense"], "No such option"),
        (["opt", "m"], "needs one of -p PIPELINE and -O LEVEL"),
        (["opt", "m", "-p", "x", "-O1"], "needs one of -p PIPELINE and -O LEVEL"),
        (["opt", "m", "-O1", "-o", "x.tflite"], "must end in .mcc"),
        (["opt", "m", "-p", "no-such-pass"], "unknown pass 'no-such-pass'"),
        (["passes", "no-such-pass"], "there is no pass 'no-such-pass'"),
        (["bench", "x.tflite", "--target", "phone"], "unknown target 'phone'"),
        (["bench", "x.tflite", "--target", "litert-host"], "x.tflite: no such file"),
        (["evaluate", "x.txt", "--data", "digits"], "x.txt: no such file"),
        (["passes", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(mcc: Any, arguments: list[str], said: str) -> None:
    ran = mcc(*arguments)
    assert ran.status == 2
    assert said in one_sentence(ran.err)
    assert ran.out == ""


def test_wrong_use_is_json_where_json_was_asked_for(mcc: Any) -> None:
    assert mcc("passes", "--json", "nothing").json["error"]["code"] == "usage"
    ran = mcc("compress", "--json", "m")
    assert ran.status == 2
    assert "Missing option" in ran.json["error"]["message"]


# -- failures ----------------------------------------------------------------------------------------------


def test_a_constraint_that_cannot_be_kept_is_status_1(mcc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ConstraintError("no strategy keeps it", where="budget", hint="try --latency 9ms"))
    ran = mcc("targets")
    assert ran.status == 1
    assert one_sentence(ran.err) == "mcc: error: budget: no strategy keeps it; try --latency 9ms"


def test_line_breaks_in_messages_do_not_make_two_sentences(mcc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, UsageError("first\nsecond"))
    assert one_sentence(mcc("targets").err).endswith("first second")


def test_a_mistake_of_ours_leaves_its_traceback_in_a_file(mcc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyError("surprise"))
    ran = mcc("targets")
    assert ran.status == 1
    said = one_sentence(ran.err)
    assert "internal error: KeyError: 'surprise'" in said
    written = Path(said.rsplit(" ", 1)[1])
    assert "Traceback" in written.read_text()
    written.unlink()


def test_ctrl_c_is_a_sentence_and_status_130(mcc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    ran = mcc("targets")
    assert ran.status == 130
    assert ran.err.strip() == "mcc: stopped"
    fail_with(monkeypatch, failures.Interrupted("mcc compress m --resume continues from here"))
    ran = mcc("targets")
    assert ran.status == 130
    assert one_sentence(ran.err) == "mcc: stopped; mcc compress m --resume continues from here"


def test_a_full_disk_is_a_sentence(mcc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, OSError(28, "No space left on device", "out/model.tflite"))
    ran = mcc("targets")
    assert ran.status == 2
    assert "out/model.tflite: No space left on device; free space" in one_sentence(ran.err)


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_traceback() -> None:
    script = f"{sys.executable} -m mcc passes --json | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", script], text=True, capture_output=True, check=False)
    assert "Traceback" not in ran.stderr


def test_a_locale_without_dashes_does_not_end_a_run() -> None:
    code = "from mcc.cli.main import main; import click, sys; sys.argv = ['mcc', 'doctor']; main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr


# -- commands that need no model ---------------------------------------------------------------------------


def test_passes_lists_and_explains(mcc: Any) -> None:
    listed = mcc("passes", "--json").json
    assert {"prune-channels", "sparsify-1x1"} <= {entry["name"] for entry in listed["passes"]}
    assert all(entry["summary"] for entry in listed["passes"])
    assert "-O1" in listed["presets"]
    explained = mcc("passes", "sparsify-1x1")
    assert explained.status == 0
    assert "Elsen 2020" in explained.out
    assert "sparsity" in explained.out
    assert "prune-channels" in mcc("passes").out


def test_targets_and_doctor_agree(mcc: Any) -> None:
    listed = {entry["name"]: entry for entry in mcc("targets", "--json").json}
    assert {"litert-host", "ort-host"} <= set(listed)
    report = mcc("doctor", "--json").json
    assert {entry["name"]: entry for entry in report["targets"]} == listed
    assert report["machine"]["cores"] >= 1
    assert report["libraries"]["torch"]
    for name in ("targets", "doctor"):
        ran = mcc(name)
        assert ran.status == 0
        assert all(target in ran.out for target in listed)
        assert "\x1b" not in ran.out  # no colours in a pipe


def test_doctor_says_how_to_get_what_is_missing(mcc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcc.runtime.litert_host import LiteRtHost
    from mcc.runtime.target import Availability

    def missing(self: LiteRtHost) -> Availability:
        return Availability(False, "it is not installed", "pip install it")

    monkeypatch.setattr(LiteRtHost, "available", missing)
    assert "To get litert-host: pip install it" in mcc("doctor").out
    assert "mcc doctor says how to get" in mcc("targets").out
    monkeypatch.setattr("mcc.runtime.registry.targets", lambda: {"litert-host": LiteRtHost()})
    assert mcc("doctor").status == 1


def test_cache_folder_can_be_moved(mcc: Any, cache_dir: Path) -> None:
    assert mcc("doctor", "--json").json["machine"]["cache"] == str(cache_dir)

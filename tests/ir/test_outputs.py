"""What a command may write over: never what it reads, and nothing that nobody named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcc.cli import main
from mcc.errors import UsageError
from mcc.ir.outputs import check_output, files_in, refuse_inputs
from tests.compress import networks

MODEL = f"{networks.__file__}:tiny"


@pytest.fixture(autouse=True)
def _own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_files_of_what_is_named() -> None:
    for name in ("net.py", "net.mcc", "net.safetensors", "a:b"):
        Path(name).write_text("x")
    Path("pictures").mkdir()
    assert files_in("net.py:factory", None, "") == [Path("net.py")]
    assert files_in("net.mcc", "imagefolder:pictures", "digits") == [Path("net.mcc"), Path("net.safetensors")]
    assert Path("a:b") in files_in("a:b")
    assert files_in("package.module:factory") == []


@pytest.mark.parametrize("alias", ["same", "hard link", "symbolic link", "another spelling"])
def test_an_input_is_no_output_by_whatever_name(alias: str) -> None:
    source, output = Path("in.onnx"), Path("out.onnx")
    source.write_text("mine")
    if alias == "hard link":
        os.link(source, output)
    elif alias == "symbolic link":
        output.symlink_to(source)
    else:
        output = source if alias == "same" else Path("../" + Path.cwd().name) / source
    for named, force in ((True, False), (False, False), (True, True)):
        with pytest.raises(UsageError, match="would be overwritten, and is read"):
            check_output(output, [source], named=named, force=force)


def test_only_what_was_named_is_overwritten_without_a_word() -> None:
    there = Path("net.onnx")
    check_output(there, [], named=False)
    there.write_text("mine")
    check_output(there, [], named=True)
    check_output(there, [], named=False, force=True)
    with pytest.raises(UsageError, match=r"net\.onnx: exists, and was not named.*--force"):
        check_output(there, [], named=False)


def test_constants_beside_a_new_graph_are_not_overwritten() -> None:
    Path("net.safetensors").write_text("weights of the user")
    with pytest.raises(UsageError, match=r"net\.safetensors: exists, and was not named"):
        check_output(Path("net.mcc"), [], named=True)
    check_output(Path("net.mcc"), [], named=True, force=True)
    Path("net.mcc").write_text("of an earlier run, with its constants")
    check_output(Path("net.mcc"), [], named=True)


def test_a_pipe_is_no_output() -> None:
    os.mkfifo("pipe")
    with pytest.raises(UsageError, match="is a device or a pipe"):
        refuse_inputs([Path("pipe")], [])
    with pytest.raises(UsageError, match="is a device or a pipe"):
        check_output(Path("/dev/null"), [], named=True, force=True)


def _before() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


@pytest.mark.slow
def test_no_command_writes_over_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["opt", MODEL, "-O1", "-o", "tiny.mcc", "-q"]) == 0
    assert main.run(["lower", "tiny.mcc", "--to", "onnx", "-q"]) == 0
    Path("w.safetensors").write_bytes(Path("tiny.safetensors").read_bytes())
    Path("table.json").write_text("{}")
    before = _before()
    common = ["--data", "digits", "--target", "litert-host"]
    for words in (
        ["lower", "tiny.onnx", "--to", "onnx"],  # the default name is the input
        ["lower", "tiny.onnx", "--to", "onnx", "--force"],
        ["lower", "tiny.mcc", "--to", "onnx"],  # the default name is there
        ["lower", "tiny.mcc", "--to", "tflite", "-o", "tiny.safetensors"],
        ["lower", MODEL, "--to", "onnx", "--weights", "w.safetensors", "-o", "w.safetensors"],
        ["opt", "tiny.mcc", "-O1", "-o", "tiny.mcc"],
        ["opt", MODEL, "-O1", "--weights", "w.safetensors", "-o", "w.mcc"],
        ["diff", "tiny.mcc", "tiny.onnx", "--html", "tiny.onnx"],
        ["plan", "tiny.onnx", *common, "-o", "tiny.onnx"],
        ["plan", "tiny.onnx", "--data", "digits", "--target", "litert-host,ort-host", "-o", "tiny.onnx"],
        ["calibrate", "--target", "litert-host", "--merge", "table.json", "--export", "table.json"],
    ):  # fmt: skip
        capsys.readouterr()
        assert main.run([*words, "-q"]) == 2, words
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "internal error" not in said
        assert _before() == before, words
    assert main.run(["lower", "tiny.mcc", "--to", "onnx", "--force", "-q"]) == 0
    assert main.run(["lower", "tiny.mcc", "--to", "onnx", "-o", "tiny.onnx", "-q"]) == 0

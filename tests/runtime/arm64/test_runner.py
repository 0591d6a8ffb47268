"""The ARM64 runner under qemu: its numbers, its report, and its complaints."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mcc.runtime.arm64 import build, cores, emulator, install
from tests.runtime import models


def run(*arguments: str | Path, core: str = "a76", stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    tools = install.require()
    command = emulator.emulated(tools, cores.CORES[core], build.runner())
    given = [*command, *map(str, arguments)]
    return subprocess.run(given, env=tools.environment, input=stdin, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_tflite(models.conv(size=16), tmp_path_factory.mktemp("arm64") / "conv.tflite")


@pytest.mark.parametrize("core", sorted(cores.CORES))
def test_it_computes_the_network(file: Path, core: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    done = run("--inputs", "-", "--outputs", "-", file, core=core, stdin=_nhwc(x).tobytes())
    wanted = _nhwc(models.conv(size=16).numpy(x))
    assert done.returncode == 0, done.stderr
    raw = done.stdout.split(b"\n", 1)[1]
    got = np.frombuffer(raw[: wanted.nbytes], np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_reference_kernels_give_the_same_numbers(file: Path, tmp_path: Path) -> None:
    for kernels in ("xnnpack", "builtin", "reference"):
        assert run("--kernels", kernels, "--outputs", tmp_path / kernels, file).returncode == 0
    outputs = [np.fromfile(tmp_path / k, np.float32) for k in ("xnnpack", "builtin", "reference")]
    assert np.abs(outputs[0]).max() > 0.5
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], atol=1e-5)


def test_its_report(file: Path, tmp_path: Path) -> None:
    done = run("--warmup", "1", "--runs", "2", "--memory", "--rehearse", "--report", tmp_path / "r", file)
    assert done.returncode == 0, done.stderr
    described, measured = map(json.loads, (tmp_path / "r").read_text().splitlines())
    assert described["inputs"] == [{"name": "in", "dtype": "float32", "shape": [1, 16, 16, 3]}]
    assert described["outputs"] == [{"name": "out0", "dtype": "float32", "shape": [1, 16, 16, 8]}]
    assert len(measured["ns"]) == 2
    assert min(measured["ns"]) > 0
    assert 0 < measured["peak_before_bytes"] <= measured["peak_after_bytes"]


def test_the_profile_names_the_kernels(file: Path) -> None:
    for kernels, name in (("xnnpack", "Convolution (NHWC, F32) IGEMM"), ("reference", "CONV_2D")):
        done = run("--kernels", kernels, "--runs", "3", "--profile", file)
        events = json.loads(done.stdout.splitlines()[1])["events"]
        assert [tag for tag, kind, *_ in events if kind in (2, 4, 8)].count(name) == 3


def test_several_models_give_two_lines_each(file: Path) -> None:
    lines = [json.loads(line) for line in run(file, file).stdout.splitlines()]
    assert [line.get("file") for line in lines] == [str(file), None] * 2


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["--threads", "0", "x.tflite"], 2, "usage: runner"),
        (["--runs", "many", "x.tflite"], 2, "usage: runner"),
        (["--kernels", "quick", "x.tflite"], 2, "usage: runner"),
        ([], 2, "usage: runner"),
        (["missing.tflite"], 1, "runner: missing.tflite: LiteRtCreateModelFromFile failed with status"),
        (["--inputs", "missing.bin", "x.tflite"], 1, "runner: missing.bin: No such file or directory"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], status: int, complaint: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert complaint in done.stderr.decode()


def test_inputs_that_end_early_are_refused(file: Path) -> None:
    done = run("--inputs", "-", "--outputs", "-", file, stdin=bytes(16 * 16 * 3 * 4 + 5))
    assert done.returncode == 1
    assert "the inputs end within an inference" in done.stderr.decode()


def test_a_phone_needs_only_these_files(file: Path, tmp_path: Path) -> None:
    """The loader starts the runner with all libraries from one folder, and none from anywhere else."""
    tools = install.require()
    for path in build.device_files():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name).chmod(0o755)
    bare = tmp_path / "bare"
    (bare / "proc").mkdir(parents=True)
    (bare / "proc" / "cpuinfo").write_text(cores.CORES["a76"].cpuinfo())
    command = [str(tools.qemu), "-L", str(bare), "-cpu", "cortex-a76", f"{tmp_path}/ld-linux-aarch64.so.1"]
    command += ["--library-path", str(tmp_path), f"{tmp_path}/runner", "--runs", "1", str(file)]
    done = subprocess.run(command, env=tools.environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[1])["ns"]) == 1


def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.runner()

    def compile_again(*arguments: object) -> None:
        pytest.fail("compiled again")

    monkeypatch.setattr(build, "_compile", compile_again)
    assert build.runner() == first
    assert os.access(first, os.X_OK)


def test_nothing_fetched_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCC_TOOLS_DIR", str(tmp_path))
    with pytest.raises(install.TargetError, match=r"not fetched; `mcc doctor --install litert-arm64-sim`"):
        build.runner()


def _nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))

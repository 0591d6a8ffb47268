"""Numbers, memory and profiles of real runtimes in fresh processes, against numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil
import pytest

from mcc.errors import TargetError, UsageError
from mcc.runtime import Target, get_target
from mcc.runtime.page_server import PageServer
from tests.runtime import models

TARGETS = [
    "litert-host",
    "litert-host:builtin",
    "litert-host:reference",
    "ort-host",
    "ort-host:fast",
    "litert-web:node",
    "litert-web:chromium",
]
WITH_WEB = ["litert-host", "ort-host", "litert-web:node", "litert-web:chromium"]
CONVS = [models.conv(0, (3, 8)), models.conv(1, (8, 4), kernel=1)]


def usable(spec: str) -> Target:
    """The target; its absence is a failure that says what to install, never a silent skip."""
    target = get_target(spec)
    state = target.available()
    assert state.ok, f"{spec}: {state.reason}; {state.how_to_get}"
    return target


def write(target: Target, folder: Path, convs: list[models.Conv] = CONVS) -> Path:
    chain: Callable[..., Path] = models.chain_tflite if target.format == "tflite" else models.chain_onnx
    return chain(convs, folder / f"net.{target.format}")


def images(count: int, seed: int = 3) -> models.Floats:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def expected(x: models.Floats) -> models.Floats:
    for conv in CONVS:
        x = conv.numpy(x)
    return x


def own_layout(target: Target, x: models.Floats) -> models.Floats:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if target.format == "tflite" else x


@pytest.mark.slow
@pytest.mark.parametrize("spec", TARGETS)
def test_outputs_equal_numpy(spec: str, tmp_path: Path) -> None:
    target = usable(spec)
    x = images(7)
    with target.session(write(target, tmp_path)) as session:
        assert session.inputs[0].shape == own_layout(target, x[:1]).shape
        assert session.inputs[0].dtype == session.outputs[0].dtype == "float32"
        one = session.run([own_layout(target, x[:1])])[0]
        many = session.run_many(own_layout(target, x))
    np.testing.assert_allclose(one, own_layout(target, expected(x[:1])), atol=1e-5)
    np.testing.assert_allclose(many, own_layout(target, expected(x)), atol=1e-5)


def test_many_images_go_in_several_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = usable("litert-host")
    monkeypatch.setattr("mcc.runtime.process.CHUNK_BYTES", 3 * images(1).nbytes)
    x = own_layout(target, images(8))
    with target.session(write(target, tmp_path)) as session:
        requests: list[str] = []
        ask = session._runner.request  # type: ignore[attr-defined]
        monkeypatch.setattr(
            session._runner,  # type: ignore[attr-defined]
            "request",
            lambda header, *rest, **more: requests.append(header["op"]) or ask(header, *rest, **more),
        )
        many = session.run_many(x)
    assert requests == ["run_many"] * 3
    np.testing.assert_allclose(many, own_layout(target, expected(images(8))), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("spec", WITH_WEB)
def test_inputs_that_do_not_fit_are_refused_and_the_session_lives(spec: str, tmp_path: Path) -> None:
    target = usable(spec)
    x = own_layout(target, images(1))
    with target.session(write(target, tmp_path)) as session:
        for wrong in (x[:, :2], x.astype(np.int8), np.zeros((0, 8, 8, 3), np.float32)):
            with pytest.raises(UsageError):
                session.run([wrong])
        with pytest.raises(UsageError, match="needs 1 inputs, got 2"):
            session.run([x, x])
        with pytest.raises(UsageError, match="0 images"):
            session.run_many(x[:0])
        assert session.run([x])[0].shape[0] == 1


def test_quantised_inputs_and_outputs_both_as_floats_and_raw(tmp_path: Path) -> None:
    target = usable("litert-host")
    file = models.chain_tflite_int8(CONVS, tmp_path / "q.tflite")
    x = own_layout(target, np.clip(images(4), -6, 6))
    with target.session(file) as session:
        info = session.inputs[0]
        assert (info.dtype, info.zero_point) == ("int8", 0)
        assert info.scale == pytest.approx(0.05)
        floats, raw = session.run_many(x), session.run_many(x, raw=True)
        steps = np.clip(np.round(x / np.float32(info.scale)), -128, 127).astype(np.int8)
        from_ints = session.run_many(steps, raw=True)
    assert raw.dtype == np.int8
    np.testing.assert_array_equal(raw, from_ints)
    np.testing.assert_array_equal(floats, raw.astype(np.float32) * np.float32(info.scale))
    error = np.abs(floats - np.clip(own_layout(target, expected(images(4))), 0, 127 * 0.05))
    assert error.mean() < 0.05  # one quantisation step


@pytest.mark.slow
@pytest.mark.parametrize("spec", WITH_WEB)
def test_a_corrupt_file_gives_one_clear_sentence(spec: str, tmp_path: Path) -> None:
    target = usable(spec)
    file = tmp_path / f"bad.{target.format}"
    file.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(range(256)) * 8)
    for attempt in (target.session, target.peak_memory, lambda path: target.time([path])):
        with pytest.raises(TargetError) as caught:
            attempt(file)
        text = str(caught.value)
        assert text.startswith(str(file))
        assert "\n" not in text
        assert "Traceback" not in text


@pytest.mark.slow
def test_truncated_files_never_take_the_caller_down(tmp_path: Path) -> None:
    target = usable("litert-host")
    whole = write(target, tmp_path).read_bytes()
    for part in (0, 8, len(whole) // 3, len(whole) * 2 // 3):
        file = tmp_path / f"cut{part}.tflite"
        file.write_bytes(whole[:part])
        with pytest.raises(TargetError, match=str(file)):
            target.session(file)


@pytest.mark.parametrize(
    "spec", [*WITH_WEB[:-1], pytest.param("litert-web:chromium", marks=pytest.mark.slow)]
)
def test_peak_memory_shows_large_weights(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = usable(spec)
    monkeypatch.setattr(target, "memory_runners", 1)
    weights = models.conv(0, (512, 1024), kernel=4, size=8)
    assert weights.weight.nbytes == 32 << 20
    large = write(target, tmp_path, [weights])
    assert os.path.getsize(large) > 32 << 20
    growth = target.peak_memory(large)
    assert growth > 16 << 20
    assert growth > target.peak_memory(write(target, tmp_path)) + (16 << 20)


@pytest.mark.parametrize(
    "spec", ["litert-web:node", pytest.param("litert-web:chromium", marks=pytest.mark.slow)]
)
def test_peak_memory_of_a_file_in_webassembly_is_always_the_same(spec: str, tmp_path: Path) -> None:
    target = usable(spec)
    file = write(target, tmp_path, [models.conv(0, (64, 64), kernel=3, size=16)])
    first = target.peak_memory(file)
    assert first > 2 * 64 * 64 * 9 * 4  # the file's and the packed weights
    assert target.peak_memory(file) == first


LARGE_BLOCKS = """
import ctypes
from mcc.runtime.worker import fix_large_blocks
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc.mallinfo2.restype = Info
fix_large_blocks()
libc.free(libc.malloc(16 << 20))
before = libc.mallinfo2().hblks
libc.malloc(8 << 20)
print(libc.mallinfo2().hblks - before)
"""


def test_a_freed_block_does_not_move_the_limit_for_large_ones() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_BLOCKS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"  # without the call mostly 0: a heap that cannot grow maps it, too


@pytest.mark.slow
def test_peak_memory_does_not_count_what_the_caller_holds(tmp_path: Path) -> None:
    target = usable("litert-host")
    file = write(target, tmp_path)
    alone = target.peak_memory(file)
    ballast = np.ones(256 << 17)
    assert target.peak_memory(file) < alone + (16 << 20)
    assert ballast[0] == 1


@pytest.mark.slow
def test_web_runs_int8_with_float_inputs_like_the_host(tmp_path: Path) -> None:
    file = models.chain_tflite_int8(CONVS, tmp_path / "q.tflite", float_io=True)
    x = own_layout(usable("litert-web:node"), images(5))
    outputs: list[models.Floats] = []
    for spec in ("litert-host", "litert-web:node", "litert-web:chromium"):
        with usable(spec).session(file) as session:
            outputs.append(session.run_many(x))
    assert outputs[0].max() > 0
    for web in outputs[1:]:
        np.testing.assert_allclose(web, outputs[0], atol=0.051)  # at most one step; float steps of 0.05


def test_onnxruntime_profiles_every_convolution(tmp_path: Path) -> None:
    target = usable("ort-host")
    ops = target.profile(write(target, tmp_path), runs=5)
    assert sum("Conv" in op.kind for op in ops) == len(CONVS)
    assert all(op.us >= 0 and op.name for op in ops)
    assert len({op.name for op in ops}) == len(ops)


@pytest.mark.parametrize(
    ("write_chain", "kinds"),
    [
        (models.chain_tflite, ["Convolution (NHWC, F32) IGEMM", "Fully Connected (NC, F32) GEMM"]),
        (models.chain_tflite_int8, ["Convolution (NHWC, QC8) IGEMM", "Fully Connected (NC, QS"]),
    ],
)
def test_litert_profile_names_the_kernels_that_ran(
    write_chain: Callable[..., Path], kinds: list[str], tmp_path: Path
) -> None:
    ops = usable("litert-host").profile(write_chain(CONVS, tmp_path / "net.tflite"), runs=5)
    assert [op.kind[: len(kind)] for op, kind in zip(ops, kinds, strict=True)] == kinds
    assert all(op.us >= 0 for op in ops)


def test_an_untried_litert_is_not_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcc.runtime import litert_profile

    monkeypatch.setattr(litert_profile, "TRIED", ("1.",))
    with pytest.raises(TargetError, match="never tried"):
        litert_profile.Library()


@pytest.mark.parametrize("spec", ["litert-web:node", "litert-host:reference"])
def test_a_runtime_without_profile_says_so(spec: str, tmp_path: Path) -> None:
    target = usable(spec)
    with pytest.raises(TargetError, match="per-operator"):
        target.profile(write(target, tmp_path))


def test_web_refuses_int8_inputs_with_the_reason(tmp_path: Path) -> None:
    file = models.chain_tflite_int8(CONVS, tmp_path / "q.tflite")
    with pytest.raises(TargetError, match=r"(?i)int8"):
        usable("litert-web:node").session(file)


@pytest.mark.slow
def test_no_browser_outlives_its_session(tmp_path: Path) -> None:
    with usable("litert-web:chromium").session(write(get_target("litert-web"), tmp_path)) as session:
        runner = psutil.Process(session._runner.pid)  # type: ignore[attr-defined]
        below = runner.children(recursive=True)
        assert any("chrom" in process.name() for process in below)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []


@pytest.mark.slow
def test_a_page_that_dies_is_one_sentence(tmp_path: Path) -> None:
    with usable("litert-web:chromium").session(write(get_target("litert-web"), tmp_path)) as session:
        runner = psutil.Process(session._runner.pid)  # type: ignore[attr-defined]
        for process in runner.children(recursive=True):
            if "--type=renderer" in process.cmdline():
                process.kill()
        with pytest.raises(TargetError, match=r"net\.tflite: litert-web:chromium crashed: .*crash") as caught:
            session.run([own_layout(get_target("litert-web"), images(1))])
    assert "\n" not in str(caught.value)


def test_the_page_server_gives_only_what_it_was_told_to(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/page.html").write_text("page")
    for name in ("allowed", "hidden"):
        (tmp_path / name).write_text(name)
    with PageServer(tmp_path / "site", "secret") as server:
        server.allow(str(tmp_path / "allowed"))
        assert server.find("/secret/page.html") == (b"page", "text/html; charset=utf-8")
        assert server.find(f"/secret/file?{tmp_path}/allowed") == (b"allowed", "application/octet-stream")
        for path in (
            "/page.html",
            "/secret/../hidden",
            "/secret/%2e%2e/hidden",
            f"/secret/{tmp_path}/hidden",
            f"/secret/file?{tmp_path}/hidden",
            "/secret/nothing",
        ):
            assert server.find(path) is None
        with urlopen(server.address + "page.html") as answer:
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"

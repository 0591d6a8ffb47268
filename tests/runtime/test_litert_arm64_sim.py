"""The target litert-arm64-sim: its numbers, its counts, and that the checks on them bite."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mcc.cli import main
from mcc.errors import TargetError, UsageError
from mcc.runtime import get_target
from mcc.runtime.arm64 import cores, counting, cycles, install
from mcc.runtime.litert_arm64_sim import LiteRtArm64Sim
from tests.runtime import models

TARGET = LiteRtArm64Sim()
CONVS = [models.conv(size=16), models.conv(1, (8, 16), 1, 16), models.conv(2, (16, 8), 3, 16)]
MACS = 16 * 16 * (27 * 8 + 8 * 16 + 9 * 16 * 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arm64")


@pytest.fixture(scope="module")
def floats(folder: Path) -> Path:
    return models.chain_tflite(CONVS, folder / "float.tflite")


@pytest.fixture(scope="module")
def integers(folder: Path) -> Path:
    return models.chain_tflite_int8(CONVS, folder / "int8.tflite")


def test_float_outputs_are_those_of_the_network(floats: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    wanted = x
    for conv in CONVS:
        wanted = conv.numpy(wanted)
    with TARGET.session(floats) as session:
        got = session.run_many(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("core", sorted(cores.CORES))
def test_int8_outputs_equal_those_of_x86_bit_by_bit(integers: Path, core: str) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (4, 16, 16, 3)).astype(np.int8)
    with (
        get_target(f"litert-arm64-sim:{core}").session(integers) as arm,
        get_target("litert-host").session(integers) as host,
    ):
        got, wanted = arm.run_many(x, raw=True), host.run_many(x, raw=True)
    assert len(np.unique(wanted)) > 50
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
def test_counts_are_equal_from_run_to_run(floats: Path, integers: Path) -> None:
    tools, core = install.require(), cores.CORES["a76"]
    runs = [counting.count(tools, core, [floats, integers]) for _ in range(3)]
    totals = [[counting.instructions(one.total()) for one in run] for run in runs]
    assert totals[0] == totals[1] == totals[2]
    alone = counting.count(tools, core, [integers])[0]
    assert counting.instructions(alone.total()) == totals[0][1]
    assert MACS / 4 < totals[0][0] < MACS  # four multiply-accumulates in an instruction, and then some
    assert totals[0][1] < totals[0][0]  # sixteen in a dot product


def test_each_operator_is_counted(floats: Path) -> None:
    operators = TARGET.operators(floats)
    assert [op.kind for op in operators] == [
        "Convolution (NHWC, F32) IGEMM",
        "Fully Connected (NC, F32) GEMM",
        "Convolution (NHWC, F32) IGEMM",
    ]
    (whole,) = TARGET.counts([floats])
    share = sum(op.instructions for op in operators) / whole.instructions
    assert 0.9 < share < 1.0  # the rest is the runtime's own
    work = [16 * 16 * n for n in (27 * 8, 8 * 16, 9 * 16 * 8)]
    for op, macs in zip(operators, work, strict=True):
        assert macs / 4 < op.instructions < macs
        assert 0.1 < op.model_cycles / op.instructions < 2.0


def test_cores_differ(floats: Path) -> None:
    """The small core has other kernels, without dot product, and needs more cycles."""
    costs = {core: get_target(f"litert-arm64-sim:{core}").time([floats]) for core in ("a53", "a76", "x1")}
    counts = {core: samples.median_us for core, (samples,) in costs.items()}
    assert counts["a53"] > 1.5 * counts["a76"]
    assert counts["x1"] < counts["a76"]


def test_costs_are_thousands_of_cycles(floats: Path) -> None:
    (counts,), (samples,) = TARGET.counts([floats]), TARGET.time([floats])
    assert TARGET.unit.key == "model_cycles"
    assert samples.median_us * 1000 == pytest.approx(counts.model_cycles)
    assert samples.ci_low_us == samples.ci_high_us == samples.median_us
    profile = sum(op.us for op in TARGET.profile(floats))
    assert profile == pytest.approx(samples.median_us, rel=0.1)


@pytest.mark.slow
def test_memory_holds_the_weights(folder: Path, floats: Path) -> None:
    wide = [models.conv(0, (3, 512), 1, 4), models.conv(1, (512, 1024), 1, 4)]
    large = models.chain_tflite(wide, folder / "large.tflite")
    grown = TARGET.peak_memory(large) - TARGET.peak_memory(floats)
    assert 2 * 2**20 < grown < 12 * 2**20  # 2.1 MB of weights, once packed and once in the file


def test_reference_kernels(floats: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)
    with TARGET.reference_session(floats) as slow, TARGET.session(floats) as quick:
        np.testing.assert_allclose(slow.run_many(x), quick.run_many(x), atol=1e-4)


def test_a_refused_file_is_named(folder: Path, floats: Path) -> None:
    bad = folder / "bad.tflite"
    bad.write_bytes(floats.read_bytes()[:400])
    with pytest.raises(TargetError, match=r"bad\.tflite: the ARM64 runner .* \(.*\)"):
        TARGET.counts([floats, bad])
    with pytest.raises(TargetError, match=r"bad\.tflite: the ARM64 runner"):
        TARGET.session(bad)


def test_a_wrong_shape_is_refused(floats: Path) -> None:
    with TARGET.session(floats) as session, pytest.raises(UsageError, match=r"has shape \[1, 16, 16, 3\]"):
        session.run([np.zeros((1, 8, 8, 3), np.float32)])


def test_a_killed_runner_is_one_sentence(floats: Path) -> None:
    runner = TARGET.start_runner()
    try:
        runner.request({"op": "load", "file": str(floats), "threads": 1})
        assert runner._process is not None
        runner._process.kill()
        with pytest.raises(TargetError, match="was killed by signal 9"):
            runner.request({"op": "run"}, [np.zeros((1, 16, 16, 3), np.float32)])
    finally:
        runner.close()


def test_bench_reports_counts_and_no_time(floats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", str(floats), "--target", "litert-arm64-sim", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert set(entry) == {
        "file", "target", "instructions", "model_cycles", "peak_memory_bytes", "size_bytes", "ops",
    }  # fmt: skip
    assert entry["target"] == "litert-arm64-sim"
    assert entry["instructions"] > entry["model_cycles"] > 0
    assert [set(op) for op in entry["ops"]] == [{"name", "kind", "instructions", "model_cycles"}] * 3


def event(tag: str, kind: int, elapsed: int, start: int) -> list[object]:
    return [tag, kind, elapsed * 1000, start * 1000]


MIXED = [
    event("LiteRT::Run[buffer registration]", 1, 1, 16),
    event("invoke", 16, 12, 18),
    event("Invoke", 1, 10, 19),
    event("Convolution", 8, 1, 0),
    event("Sine", 8, 1, 0),
    event("ZEROS_LIKE", 2, 1, 23),
    event("Fully Connected", 8, 1, 0),
    event("Invoke", 32, 9, 0),
    event("LiteRT::Run[Buffer sync]", 1, 1, 29),
]


def test_events_are_matched_with_windows() -> None:
    events = [MIXED[0], event("Invoke", 1, 8, 19), *MIXED[3:7]]
    assert counting.operator_windows(events) == [
        ("Convolution", 20, 21),
        ("Sine", 21, 22),
        ("ZEROS_LIKE", 23, 24),
        ("Fully Connected", 25, 26),
    ]


def test_events_that_do_not_match_are_noticed() -> None:
    with pytest.raises(TargetError, match="read the clock 2 times more than expected"):
        counting.operator_windows(MIXED)
    with pytest.raises(TargetError, match="another order"):
        counting.operator_windows(MIXED[1:])


def test_cycles_follow_the_blocks() -> None:
    """A chain of dependent multiply-adds is slower than independent ones; unknown blocks cost the average."""
    tools, core = install.require(), cores.CORES["a76"]
    dependent = bytes.fromhex("20cc224e" * 4)  # fmla v0.4s, v1.4s, v2.4s, four times
    independent = b"".join(bytes([n, 0xCC, 0x22, 0x4E]) for n in (0x20, 0x24, 0x25, 0x26))
    slow, quick = cycles.analyse(tools, core, [dependent, independent])
    assert slow > 2 * quick
    table = cycles.CycleTable(tools, core)
    assert table.cycles(Counter({dependent: 10})) == pytest.approx(10 * slow)
    both = Counter({dependent: 1000, b"\x1f\x20\x03\xd5": 1})
    assert table.cycles(both) == pytest.approx(1000 * slow * 4001 / 4000)

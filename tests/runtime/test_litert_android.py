"""LiteRT on a stand-in phone: the ARM64 runner under qemu, reached through Debian's adb client."""

from __future__ import annotations

import numpy as np
import pytest

from mcc.errors import TargetError, UsageError
from mcc.runtime import get_target
from mcc.runtime.android.energy import energy_of
from mcc.runtime.android.facts import PhoneFacts, PhoneState, core_mask
from mcc.runtime.android.phone import phone
from mcc.runtime.android.target import AndroidTarget
from tests.runtime import models
from tests.runtime.stand_in import AdbServer
from tests.runtime.stand_in.fixtures import Plug, Trouble, adb_port, one_phone, plug

__all__ = ["adb_port", "one_phone", "plug"]


def on(server: AdbServer) -> AndroidTarget:
    target = get_target(f"litert-android:{server.serial}")
    assert isinstance(target, AndroidTarget)
    return target


def images(count: int = 3) -> models.Floats:
    return np.random.default_rng(1).standard_normal((count, 8, 8, 3)).astype(np.float32)


@pytest.mark.slow
def test_outputs_are_those_of_the_model_and_everything_is_removed(one_phone: AdbServer, tmp_path) -> None:
    model = models.conv()
    file = models.write_tflite(model, tmp_path / "a.tflite")
    target = on(one_phone)
    assert target.available().ok
    with target.session(file) as session:
        assert session.inputs[0].shape == (1, 8, 8, 3)
        made = session.run_many(images())
        assert np.array_equal(session.run([images()[:1]])[0], made[:1])
    expected = model.numpy(images().transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert np.abs(made - expected).max() < 1e-5
    (folder,) = one_phone.phone.temporary.iterdir()
    assert [path.name for path in folder.iterdir()] == [
        "litert"
    ]  # the programs alone, until the process ends
    phone(one_phone.serial).leave()
    assert list(one_phone.phone.temporary.iterdir()) == []


@pytest.mark.slow
def test_what_a_file_takes_is_asked_once(one_phone: AdbServer, tmp_path) -> None:
    """A run costs a phone up to a second; a job opens each of its files several times."""
    file = models.write_tflite(models.conv(7), tmp_path / "a.tflite")
    copy = tmp_path / "b.tflite"
    copy.write_bytes(file.read_bytes())
    before = len(one_phone.phone.commands)
    for path in (file, copy, file):
        with on(one_phone).session(path) as session:
            assert session.inputs[0].shape == (1, 8, 8, 3)
    assert sum("/runner" in line for line in one_phone.phone.commands[before:]) == 1
    other = models.write_tflite(models.conv(7, (3, 4)), file)
    with on(one_phone).session(other) as session:
        assert session.outputs[0].shape == (1, 8, 8, 4)


def test_int8_is_bit_equal_to_the_host(one_phone: AdbServer, tmp_path) -> None:
    file = models.chain_tflite_int8([models.conv()], tmp_path / "q.tflite")
    results = []
    for target in (on(one_phone), get_target("litert-host")):
        with target.session(file) as session:
            assert session.inputs[0].scale == pytest.approx(0.05)
            results.append(session.run_many(images(), raw=True))
    assert results[0].dtype == np.int8
    assert np.array_equal(*results)


def test_operators_and_peak_memory(one_phone: AdbServer, tmp_path) -> None:
    convs = [models.conv(0), models.conv(1, (8, 4))]
    file = models.chain_tflite(convs, tmp_path / "b.tflite")
    ops = on(one_phone).profile(file, runs=2)
    assert len(ops) == len(convs)
    assert all("Convolution" in op.kind for op in ops)
    assert on(one_phone).peak_memory(file) > 0


@pytest.mark.slow
def test_timing_notes_the_state_of_the_phone(one_phone: AdbServer, tmp_path, monkeypatch) -> None:
    from mcc.runtime import timing
    from mcc.runtime.android import runner

    monkeypatch.setattr(timing, "MIN_ROUNDS", 2)
    monkeypatch.setattr(timing, "WARM_LIMIT_S", 0.0)
    files = [models.write_tflite(models.conv(seed), tmp_path / f"{seed}.tflite") for seed in (0, 1)]
    target = on(one_phone)
    samples = target.time(files, budget_s=0.0)
    assert [len(each.turns) for each in samples] == [2, 2]
    told = target.conditions(files[0])
    assert told["emulated"]  # by the phone's own account: its times are no phone's
    assert "emulated" in target.fingerprint().device
    state = told["phone"]
    assert state["cores"] == list(phone(one_phone.serial).facts.fastest_cores(1))
    assert state["cooled_s"] == 0
    for moment in ("before", "after"):
        assert state[moment]["thermal_status"] == 0
        assert state[moment]["hottest_celsius"] == 31.0
        assert state[moment]["governors"] == ["schedutil"]
    monkeypatch.setattr(runner, "BUSY_S", 1)
    monkeypatch.setattr(runner, "REST_S", 1)
    energy = target.conditions(files[0])["energy"]
    assert energy["rest_mw"] == pytest.approx(0.412 * 4.012 * 1000)  # the stand-in's battery never changes
    assert energy["microjoules"] == pytest.approx(0.0, abs=1e-9)
    pinned = [line for line in one_phone.phone.commands if " turn " in line]
    assert pinned
    assert all(f" {core_mask(state['cores'])} " in line for line in pinned)


def test_what_the_phone_refuses_names_the_file(one_phone: AdbServer, tmp_path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    with pytest.raises(
        TargetError, match=r"broken\.tflite: failed on the Android device .*: runner: .*LiteRtCreateModel"
    ):
        on(one_phone).session(broken)
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    with (
        on(one_phone).session(file) as session,
        pytest.raises(UsageError, match=r"has shape \[1, 8, 8, 3\], got"),
    ):
        session.run_many(images()[:, :4])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (Trouble(kill=r"runner.*--runs", after_s=0.0), r"a\.tflite: what ran on .* was killed by signal 9"),
        (
            Trouble(unplug=r"runner.*--runs", after_s=0.0),
            r"a\.tflite: the Android device .* was unplugged half-way",
        ),
    ],
)
def test_killed_or_unplugged_while_it_is_timed(trouble: Trouble, sentence: str, plug: Plug, tmp_path) -> None:
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    with pytest.raises(TargetError, match=sentence):
        on(plug(trouble=trouble)).time([file], budget_s=0.0)


def test_without_the_runner(one_phone: AdbServer, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("MCC_TOOLS_DIR", str(tmp_path))
    state = on(one_phone).available()
    assert not state.ok
    assert "mcc doctor --install" in state.how_to_get


PIXEL = """ro.product.manufacturer=Google
ro.product.model=Pixel 8
ro.soc.manufacturer=Google
ro.soc.model=Tensor G3
ro.build.version.release=15
ro.build.version.sdk=35
ro.product.cpu.abi=arm64-v8a
ro.product.cpu.abilist=arm64-v8a
ro.boot.qemu=
khz.0=1704000
khz.4=2367000
khz.8=2914000
khz.5=2367000
features= fp asimd
"""


def test_facts_of_a_phone() -> None:
    facts = PhoneFacts.read(PIXEL)
    assert facts.device.startswith("Google Pixel 8, Google Tensor G3, arm64-v8a [")
    assert facts.system == "android-15 (API 35)"
    assert not facts.emulated
    assert facts.fastest_cores(1) == (8,)
    assert facts.fastest_cores(2) == (4, 5, 8)
    assert facts.fastest_cores(5) == ()  # more threads than cores with a known clock: bound to none
    assert core_mask((4, 5, 8)) == "130"
    assert core_mask(()) == "0"


def test_a_phone_that_tells_nothing() -> None:
    state = PhoneState.read("thermal=\nhottest=\ngovernor.0=\nload=\nbattery_microamperes=\n")
    assert state.thermal is state.load is state.battery_microamperes is None
    assert state.to_dict()["governors"] == []
    assert PhoneFacts.read("").fastest_cores(1) == ()


@pytest.mark.slow
def test_reference_kernels_give_the_same_numbers(one_phone: AdbServer, tmp_path) -> None:
    file = models.write_tflite(models.conv(), tmp_path / "a.tflite")
    target = on(one_phone)
    reference = target.reference_session(file)
    assert reference is not None
    with reference, target.session(file) as session:
        assert np.abs(reference.run_many(images(1)) - session.run_many(images(1))).max() < 1e-5
    assert any("--kernels reference" in line for line in one_phone.phone.commands)
    assert target.sparse_kernels(file) == 0


def test_energy_is_what_inferences_add() -> None:
    rest, busy = ["-500000 4000000", "", "-500000 4000000"], ["-1000000 4000000"]
    energy = energy_of(rest, busy, [10_000_000, 30_000_000])
    assert energy is not None
    assert (energy.rest_mw, energy.busy_mw) == (-2000.0, -4000.0)
    assert energy.microjoules == pytest.approx(2.0 * 0.020 * 1e6)  # 2 W for 20 ms
    assert energy_of([""], [" 4000000"], [1]) is None
    assert energy_of(rest, busy, []) is None

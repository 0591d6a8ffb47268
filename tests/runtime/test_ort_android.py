"""onnxruntime on a stand-in phone."""

from __future__ import annotations

import numpy as np
import pytest

from mcc.errors import TargetError
from mcc.runtime import get_target
from tests.runtime import models
from tests.runtime.stand_in import AdbServer
from tests.runtime.stand_in.fixtures import adb_port, one_phone

__all__ = ["adb_port", "one_phone"]


@pytest.mark.slow  # qemu translates 27 MB of library for every run
def test_outputs_operators_and_memory(one_phone: AdbServer, tmp_path) -> None:
    convs = [models.conv(0), models.conv(1, (8, 4))]
    file = models.chain_onnx(convs, tmp_path / "a.onnx")
    target = get_target(f"ort-android:{one_phone.serial}")
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    with target.session(file) as session:
        assert session.inputs[0].shape == (1, 3, 8, 8)
        made = session.run_many(x)
    assert np.abs(made - convs[1].numpy(convs[0].numpy(x))).max() < 1e-5
    ops = target.profile(file, runs=2)
    assert [(op.name, op.kind) for op in ops if "Conv" in op.kind] == [
        ("conv0", "FusedConv"),
        ("conv1", "FusedConv"),
    ]
    assert all(op.us > 0 for op in ops if "Conv" in op.kind)
    assert target.peak_memory(file) > 0
    assert target.fingerprint().runtime == "onnxruntime"


@pytest.mark.slow
def test_what_onnxruntime_refuses_is_told_in_its_own_words(one_phone: AdbServer, tmp_path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    target = get_target(f"ort-android:{one_phone.serial}")
    with pytest.raises(
        TargetError, match=r"broken\.onnx: failed on the Android device .*runner: .*Protobuf parsing"
    ):
        target.session(broken)


def test_without_the_library(one_phone: AdbServer, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("MCC_TOOLS_DIR", str(tmp_path))
    state = get_target(f"ort-android:{one_phone.serial}").available()
    assert not state.ok
    assert state.how_to_get == "mcc doctor --install ort-android"

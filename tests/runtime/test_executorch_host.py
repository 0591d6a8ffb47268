"""`executorch-host`: numbers, threads, memory and profiles in fresh processes, against torch."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcc.errors import DataError, TargetError, UsageError
from mcc.ir.graph import Graph, GraphBuilder, run
from mcc.lower.pte.writer import to_pte, write_pte
from mcc.runtime import get_target
from mcc.runtime.executorch_host import op_times
from tests.quant.graphs import mobile_net, quantise

TARGET = get_target("executorch-host")


def test_it_is_here() -> None:
    state = TARGET.available()
    assert state.ok, f"{state.reason}; {state.how_to_get}"


@pytest.mark.slow
def test_outputs_equal_torch_with_any_number_of_threads(tmp_path: Path) -> None:
    graph, x = mobile_net(), torch.randn(5, 3, 32, 32)
    file = write_pte(graph, tmp_path / "net.pte")
    for threads in (1, 2):
        with TARGET.session(file, threads) as session:
            assert (session.inputs[0].shape, session.inputs[0].dtype) == ((1, 3, 32, 32), "float32")
            made = session.run_many(x.numpy())
            with pytest.raises(UsageError, match="has shape"):
                session.run([x[:1, :2].numpy()])
            again = session.run([x[:1].numpy()])[0]
        np.testing.assert_allclose(made, run(graph, x)[0].numpy(), atol=1e-4)
        np.testing.assert_array_equal(again, made[:1])


@pytest.mark.slow
def test_profile_names_the_kernels_that_ran(tmp_path: Path) -> None:
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    for name, graph, kind in (
        ("float", mobile_net(), "Convolution (NHWC, F32)"),
        ("int8", quantise(mobile_net(), x), "Convolution (NHWC, QC8)"),
    ):
        ops = TARGET.profile(write_pte(graph, tmp_path / f"{name}.pte"), runs=3)
        assert sum(op.kind.startswith(kind) for op in ops) >= 6  # 1x1 convolutions are fully connected
        assert sum(op.kind.startswith("Mean") for op in ops) == 1
        assert all(op.us >= 0 for op in ops)
        assert len({op.name for op in ops}) == len(ops)


def test_a_dump_without_operators_is_told() -> None:
    with pytest.raises(TargetError, match="timed no operator"):
        op_times({"run_data": [{"name": "Execute", "events": []}] * 3})


def test_the_first_inference_and_the_wholes_do_not_count() -> None:
    def block(us: int) -> dict[str, Any]:
        own = {"delegate_debug_id_str": "Add #1", "start_time": 0, "end_time": 1000 * us}
        whole = {"name": "Method::execute", "start_time": 0, "end_time": 10**9}
        return {"name": "Execute", "events": [{"profile_event": own}, {"profile_event": whole}]}

    blocks = [{"name": "Default", "events": []}, block(900), block(7), block(9)]
    (op,) = op_times({"run_data": blocks})
    assert (op.name, op.kind, op.us) == ("Add #1", "Add", 8.0)


def large(outputs: int) -> Graph:
    b = GraphBuilder()
    x = b.input("x", (1, 1024))
    return b.finish(b.linear(x, b.constant("w", torch.randn(outputs, 1024)), None))


@pytest.mark.slow
def test_peak_memory_shows_large_weights(tmp_path: Path) -> None:
    growth = TARGET.peak_memory(write_pte(large(8192), tmp_path / "large.pte"))
    assert growth > 16 << 20
    assert growth > TARGET.peak_memory(write_pte(large(8), tmp_path / "small.pte")) + (16 << 20)


@pytest.mark.slow
def test_corrupt_files_give_one_clear_sentence(tmp_path: Path) -> None:
    whole = to_pte(large(8))
    for name, raw in (("noise", bytes(range(256)) * 8), ("cut", whole[: len(whole) // 2])):
        file = tmp_path / f"{name}.pte"
        file.write_bytes(raw)
        with pytest.raises((DataError, TargetError)) as caught:
            TARGET.session(file)
        text = str(caught.value)
        assert text.startswith(str(file))
        assert "\n" not in text
        assert "Traceback" not in text


def test_its_absence_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_pte(large(8), tmp_path / "net.pte")
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "executorch" else found(name))
    assert not TARGET.available().ok
    for attempt in (lambda: TARGET.session(file), lambda: to_pte(large(8))):
        with pytest.raises(
            TargetError, match=r'ExecuTorch is not installed.*-m pip install -e ".*\[executorch\]"'
        ):
            attempt()

"""What a prediction lacks is measured at once: the most valuable first where there is no time for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from cost_models.lookup import LookupCostModel
from mcc.calibrate import api, missing
from mcc.calibrate import measure as measuring
from mcc.calibrate.measure import overhead_kernel
from mcc.calibrate.missing import by_value, fill
from mcc.calibrate.store import Store, Whole
from mcc.calibrate.timing_by_profile import Profiled
from mcc.cost_api import Kernel, Measurement, graph_kernels
from mcc.errors import TargetError
from mcc.ir.graph import inputs
from mcc.ir.notes import shape_of
from mcc.runtime.registry import get_target
from mcc.runtime.target import Availability
from tests.calibrate.kernels import add, conv, linear, pool, surface_us
from tests.lower.tflite.networks import resnet20

TARGET = get_target("litert-host")
FINGERPRINT = TARGET.fingerprint().key()


def row(kernel: Kernel) -> Measurement:
    us = surface_us(kernel)
    return Measurement(kernel, us, us, us, 10, "2026-11-30", 0.0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Kernel]:
    """Measuring replaced by a made-up device whose overhead is known; gives what was measured, in order."""
    found: list[Kernel] = []

    def profiled(kernels: Sequence[Kernel], *_: object, **__: object) -> Profiled:
        found.extend(kernels)
        return Profiled(tuple(row(kernel) for kernel in kernels), spread=0.0)

    monkeypatch.setattr(measuring, "measure_profiled", profiled)
    monkeypatch.setattr(measuring, "has_profile", lambda *_: True)
    monkeypatch.setattr(missing, "measure_overhead", lambda *_, **__: None)
    return found


def test_a_network_is_measured_from_an_empty_table(measured: list[Kernel], tmp_path: Path) -> None:
    graph, table = resnet20(), tmp_path / "t.sqlite"
    kernels = set(graph_kernels(graph).values())
    first = fill(graph, TARGET, table=table)
    assert (first.measured, first.left, first.failed, first.why_not) == (len(kernels), 0, (), "")
    assert set(measured) == {*kernels, overhead_kernel((1, 3, 32, 32), "float")}
    cost = api.predict_graph(graph, TARGET, table=table)
    assert cost.rooflines() == ()
    again = fill(graph, TARGET, table=table)
    assert again.measured == 0
    assert len(measured) == 2 * (len(kernels) + 1)  # in two sessions at first, and no more after that


def test_convolutions_are_first_where_the_profile_is_coarse(
    measured: list[Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of a profile may take all of the time, and convolutions take most of a network's."""

    def differenced(kernels: Sequence[Kernel], *_: object, **__: object) -> list[Measurement]:
        measured.extend(kernels)
        return [row(kernel) for kernel in kernels]

    monkeypatch.setattr(measuring, "measure_differenced", differenced)
    monkeypatch.setattr(measuring, "profile_excess", lambda *_, **__: None)
    monkeypatch.setattr(measuring, "_bare_facts", {})
    coarse = get_target("ort-host")
    monkeypatch.setattr(type(coarse), "time", lambda *_, **__: (SimpleNamespace(median_us=1.0),))
    fill(resnet20(), coarse, table=tmp_path / "t.sqlite")
    ops = [kernel.op for kernel in measured]
    first = next(place for place, op in enumerate(ops) if op not in ("conv2d", "linear"))
    assert first == len({kernel for kernel in measured if kernel.op in ("conv2d", "linear")})


def test_without_time_for_all_the_rest_is_counted(measured: list[Kernel], tmp_path: Path) -> None:
    table = tmp_path / "t.sqlite"
    found = fill(resnet20(), TARGET, table=table, budget_s=-1.0)
    assert (found.measured, found.left) == (0, len(set(graph_kernels(resnet20()).values())))


def test_a_target_that_is_not_here_is_a_reason_and_no_error(
    measured: list[Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "t.sqlite"
    monkeypatch.setattr(
        type(TARGET), "available", lambda self: Availability(False, "no such runtime", "get it")
    )
    assert "no such runtime" in fill(resnet20(), TARGET, table=table).why_not
    monkeypatch.undo()

    def fails(*_: object, **__: object) -> None:
        raise TargetError("the runner died")

    monkeypatch.setattr(missing, "measure_overhead", fails)
    assert "the runner died" in fill(resnet20(), TARGET, table=table).why_not


def test_a_kind_never_measured_is_named_until_it_is(measured: list[Kernel], tmp_path: Path) -> None:
    graph, table = resnet20(), tmp_path / "t.sqlite"
    kernels = graph_kernels(graph)
    unseen = [kernel for kernel in kernels.values() if kernel.op == "add"]
    with Store(table) as store:
        store.add(FINGERPRINT, [row(k) for k in dict.fromkeys(kernels.values()) if k.op != "add"])
        source = measuring.input_name(shape_of(inputs(graph)[0]))
        store.set_whole(FINGERPRINT, Whole("overhead", "float", 2.0, 1.0, 3.0, source, "2026-11-30"))
    before = api.predict_graph(graph, TARGET, table=table)
    (roofline,) = before.rooflines()
    assert (roofline.kind, roofline.kernels) == ("add, float", len(unseen))
    assert 0 < roofline.share == before.roofline_share < 1
    assert fill(graph, TARGET, table=table).measured == len(set(unseen))
    after = api.predict_graph(graph, TARGET, table=table)
    assert after.roofline_share == 0
    true = 2.0 + sum(surface_us(kernel) for kernel in kernels.values())
    assert after.cost == pytest.approx(true)
    widths = [high - low for low, high in (before.interval, after.interval)]
    assert widths[1] < widths[0]


def test_the_most_valuable_come_first() -> None:
    """One kernel of each kind that was never measured, then what adds most to the error."""
    known = [conv(read, made, size=size) for read in (8, 24) for made in (8, 32) for size in (4, 16)]
    model = LookupCostModel(tuple(map(row, [*known, linear(16, 10)])))
    often, seldom, large, small = conv(16, 16), conv(16, 24), add(64, 32), add(8)
    order = by_value([small, seldom, often, often, often, often, large, pool(8)], model)
    assert set(order[:2]) == {large, pool(8)}
    assert order.index(small) > 1
    assert order.index(often) < order.index(seldom)
    assert len(order) == len(set(order)) == 5

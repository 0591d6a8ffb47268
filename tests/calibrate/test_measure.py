"""Measuring: differences on made-up times, resuming, budgets, failures, and which kernels a network needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cost_models.lookup import LookupCostModel
from mcc.calibrate import api, kernel_selection, timing_by_difference
from mcc.calibrate import measure as measuring
from mcc.calibrate.kernel_selection import Choices, kernels_for, rounded
from mcc.calibrate.measure import measure, measure_again, measure_overhead
from mcc.calibrate.store import Store
from mcc.calibrate.timing_by_difference import copies_of, difference
from mcc.calibrate.timing_by_profile import Profiled
from mcc.cost_api import Kernel, Measurement, graph_kernels
from mcc.errors import TargetError, UnsupportedError, UsageError
from mcc.runtime.registry import get_target
from tests.calibrate.kernels import add, conv, linear, pool, surface_us
from tests.lower.tflite.networks import mobilenet_v2, resnet20

TARGET = get_target("litert-host")
SPREAD = 0.125  # of the made-up device


def test_the_difference_is_that_of_the_copies() -> None:
    kernel_us, rest_us, copies = 7.0, 40.0, 9
    drift = [1.0, 1.02, 0.98, 1.5, 1.0]
    many = [(rest_us + copies * kernel_us) * d for d in drift]
    one = [(rest_us + kernel_us) * d for d in drift]
    middle, low, high = difference(many, one, copies)
    assert middle == pytest.approx(kernel_us, rel=0.01)
    assert low <= middle <= high


def test_a_stem_is_timed_outside_of_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layouts: list[str] = []

    def built(kernel: Kernel, *_: object, **__: object) -> None:
        layouts.append(kernel.layout)
        raise UnsupportedError("far enough")

    monkeypatch.setattr(timing_by_difference, "copies_network", built)
    for channels in (3, 4):
        kernel = replace(conv(channels, 8, window=3), layout="nchw")
        with pytest.raises(UnsupportedError, match="far enough"):
            timing_by_difference.measure_differenced([kernel], TARGET, tmp_path, threads=1)
    assert layouts == ["nhwc", "nchw"]


def test_short_kernels_are_copied_more_often() -> None:
    assert copies_of(conv(8, 8)) > copies_of(conv(256, 256, size=32)) >= 4


@pytest.mark.slow
def test_kernels_are_measured_in_the_runtime_and_not_twice(tmp_path: Path) -> None:
    asked = [
        conv(8, 16),
        conv(8, 16),
        add(16),
        pool(16),
        linear(16, 4),
        replace(conv(8, 8), precision="int8"),
    ]
    with Store(tmp_path / "t.sqlite") as store:
        first = measure(asked, TARGET, store)
        assert (first.measured, first.known, first.left, first.failed) == (5, 0, 0, ())
        again = measure(asked, TARGET, store)
        assert (again.measured, again.known) == (0, 5)
        assert all(row.latency_us > 0 for row in store.rows(TARGET.fingerprint().key()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Kernel]]:
    """Measuring replaced by a made-up device; gives the calls."""
    calls: list[Sequence[Kernel]] = []

    def measured(kernels: Sequence[Kernel], *_: object, **__: object) -> Profiled:
        calls.append(kernels)
        if any(kernel.output[1] == 13 for kernel in kernels):
            raise TargetError("13 brings bad luck")
        each = [(kernel, surface_us(kernel)) for kernel in kernels]
        rows = tuple(Measurement(kernel, us, us, us, 10, "2026", 0.0) for kernel, us in each)
        return Profiled(rows, SPREAD)

    monkeypatch.setattr(measuring, "measure_profiled", measured)
    return calls


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Kernel]]:
    """Measuring by difference replaced, too; gives the calls."""
    calls: list[Sequence[Kernel]] = []

    def measured(kernels: Sequence[Kernel], *_: object, **__: object) -> list[Measurement]:
        calls.append(kernels)
        if any(kernel.output[1] == 13 for kernel in kernels):
            raise TargetError("13 brings bad luck here, too")
        return [Measurement(k, surface_us(k), surface_us(k), surface_us(k), 10, "2026", 0.0) for k in kernels]

    monkeypatch.setattr(measuring, "measure_differenced", measured)
    return calls


def test_a_kernel_that_fails_costs_only_itself(
    tmp_path: Path, quick: list[Sequence[Kernel]], apart: list[Sequence[Kernel]]
) -> None:
    asked = [conv(8, made) for made in range(9, 17)]
    with Store(tmp_path / "t.sqlite") as store:
        report = measure(asked, TARGET, store)
        assert report.measured == 7
        assert report.failed == ((str(conv(8, 13)), "13 brings bad luck here, too"),)


def test_what_the_profile_cannot_tell_is_measured_by_difference(
    tmp_path: Path,
    quick: list[Sequence[Kernel]],
    apart: list[Sequence[Kernel]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kind at fault alone, and without a further try of the profile in later files."""
    monkeypatch.setattr(measuring, "files_of", lambda kernels: [kernels[:4], kernels[4:]])
    first = [conv(8, 13), conv(8, 16), add(8), add(16)]
    with Store(tmp_path / "t.sqlite") as store:
        report = measure([*first, conv(8, 24), add(24)], TARGET, store)
        assert (report.measured, len(report.failed)) == (5, 1)
    assert list(quick) == [first, [add(8), add(16)], [conv(8, 13), conv(8, 16)], [add(24)]]
    assert [conv(8, 24)] in apart


def test_a_spent_budget_leaves_the_rest_for_later(tmp_path: Path, quick: list[Sequence[Kernel]]) -> None:
    asked = [conv(8, 16), replace(conv(8, 16), precision="int8")]
    with Store(tmp_path / "t.sqlite") as store:
        report = measure(asked, TARGET, store, budget_s=-1.0)
        assert (report.measured, report.left) == (0, 2)
        report = measure(asked, TARGET, store)
        assert (report.measured, report.left) == (2, 0)


def test_measured_again_the_faster_counts(
    tmp_path: Path, quick: list[Sequence[Kernel]], apart: list[Sequence[Kernel]]
) -> None:
    slow, fast, unlucky = conv(8, 16), conv(8, 24), conv(8, 13)
    fingerprint = TARGET.fingerprint().key()
    with Store(tmp_path / "t.sqlite") as store:
        for kernel, share in ((slow, 2.0), (fast, 0.5), (unlucky, 2.0)):
            us = share * surface_us(kernel)
            store.add(fingerprint, [Measurement(kernel, us, us, us, 10, "2025", 0.0)])
        ((before, now),) = measure_again([slow, fast, unlucky], TARGET, store)
        assert (before.kernel, before.latency_us, now.latency_us) == (
            slow,
            2 * surface_us(slow),
            surface_us(slow),
        )
        rows = {row.kernel: row.latency_us for row in store.rows(fingerprint)}
    assert rows == {slow: surface_us(slow), fast: 0.5 * surface_us(fast), unlucky: 2 * surface_us(unlucky)}


def test_measured_again_together_the_faster_session_counts(
    tmp_path: Path, quick: list[Sequence[Kernel]]
) -> None:
    """By the sum: the luckier half of each session would be a time that the machine never had."""
    fingerprint = TARGET.fingerprint().key()
    shares = {conv(8, 16): 1.3, conv(8, 24): 0.9}
    with Store(tmp_path / "t.sqlite") as store:
        for kernel, share in shares.items():
            us = share * surface_us(kernel)
            store.add(fingerprint, [Measurement(kernel, us, us, us, 10, "2025", 0.0)])
        measure_again(list(shares), TARGET, store, together=True)
        rows = {row.kernel: row for row in store.rows(fingerprint)}
    for kernel, share in shares.items():
        assert rows[kernel].latency_us == surface_us(kernel)
        assert rows[kernel].high_us == pytest.approx(max(1.0, share) * surface_us(kernel))


def test_the_network_itself_comes_first_and_ends_keep_their_channels() -> None:
    graph = resnet20()
    found = kernels_for(graph, TARGET, Choices(precisions=("float",)))
    whole = list(dict.fromkeys(graph_kernels(graph).values()))
    assert found[: len(whole)] == whole
    assert len(found) == len(set(found)) > 2 * len(whole)
    assert all(
        k.operands[0].shape[1] == 3 for k in found if k.output[2:] == (32, 32) and k.operands[0].shape[1] < 4
    )
    assert {k.output[1] for k in found if k.op == "linear"} == {10}


@pytest.mark.slow
def test_integer_and_sparse_forms_where_the_target_has_them() -> None:
    graph, web = mobilenet_v2(), get_target("litert-web")
    host = kernels_for(graph, TARGET, Choices())
    assert {kernel.precision for kernel in host} == {"float", "int8"}
    assert not any(kernel.sparse for kernel in host)
    thin = [
        kernel
        for kernel in kernels_for(graph, web, kernel_selection.choices_for(web))
        if kernel.layout == "nchw"
    ]
    assert {kernel.sparse.sparsity for kernel in thin if kernel.sparse} == {0.7, 0.8, 0.9}
    assert any(kernel.op == "add" and kernel.sparse is None for kernel in thin)


def test_widths_are_rounded_up_and_never_grow() -> None:
    assert [rounded(64, ratio, 8) for ratio in (1.0, 0.6, 0.1)] == [64, 40, 8]
    assert rounded(6, 0.5, 8) == 4
    assert rounded(3, 1.0, 8) == 3


def test_a_graph_is_predicted_from_its_own_rows(tmp_path: Path, quick: list[Sequence[Kernel]]) -> None:
    graph, table = resnet20(), tmp_path / "t.sqlite"
    with pytest.raises(UsageError, match="no operator was measured"):
        api.predict_graph(graph, TARGET, table=table)
    with Store(table) as store:
        measure(list(graph_kernels(graph).values()), TARGET, store)
        model = LookupCostModel.from_store(store, TARGET.fingerprint().key())
    cost = api.predict_graph(graph, TARGET, table=table)
    assert all(layer.estimate.source == "measured" for layer in cost.layers)
    assert cost.cost == pytest.approx(sum(surface_us(k) for k in graph_kernels(graph).values()))
    assert model.name == "lookup"
    assert cost.whole_error == model.whole_error == SPREAD  # the machine's, where that is more than usual


@pytest.mark.slow
def test_the_overhead_is_measured_once(tmp_path: Path) -> None:
    with Store(tmp_path / "t.sqlite") as store:
        first = measure_overhead((1, 3, 8, 8), "int8", TARGET, store)
        assert first.value > 0
        assert measure_overhead((1, 3, 8, 8), "int8", TARGET, store) == first

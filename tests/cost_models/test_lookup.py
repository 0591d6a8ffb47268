"""The lookup model: measured rows count, the fit finds a known surface, and it is never absurd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cost_models.lookup import LookupCostModel
from mcc.calibrate.store import Store, Whole
from mcc.cost_api import Kernel, Measurement
from mcc.cost_sum import predict
from mcc.ir.notes import SparseNote
from tests.calibrate.kernels import add, conv, linear, pool, surface_us

GRID = [conv(read, made, size=size) for read in (8, 24, 64) for made in (8, 32, 96) for size in (4, 16)]
BETWEEN = [conv(read, made, size=size) for read in (12, 48) for made in (20, 64) for size in (8, 12)]


def measured(kernel: Kernel, us: float | None = None) -> Measurement:
    value = surface_us(kernel) if us is None else us
    return Measurement(kernel, value, value, value, 100, "2026-11-23", 0.0)


def model(*extra: Measurement) -> LookupCostModel:
    return LookupCostModel((*map(measured, GRID), *extra), {"float": 3.0})


def test_a_measured_kernel_is_looked_up() -> None:
    found = model().kernel(GRID[3])
    assert found.source == "measured"
    assert found.cost == surface_us(GRID[3])


def test_the_fit_recovers_a_known_surface() -> None:
    fitted = model()
    for kernel in BETWEEN:
        found = fitted.kernel(kernel)
        assert found.source == "fitted"
        assert found.cost == pytest.approx(surface_us(kernel), rel=0.05)


def test_a_wrong_row_changes_its_neighbours() -> None:
    wrong = conv(12, 24, size=8)
    near = conv(16, 24, size=8)
    before = model().kernel(near).cost
    after = model(measured(wrong, 3 * surface_us(wrong))).kernel(near).cost
    assert after > 1.1 * before


def test_far_from_what_was_measured_the_error_grows() -> None:
    fitted = model(*[measured(k, surface_us(k) * 1.3) for k in (conv(30, 30, size=9), conv(70, 20, size=13))])
    near, far = fitted.kernel(conv(24, 40, size=16)), fitted.kernel(conv(500, 900, size=60))
    assert far.error / far.cost > near.error / near.cost


@pytest.mark.parametrize("seed", range(20))
def test_few_rows_of_early_layers_say_little_about_late_ones_and_admit_it(seed: int) -> None:
    """Six rows determine ten weights by chance: weights that they do not determine stay near the roofline."""
    rng = np.random.default_rng(seed)
    early = [
        conv(*rng.choice([8, 16, 24, 32], 2).tolist(), size=int(rng.choice([32, 48, 64]))) for _ in range(6)
    ]
    early += [conv(16, 16, window=5, groups=16, size=32), add(16, size=32), pool(16, size=32)]
    late = [conv(wide, 6 * wide, size=size) for wide in (64, 96, 160, 320) for size in (4, 8)]
    rows = {str(k): measured(k, surface_us(k) * rng.uniform(0.9, 1.1)) for k in early}
    few = LookupCostModel(tuple(rows.values()))
    said, true = [few.kernel(kernel) for kernel in late], [surface_us(kernel) for kernel in late]
    assert sum(one.cost for one in said) == pytest.approx(sum(true), rel=0.5)
    for one, us in zip(said, true, strict=True):
        assert abs(one.cost - us) < 3 * one.error


def test_nothing_is_negative_or_cheaper_for_many_times_the_work() -> None:
    rng = np.random.default_rng(0)
    noisy = LookupCostModel(tuple(measured(k, surface_us(k) * rng.uniform(0.9, 1.1)) for k in GRID))
    for kernel in (conv(1, 1, size=1), conv(2000, 3000, size=100), add(4), pool(1000), linear(10, 10)):
        assert noisy.kernel(kernel).cost > 0
    for read, made, size in [(8, 8, 8), (16, 32, 8), (32, 64, 4)]:
        small, large = conv(read, made, size=size), conv(4 * read, 4 * made, size=size)
        assert noisy.kernel(large).cost > noisy.kernel(small).cost


def test_families_do_not_mix() -> None:
    slow = [measured(replace(k, precision="int8"), 10 * surface_us(k)) for k in GRID]
    both = model(*slow)
    kernel = BETWEEN[0]
    assert both.kernel(kernel).cost == pytest.approx(surface_us(kernel), rel=0.05)
    integer = both.kernel(replace(kernel, precision="int8"))
    assert integer.cost == pytest.approx(10 * surface_us(kernel), rel=0.1)


def test_an_operator_never_seen_gets_a_value_with_a_large_error() -> None:
    found = model().kernel(add(32))
    assert found.source == "roofline"
    assert found.error >= 0.3 * found.cost
    sparse = model().kernel(replace(GRID[0], layout="nchw", sparse=SparseNote(1, 0.8)))
    assert sparse.cost > 0
    assert LookupCostModel(()).kernel(add(8)).cost > 0


def test_a_row_that_was_disturbed_gives_way_to_its_neighbours() -> None:
    kernel = BETWEEN[0]
    disturbed = Measurement(kernel, 500.0, 10.0, 990.0, 100, "2026-11-23", 2.0)
    found = model(disturbed).kernel(kernel)
    assert found.source == "fitted"
    assert found.cost == pytest.approx(surface_us(kernel), rel=0.05)


def test_a_correction_scales_the_kernels_of_its_precision() -> None:
    plain = model()
    scaled = plain.corrected("float", 1.25)
    assert scaled.kernel(BETWEEN[0]).cost == pytest.approx(1.25 * plain.kernel(BETWEEN[0]).cost)
    assert scaled.overhead("float").cost == 3.0


def test_a_whole_graph_is_the_sum_of_its_kernels_and_the_overhead() -> None:
    cost = predict(model(), {"a": GRID[0], "b": GRID[1]})
    assert cost.cost == pytest.approx(3.0 + surface_us(GRID[0]) + surface_us(GRID[1]))


def test_from_a_table_with_figures_of_whole_networks(tmp_path: Path) -> None:
    with Store(tmp_path / "t.sqlite") as store:
        store.add("f", [measured(kernel) for kernel in GRID])
        store.set_whole("f", Whole("overhead", "float", 7.0, 6.0, 8.0, "input 1x3x8x8", "2026-01-01"))
        store.set_whole("f", Whole("overhead", "float", 9.0, 6.0, 8.0, "input 1x3x9x9", "2026-01-02"))
        store.set_whole("f", Whole("correction", "float", 1.1, 1.0, 1.2, "family a", "2026-01-01"))
        latest = LookupCostModel.from_store(store, "f")
        chosen = LookupCostModel.from_store(store, "f", "input 1x3x8x8", "family a")
        others = LookupCostModel.from_store(store, "f", "input 1x3x8x8", "family b")
    assert (latest.overhead("float").cost, chosen.overhead("float").cost) == (9.0, 7.0)
    assert chosen.kernel(GRID[0]).cost == pytest.approx(1.1 * surface_us(GRID[0]))
    for plain in (latest, others):  # a correction is of one family, and no other takes it
        assert plain.kernel(GRID[0]).cost == pytest.approx(surface_us(GRID[0]))
    assert chosen.overhead("int8").source == "fitted"


def test_rows_slower_than_their_like_are_suspects() -> None:
    assert model().suspects() == []
    slow = [measured(kernel, 1.6 * surface_us(kernel)) for kernel in GRID[2:4]]
    vague = replace(measured(conv(40, 40, size=8)), low_us=0.0, high_us=1e3)
    rows = {str(row.kernel): row for row in (*map(measured, GRID), *slow, vague)}
    found = LookupCostModel(tuple(rows.values())).suspects()
    assert found[0] == vague.kernel
    assert set(found[1:]) == {GRID[2], GRID[3]}


def test_a_row_faster_than_its_like_is_none() -> None:
    fast = measured(GRID[3], 0.6 * surface_us(GRID[3]))
    rows = {str(row.kernel): row for row in (*map(measured, GRID), fast)}
    assert fast.kernel not in LookupCostModel(tuple(rows.values())).suspects()

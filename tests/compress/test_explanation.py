"""What could have been done to a layer: every form and width is listed, and reasons follow the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mcc.analysis.sparse_cluster import find_sparse_cluster
from mcc.cli import main
from mcc.cli.explain import show
from mcc.compress.build import Structure
from mcc.compress.configurations import planned_integers
from mcc.compress.explanation import NO_DATES, Alternative, Choice, Explainer, price_of_time, reason
from mcc.errors import DataError, UsageError
from mcc.ir.graph import calls, operand
from mcc.ir.notes import SparseNote, shape_of
from mcc.pipeline import deployment_form
from mcc.search.solver import Limits, solve
from mcc.search.space import Configuration, rank_levels
from mcc.search.tables import Setting
from tests.search.test_problem import MacsModel, network, sensitivities

REGIMES = (Configuration(), Configuration("int8"), Configuration("float", SparseNote(1, 0.7)))
PAYS = "; the plan pays {} for a ms at the margin"
TAKEN = Alternative("dense, float", 10.0, 0.1, "measured", 400.0, 0.010, taken=True)


CONV7 = shape_of(operand(next(n for n in calls(network("mobile")) if n.name == "conv7"), 1))[:2]


def explainer(
    structure: Structure, price: float | None = None, dates: Mapping[str, str] = NO_DATES
) -> Explainer:
    graph = network("mobile")
    whole = deployment_form(graph)
    cluster = find_sparse_cluster(whole)
    known = replace(
        sensitivities(graph),
        ranks={"conv7": dict.fromkeys(rank_levels(*CONV7), 0.3)},
        sparse={name: {0.7: 0.01, 0.8: 0.02, 0.9: 0.05} for name in cluster.pointwise},
    )
    setting = Setting(whole, planned_integers(whole), cluster, MacsModel(), known, multiple=4)
    return Explainer(setting, structure, REGIMES, price=price, dates=dates)


def test_every_form_and_width_is_listed_and_one_of_each_is_taken() -> None:
    choices = explainer(Structure()).all()
    choice = choices["conv7"]
    assert choice.kind == "conv2d 1x1"
    pairs = [f"low-rank pair of {rank}" for rank in rank_levels(*CONV7)]
    assert pairs
    assert [one.what for one in choice.forms] == [
        *(f"{form}, {precision}" for precision in ("float", "int8") for form in ("dense", *pairs)),
        "sparse, 70% zeros", "sparse, 80% zeros", "sparse, 90% zeros",
    ]  # fmt: skip
    for found in choices.values():
        assert [one.taken for one in found.forms].count(True) == 1
        assert not found.widths or [one.taken for one in found.widths].count(True) == 1
        assert found.widths == () or found.widths[0].taken
    assert all(one.loss is None for one in choice.forms if "int8" in one.what)
    assert [one.loss for one in choice.forms if "sparse" in one.what] == [0.01, 0.02, 0.05]


def test_measured_costs_have_the_days_on_which_they_were_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = explainer(Structure())
    assert all(one.measured_on is None for one in plain.choice("conv7").forms)
    kernels = [str(kernel) for tables in plain.tables.values() for kernel in tables.kernels.values()]
    dates = dict.fromkeys(kernels, "2026-11-03T10:00:00+00:00")
    choice = explainer(Structure(), dates=dates).choice("conv7")
    assert choice.forms[0].measured_on == "2026-11-03"
    show(choice)
    assert "The measurements were taken on 2026-11-03." in capsys.readouterr().out


def test_what_a_structure_decided_is_what_is_marked() -> None:
    group = explainer(Structure()).choice("conv7").group
    assert group is not None
    pair = f"low-rank pair of {rank_levels(*CONV7)[-1]}, float"
    levels = explainer(Structure()).levels[group]
    pruned = explainer(Structure(widths={group: levels[2]}, ranks={"conv7": rank_levels(*CONV7)[-1]})).choice(
        "conv7"
    )
    assert next(one.what for one in pruned.widths if one.taken) == f"{levels[2]} of {levels[0]} channels"
    assert next(one.what for one in pruned.forms if one.taken) == pair
    thin = Structure(Configuration("float", SparseNote(1, 0.7)), sparsities={"conv7": 0.9})
    assert next(one.what for one in explainer(thin).choice("conv7").forms if one.taken) == "sparse, 90% zeros"


def test_a_width_counts_all_layers_that_it_changes() -> None:
    made = explainer(Structure())
    group = made.choice("conv7").group
    tables = made.tables[Configuration()]
    touched = [node for node in made.nodes.values() if group in tables.family(node).groups]
    assert len(touched) > 1
    whole = made.choice("conv7").widths[0]
    own = next(one for one in made.choice("conv7").forms if one.taken)
    assert whole.latency_us > own.latency_us


@pytest.mark.parametrize(
    ("latency", "loss", "price", "words"),
    [
        (12.0, 0.012, None, "slower here, by 2.0 us"),
        (10.01, 0.002, None, "no faster here"),
        (8.0, 0.014, 0.0005, "saves 2.0 us for 0.0040 nats, 2 for a ms" + PAYS.format("0.5")),
        (8.0, 0.014, None, "saves 2.0 us for 0.0040 nats, 2 for a ms"),
        (8.0, None, None, "saves 2.0 us; its own loss was not measured"),
        (8.0, 0.010, None, "saves 2.0 us and loses no more by itself: excluded by coupled layers"),
        (14.0, 0.002, 0.01, "loses 0.0080 nats less for 4.0 us, 2 for a ms" + PAYS.format("10")),
    ],
)  # fmt: skip
def test_reasons_are_the_figures(latency: float, loss: float | None, price: float | None, words: str) -> None:
    assert reason(replace(TAKEN, taken=False, latency_us=latency, loss=loss), TAKEN, price) == words


def test_the_price_of_time_is_the_slope_of_the_front() -> None:
    made = explainer(Structure())
    tables = made.tables[Configuration()]
    problem = tables.problem()
    whole = solve(problem, Limits())
    assert whole is not None
    half = solve(problem, Limits(0.5 * whole.cost))
    assert half is not None
    price = price_of_time(tables, Structure(widths=half.widths), half.cost)
    ends = [solve(problem, Limits(half.cost * share)) for share in (0.97, 1.03)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert price == pytest.approx((ends[0].loss - ends[1].loss) / (ends[1].cost - ends[0].cost))
    assert price_of_time(tables, Structure(), whole.cost) is None


def test_a_layer_that_is_not_there_is_named_with_those_like_it() -> None:
    with pytest.raises(UsageError, match=r"no layer 'conv77' with weights; such as conv7"):
        explainer(Structure()).choice("conv77")


def written(folder: Path) -> Path:
    """A plan as mcc compress leaves it."""
    choices = explainer(Structure(), price=0.001).all()
    content = {"alternatives": {name: choice.to_dict() for name, choice in choices.items()}}
    (folder / "plan.json").write_text(json.dumps(content))
    return folder / "plan.json"


def test_the_command_reads_a_folder_or_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main.run(["explain", "conv7", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "conv7, conv2d 1x1" in shown
    assert "* " in shown
    assert "sparse, 80% zeros" in shown
    assert max(len(line) for line in shown.splitlines() if ": " not in line) <= 80
    # A path in a PyTorch model is understood, too: dots become underscores, and those at the ends go.
    assert main.run(["explain", ".conv7", str(tmp_path)]) == 0
    assert capsys.readouterr().out == shown
    assert main.run(["explain", "conv7", str(path), "--json"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert Choice.from_dict(raw, "here") == explainer(Structure(), price=0.001).choice("conv7")


def test_bad_plans_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    for arguments, words in (
        (["conv99", str(path)], "the network has no layer 'conv99' with weights; such as conv9"),
        (
            ["conv7", "net.py:factory"],
            "is neither a folder of mcc compress nor a plan; or give a MODEL with --target",
        ),
        (["conv7", str(tmp_path / "other.json")], "no such file; give the plan.json of mcc compress"),
    ):
        assert main.run(["explain", *arguments]) == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.count("\n") == 1
    path.unlink()
    assert main.run(["explain", "conv7", str(tmp_path)]) == 2
    assert "holds no plan.json; mcc compress writes one when it ends well" in capsys.readouterr().err
    with pytest.raises(DataError, match="holds no alternatives"):
        Choice.from_dict({"node": "a", "kind": "b", "forms": [{}], "group": None, "widths": []}, "here")

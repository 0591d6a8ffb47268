"""Plans that somebody edited, or of another network: refused by file and field, or followed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcc.cli import main
from mcc.compress.build import Structure
from mcc.compress.plan_file import check_structure, read_plan
from mcc.errors import DataError, GraphError, MccError
from mcc.frontend.load import load_model
from mcc.ir.graph import Graph
from mcc.ir.json_file import LARGEST_BYTES
from mcc.ir.text import parse_graph
from mcc.report.schema import load_report
from tests.compress import networks
from tests.report import examples

MODEL = f"{networks.__file__}:tiny"
SOUND: dict[str, Any] = {
    "precision": "float", "sparse": {"block": 2, "sparsity": 0.8}, "passes": "", "widths": {"wide": 16},
    "ranks": {}, "sparsities": {"head": 0.9}, "floats": [],
}  # fmt: skip
DENSE: dict[str, Any] = {**SOUND, "sparse": None, "sparsities": {}, "ranks": {"head": 8}}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_model(MODEL).graph


EDITS: dict[str, tuple[dict[str, Any], str]] = {
    "sparsity": ({**SOUND, "sparsities": {"head": 1.5}}, "structure.sparsities.head: must be less than 1"),
    "all zeros": ({**SOUND, "sparsities": {"head": 1.0}}, "structure.sparsities.head: must be less than 1"),
    "fewer": ({**SOUND, "sparsities": {"head": -0.1}}, "structure.sparsities.head: must be greater than or"),
    "sparse": ({**SOUND, "sparse": {"block": 2, "sparsity": 1.5}}, "structure.sparse.sparsity: must be less"),
    "block": (
        {**SOUND, "sparse": {"block": 3, "sparsity": 0.5}},
        "structure.sparse.block: must be 1, 2 or 4",
    ),
    "no sparse": ({**SOUND, "sparse": None}, "structure.sparsities: layers have zeros only where sparse"),
    "3x3": ({**SOUND, "sparsities": {"stem": 0.9}}, "structure.sparsities.stem: is no layer whose weight"),
    "no node": (
        {**SOUND, "sparsities": {"nose": 0.9}},
        "sparsities.nose: the model has no such layer; allow",
    ),
    "width 0": (
        {**SOUND, "widths": {"wide": 0}},
        "structure.widths.wide: must be greater than or equal to 1",
    ),
    "wider": ({**SOUND, "widths": {"wide": 33}}, r"structure.widths.wide: must lie in 1\.\.32, not 33"),
    "no group": ({**SOUND, "widths": {"nose": 3}}, "structure.widths.nose: the model has no such layer; all"),
    "no channels": ({**SOUND, "widths": {"mean": 3}}, "structure.widths.mean: has no channels to choose"),
    "frozen": ({**SOUND, "widths": {"classifier": 3}}, "structure.widths.classifier: its channels cannot be"),
    "half": ({**SOUND, "widths": {"wide": 1.5}}, "structure.widths.wide: must be a valid integer"),
    "text": ({**SOUND, "widths": {"wide": "8"}}, "structure.widths.wide: must be a valid integer, not '8'"),
    "flag": ({**SOUND, "widths": {"wide": True}}, "structure.widths.wide: must be a valid integer"),
    "huge": ({**SOUND, "widths": {"wide": 10**400}}, r"structure.widths.wide: must lie in 1\.\.32"),
    "rank 0": ({**DENSE, "ranks": {"head": 0}}, "structure.ranks.head: must be greater than or equal to 1"),
    "rank": ({**DENSE, "ranks": {"head": 33}}, r"structure.ranks.head: must lie in 1\.\.32, not 33"),
    "rank of 3x3": ({**DENSE, "ranks": {"stem": 2}}, "structure.ranks.stem: is no plain 1x1 convolution"),
    "rank of none": ({**DENSE, "ranks": {"nose": 2}}, "structure.ranks.nose: the model has no such layer"),
    "precision": ({**SOUND, "precision": "int3"}, "structure.precision: must be 'float', 'int8' or 'int7'"),
    "both": ({**SOUND, "precision": "int8"}, "structure.no runtime combines sparse weights with integer"),
    "passes": ({**SOUND, "passes": "prune-channels"}, "structure.passes: must be some of fold-pad, .*not"),
    "dense passes": ({**DENSE, "passes": "fold-pad"}, "structure.passes towards the sparse path belong"),
    "floats": ({**DENSE, "floats": ["nose"]}, "structure.floats: names 'nose', which the model does not"),
    "one float": ({**DENSE, "floats": "head"}, "structure.floats: must be a valid list"),
    "more": ({**SOUND, "colour": 1}, "structure.colour: Extra inputs are not permitted"),
    "less": ({k: v for k, v in SOUND.items() if k != "ranks"}, "structure.ranks: Field required"),
    "list": ({**SOUND, "ranks": []}, "structure.ranks: must be a valid dictionary"),
}


def follow(path: Path, graph: Graph) -> Structure:
    """Read a plan and hold it against a network, as the main job does."""
    found = read_plan(path).structure
    check_structure(graph, found, str(path))
    return found


@pytest.mark.parametrize("structure", [SOUND, DENSE])
def test_a_sound_plan_is_followed(structure: dict[str, Any], graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"structure": structure}))
    assert follow(tmp_path / "plan.json", graph).as_json() == structure


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_plan_is_refused_by_field(edit: str, graph: Graph, tmp_path: Path) -> None:
    structure, complaint = EDITS[edit]
    (tmp_path / "plan.json").write_text(json.dumps({"structure": structure}))
    with pytest.raises(DataError, match=complaint) as caught:
        follow(tmp_path / "plan.json", graph)
    assert str(caught.value).startswith(str(tmp_path / "plan.json"))
    assert "plan.json that mcc wrote" in str(caught.value)


DAMAGED = {
    "empty": "", "no JSON": "{", "list": "[]", "nothing in it": "{}", "null": '{"structure": null}',
    "NaN": '{"structure": NaN}', "infinity": '{"structure": 1e999}', "deep": '{"structure": ' + "[" * 200_000,
    "digits": '{"structure": ' + "9" * 5000 + "}", "model": json.dumps({"structure": SOUND, "model": 3}),
    "no text": "\udcff",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_plan_is_one_sentence(damage: str, graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(DAMAGED[damage].encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"plan\.json: (is no plan|holds no decisions)"):
        follow(path, graph)


def test_a_plan_that_is_no_file_or_too_large_is_not_read(graph: Graph, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", LARGEST_BYTES + 1)
    for name, complaint in {
        "pipe": "is a named pipe",
        "large": "more than",
        "absent": "no such file",
    }.items():
        with pytest.raises(DataError, match=complaint):
            read_plan(tmp_path / name)


def test_on_the_command_line_nothing_in_the_folder_changes(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(json.dumps({"structure": {**SOUND, "widths": {"nose": 3}}}))
    Path("out/state").mkdir(parents=True)
    Path("out/state/job.json").write_text('{"digest": "of an earlier job"}')
    Path("out/model.tflite").write_text("of an earlier job")
    words = ["compress", MODEL, "--data", "digits", "--target", "litert-host", "--plan", "plan.json"]
    assert main.run([*words, "-o", "out", "-q"]) == 2
    said = capsys.readouterr().err
    assert "plan.json: structure.widths.nose: the model has no such layer; allowed are stem" in said
    assert Path("out/model.tflite").read_text() == "of an earlier job"


PLAIN = st.none() | st.booleans() | st.integers(-2, 50) | st.floats() | st.sampled_from(["head", "wide", ""])
VALUES = st.recursive(
    PLAIN, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from(["wide", "x"]), x, max_size=2)
)


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)  # fmt: skip
@given(base=st.sampled_from([SOUND, DENSE]), name=st.sampled_from(sorted(SOUND)), value=VALUES)
def test_a_random_edit_works_or_is_one_sentence(
    base: dict[str, Any], name: str, value: Any, graph: Graph, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"structure": {**base, name: value}}))
    refused = ""
    try:
        found = follow(tmp_path / "plan.json", graph)
    except MccError as error:
        refused = str(error)
    else:
        assert all(1 <= width <= 64 for width in found.widths.values())
    assert not refused or "plan.json" in refused


def report_with(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(examples.report().to_json())
    for path, value in changes.items():
        place = content
        *parts, last = path.split("__")
        for part in parts:
            place = place[part]
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"compressed__latency_us__median": -5},
            "compressed.latency_us.median: must be greater than 0, not -5",
        ),
        ({"compressed__latency_us__p10": 1e9}, "compressed.latency_us: p10, median and p90 must not fall"),
        ({"speedup_ci95": [3.0, 1.0]}, "speedup_ci95: the lower bound 3 exceeds"),
        ({"baseline__accuracy": 1.5}, "baseline.accuracy: must be less than or equal to 1, not 1.5"),
        ({"baseline__size_bytes": 10**400}, "baseline.size_bytes: "),
        ({"baseline__size_bytes": "12"}, "baseline.size_bytes: must be a valid integer, not '12'"),
        ({"seed": 1.5}, "seed: must be a valid integer"),
        ({"stages": {"train": -1.0}}, "stages.train: must be greater than or equal to 0"),
        ({"speedup": float("nan")}, "speedup: must be a finite number"),
        ({"strategies": "none"}, "strategies: must be a valid"),
    ],
)
def test_an_edited_report_is_refused_by_field(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report_with(**change)))
    with pytest.raises(DataError, match=rf"report\.json: is no report of this version of mcc: {complaint}"):
        load_report(tmp_path / "report.json")


GRAPH = """mcc 1
const @w : f32[8,3,1,1] = seed(1)
%x = input() {} : f32[1,3,4,4]
%y = conv2d(%x, @w, none) {ATTRIBUTES} : f32[1,8,4,4] !{NOTE}
%z = relu(%y) {} : f32[1,8,4,4] !{OTHER}
return %z
""".replace(
    "ATTRIBUTES",
    "stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, activation='none'",
)


@pytest.mark.parametrize(
    ("place", "noted", "complaint"),
    [
        ("NOTE", "rank=4", r"rank must lie in 1\.\.3, not 4"),
        ("NOTE", "rank=0", "rank must be a positive number"),
        ("NOTE", "rank=True", "rank must be a positive number"),
        ("NOTE", "sparse=(1, 1.5)", r"sparsity must lie in 0\.\.1"),
        ("NOTE", "sparse=(3, 0.5)", "block must be 1, 2 or 4"),
        ("NOTE", "sparse=(1.5, 0.5)", "sparse must be a block and a sparsity"),
        ("NOTE", "sparse=(1, '0.5')", "sparse must be a block and a sparsity"),
        ("NOTE", "precision='int3'", "precision must be float, int8 or int7"),
        ("NOTE", "keep=(0, 8)", r"keep must name channels 0\.\.7, not 8"),
        ("NOTE", "keep=()", "keep must be ascending"),
        ("OTHER", "rank=2", "rank is noted, but the node has no weight"),
        ("OTHER", "sparse=(1, 0.5)", "sparse is noted, but the node has no weight"),
    ],
)
def test_a_note_that_cannot_be_is_refused_by_line(place: str, noted: str, complaint: str) -> None:
    text = GRAPH.replace(place, noted).replace(" !{NOTE}", "").replace(" !{OTHER}", "")
    line = 4 if place == "NOTE" else 5
    with pytest.raises(GraphError, match=rf"edited\.mcc:{line}: .*{complaint}"):
        parse_graph(text, where="edited.mcc")

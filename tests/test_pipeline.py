"""Pipelines as text: they parse and print back, say what is wrong, repeat, stop, and leave reproducers."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcc import pass_api
from mcc.errors import GraphError, Refusal, UsageError, VerificationError
from mcc.ir.graph import Graph, GraphBuilder, calls, constant, constants, set_constant
from mcc.ir.notes import annotate, note
from mcc.ir.storage import load_graph, save_graph
from mcc.ir.text import print_graph
from mcc.pass_api import Pass, PassContext, all_passes, load_pass, load_passes, make_pass, pass_in
from mcc.pipeline import MAX_ROUNDS, PRESETS, Fix, Pipeline, RunOptions, StepReport, differs
from passes.prune_channels import PruneChannels
from passes.sparsify_1x1 import Sparsify1x1


def network() -> Graph:
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 3, 4, 4))
    x = b.conv2d(x, b.constant("a_w", torch.randn(8, 3, 1, 1)), b.constant("a_b", torch.randn(8)), name="a")
    x = b.conv2d(b.relu(x), b.constant("b_w", torch.randn(4, 8, 1, 1)), None, name="b")
    return b.finish(x)


# -- parsing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prune-channels",
        "prune-channels{keep=0.75 round=8}",
        "prune-channels{keep=0.5},sparsify-1x1{sparsity=0.5 block=2}",
        "fix(prune-channels,fix(sparsify-1x1)),factorize-1x1{rank=0.25}",
        'freeze-nodes{match=net.0.* because="two words, (and) more"}',
    ],
)
def test_a_pipeline_prints_as_it_was_written(text: str) -> None:
    assert str(Pipeline.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (" prune-channels { keep=0.50  round = 8 } ,\n fix (sparsify-1x1) ",
         "prune-channels{keep=0.5 round=8},fix(sparsify-1x1)"),
        ("prune-channels{}", "prune-channels"),
        ("prune-channels{keep=1.0}", "prune-channels"),
        ("prune-channels{keep=5e-1}", "prune-channels{keep=0.5}"),
        ("fix( prune-channels )", "fix(prune-channels)"),
    ],
)  # fmt: skip
def test_spelling_does_not_matter(text: str, printed: str) -> None:
    assert str(Pipeline.parse(text)) == printed


_STEPS = st.one_of(
    st.builds(
        PruneChannels, keep=st.floats(0.01, 1.0, allow_nan=False), round=st.integers(1, 64)
    ),
    st.builds(Sparsify1x1, sparsity=st.floats(0.0, 1.0, allow_nan=False), block=st.sampled_from([1, 2, 4])),
)  # fmt: skip
_PIPELINES = st.recursive(_STEPS, lambda s: st.builds(Fix, st.lists(s, min_size=1, max_size=3).map(tuple)))


@pytest.mark.slow
@given(st.lists(_PIPELINES, max_size=4).map(lambda steps: Pipeline(tuple(steps))))
def test_any_pipeline_prints_and_parses_back(pipeline: Pipeline) -> None:
    assert Pipeline.parse(str(pipeline)) == pipeline


@given(st.text("abfix(){}=,. -1prune-channels", max_size=40))
def test_any_text_parses_or_is_wrong_use(text: str) -> None:
    try:
        parsed = Pipeline.parse(text)
    except UsageError:
        return
    assert Pipeline.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prune", "unknown pass 'prune'; known: .*prune-channels"),
        ("prune-channels{kep=0.5}", "prune-channels has no option 'kep'; its options: keep, round"),
        ("prune-channels{keep=half}", "option keep of pass prune-channels cannot be 'half'; give float"),
        ("prune-channels{round=1.5}", "option round of pass prune-channels cannot be '1.5'; give int"),
        ("prune-channels{keep=0}", r"pass prune-channels: keep must lie in 0\.\.1, not 0.0"),
        ("prune-channels{keep=nan}", r"pass prune-channels: keep must lie in 0\.\.1, not nan"),
        ("prune-channels{keep=0.5 keep=0.6}", "option 'keep' is given twice"),
        ("prune-channels{keep=0.5", "'a name' is expected after '= 0.5'|'a name' is expected"),
        ("prune-channels{keep 0.5}", "'=' is expected after"),
        ("prune-channels,", "'a name' is expected after 'prune-channels ,'"),
        ("prune-channels sparsify-1x1", "'sparsify-1x1' is unexpected after 'prune-channels'"),
        ("fix(prune-channels", r"'\)' is expected"),
        ("fix()", "unknown pass '\\)'"),
        (",", "unknown pass ','"),
        ("sparsify-1x1{block=3}", "block must be 1, 2 or 4, not 3"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        Pipeline.parse(text)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_presets_are_pipelines() -> None:
    assert str(Pipeline.parse("-O0")) == ""
    for name, text in PRESETS.items():
        assert str(Pipeline.parse(name)) == text
        assert Pipeline.parse(text) == Pipeline.parse(name)


# -- options -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options(Pass):
    name: ClassVar[str] = "options"
    some_flag: bool = False
    count: int = 3
    share: float = 0.5
    word: str = "plain"
    limit: int | None = None
    level: float | None = 1.0


@pytest.mark.parametrize(
    "text",
    [
        "options",
        "options{some-flag=true count=-4 share=1e-09 word=other limit=7 level=none}",
        "options{level=0.25}",
    ],
)
def test_options_of_every_kind_print_and_parse_back(text: str) -> None:
    assert str(Pipeline.parse(text, {"options": Options})) == text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"some-flag": "yes"}, "option some-flag of pass options cannot be 'yes'; give bool"),
        ({"count": "none"}, "option count of pass options cannot be 'none'; give int"),
        ({"limit": "few"}, "option limit of pass options cannot be 'few'; give int or None"),
        ({"some_flag": "true"}, "has no option 'some_flag'; its options: some-flag, count"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make_pass(Options, options)


def test_passes_are_attributes_of_their_package() -> None:
    import passes

    assert passes.PruneChannels is PruneChannels
    assert {kind.__name__ for kind in all_passes().values()} <= set(dir(passes))
    with pytest.raises(AttributeError, match="no attribute 'PruneEverything'"):
        _ = passes.PruneEverything


# -- running -----------------------------------------------------------------------------------------------


def halve(graph: Graph, name: str) -> None:
    set_constant(graph, name, constant(graph, name).detach() / 2)


@dataclass(frozen=True)
class Halve(Pass):
    """Changes numbers by intent."""

    name: ClassVar[str] = "halve"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        halve(graph, "b_w")
        ctx.count("halved")

    def reference(self, before: Graph, ctx: PassContext) -> None:
        return None


@dataclass(frozen=True)
class Wrong(Pass):
    """Halves a weight and says that nothing changed."""

    name: ClassVar[str] = "wrong"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        halve(graph, "b_w")


@dataclass(frozen=True)
class Crash(Pass):
    name: ClassVar[str] = "crash"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        raise ZeroDivisionError("of course")


@dataclass(frozen=True)
class Decline(Pass):
    name: ClassVar[str] = "decline"

    def requires(self, graph: Graph) -> None:
        raise Refusal("cannot be done", where="a")


def test_a_run_leaves_the_graph_it_was_given(tmp_path: Path) -> None:
    graph = network()
    text, weights = print_graph(graph), {k: v.detach().clone() for k, v in constants(graph).items()}
    result = Pipeline.parse("prune-channels{keep=0.5}").run(graph)
    assert print_graph(graph) == text
    assert all(torch.equal(weights[name], value) for name, value in constants(graph).items())
    assert print_graph(result.graph) != text
    report = result.reports[0]
    assert report.changed
    assert report.counts["channels removed"] == 4
    assert report.refusals == (("b", "is an output of the network"),)
    assert report.worst is not None
    assert report.worst < 1e-12


def test_changed_is_computed_from_text_and_constants() -> None:
    graph = network()
    reports = Pipeline((Halve(), PruneChannels())).run(graph).reports
    assert [report.changed for report in reports] == [True, False]
    assert reports[0].worst is None
    other = network()
    assert not differs(graph, other)
    with torch.no_grad():
        constant(other, "a_b")[3] += 1e-7
    assert differs(graph, other)


def test_a_refusal_passes_through_and_leaves_no_reproducer(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="a: cannot be done"):
        Pipeline((Decline(),)).run(network(), options=RunOptions(reproducer=tmp_path))
    assert not list(tmp_path.iterdir())


def test_fix_ends_when_nothing_changes() -> None:
    reports = Pipeline.parse("fix(prune-channels{keep=0.5},sparsify-1x1)").run(network()).reports
    assert [report.changed for report in reports] == [True, False, False, False]


def test_fix_that_never_settles_is_an_error() -> None:
    with pytest.raises(
        VerificationError, match=f"still changes the graph after {MAX_ROUNDS} rounds"
    ) as caught:
        Pipeline((Fix((Halve(),)),)).run(network())
    assert caught.value.where == "fix(halve)"


@pytest.mark.parametrize("limit", range(4))
def test_bisect_limit_runs_the_first_passes_only(limit: int) -> None:
    pipeline = Pipeline((Halve(), Fix((PruneChannels(keep=0.5),)), Halve()))
    seen: list[str] = []

    def after(report: StepReport, graph: Graph) -> None:
        seen.append(report.step)

    result = pipeline.run(network(), options=RunOptions(bisect_limit=limit, after=after))
    expected = ["halve", "prune-channels{keep=0.5}", "prune-channels{keep=0.5}"][:limit]
    assert seen == expected
    assert [report.step for report in result.reports] == expected


def test_bisecting_finds_the_first_bad_pass() -> None:
    pipeline = Pipeline((PruneChannels(keep=0.5), Wrong(), PruneChannels()))
    bad = []
    for limit in range(4):
        try:
            pipeline.run(network(), options=RunOptions(bisect_limit=limit))
        except VerificationError:
            bad.append(limit)
    assert bad == [2, 3]


def test_verification_can_be_left_out() -> None:
    result = Pipeline((Wrong(),)).run(network(), options=RunOptions(verify=False))
    assert result.reports[0].changed
    assert result.reports[0].worst is None


def test_steps_get_counters_of_their_own_and_the_same_seed() -> None:
    drawn: list[float] = []

    @dataclass(frozen=True)
    class Draw(Pass):
        name: ClassVar[str] = "draw"

        def run(self, graph: Graph, ctx: PassContext) -> None:
            drawn.append(float(torch.rand((), generator=ctx.generator)))
            ctx.count("drawn")

    result = Pipeline((Draw(), Draw())).run(network(), PassContext(seed=5))
    assert drawn[0] == drawn[1]
    assert [report.counts for report in result.reports] == [{"drawn": 1}, {"drawn": 1}]


def test_origins_lead_back_to_the_captured_graph() -> None:
    result = Pipeline.parse("factorize-1x1{rank=0.25}").run(network(), options=RunOptions(verify=False))
    origins = {node.name: note(node).origin for node in calls(result.graph)}
    assert origins == {"a_v": ("a",), "a": ("a",), "relu": ("relu",), "b_v": ("b",), "b": ("b",)}


# -- failures ----------------------------------------------------------------------------------------------


def test_a_crashing_pass_is_one_sentence_with_a_reproducer(tmp_path: Path) -> None:
    graph = network()
    with pytest.raises(VerificationError, match="crash: pass fails: ZeroDivisionError: of course") as caught:
        Pipeline((PruneChannels(keep=0.5), Crash())).run(graph, options=RunOptions(reproducer=tmp_path))
    assert caught.value.exit_status == 1
    saved = load_graph(tmp_path / "before-crash.mcc")
    assert print_graph(saved) == print_graph(Pipeline.parse("prune-channels{keep=0.5}").run(graph).graph)


USER_PASS = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from mcc.ir.graph import Graph, constant, set_constant
from mcc.pass_api import Pass, PassContext

@dataclass(frozen=True)
class DriftWeights(Pass):
    name: ClassVar[str] = "drift-weights"
    by: float = 1.01
    only: str | None = None

    def run(self, graph: Graph, ctx: PassContext) -> None:
        set_constant(graph, "b_w", constant(graph, "b_w").detach() * self.by)
"""


@pytest.mark.slow
def test_the_reproducer_repeats_the_failure_by_its_own_command(tmp_path: Path) -> None:
    file = tmp_path / "my passes" / "drift_weights.py"
    file.parent.mkdir()
    file.write_text(USER_PASS)
    pipeline = Pipeline.parse("prune-channels{keep=0.5},drift-weights{by=1.5}", load_passes([file]))
    with pytest.raises(VerificationError) as caught:
        pipeline.run(network(), PassContext(seed=3), RunOptions(reproducer=tmp_path / "left here"))
    match = re.search(r"repeat with: (.*)$", str(caught.value))
    assert match
    command = shlex.split(match[1])
    assert command[:2] == ["mcc", "opt"]
    assert command[-2:] == ["--seed", "3"]
    again = subprocess.run(
        [sys.executable, "-m", "mcc", *command[1:], "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert again.returncode == 1, again.stderr
    said = again.stderr or json.dumps(json.loads(again.stdout))
    assert caught.value.message in said


def test_a_full_disk_does_not_hide_the_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(VerificationError, match="differs by"):
        Pipeline((Wrong(),)).run(network(), options=RunOptions(reproducer=tmp_path / "taken"))
    assert "no reproducer" in caplog.text


def test_a_hint_is_kept_beside_the_command(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Hinting(Wrong):
        name: ClassVar[str] = "hinting"

        def ensures(self, graph: Graph) -> None:
            raise GraphError("is odd", hint="look again")

        def run(self, graph: Graph, ctx: PassContext) -> None:
            raise GraphError("is odd", hint="look again")

    with pytest.raises(GraphError, match="is odd; look again; repeat with: mcc opt"):
        Pipeline((Hinting(),)).run(network(), options=RunOptions(reproducer=tmp_path))


# -- finding passes ----------------------------------------------------------------------------------------


def test_a_users_pass_is_loaded_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "drift_weights.py"
    file.write_text(USER_PASS)
    kind = load_pass(file)
    assert kind.name == "drift-weights"
    text = "drift-weights{by=2.0 only=b}"
    assert str(Pipeline.parse(text, {kind.name: kind})) == text


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("other_name.py", USER_PASS, "other_name.py: holds pass 'drift-weights'; name and file must agree"),
        ("drift_weights.py", "x = 1", "drift_weights.py: defines 0 passes instead of one"),
        ("drift_weights.py", "def (", "drift_weights.py: cannot be imported: SyntaxError"),
        ("drift_weights.py", "import no_such_module", "cannot be imported: No module named"),
        ("drift_weights.py", "raise ValueError('a\\nb')", "cannot be imported: ValueError: a"),
        ("drift_weights.py", USER_PASS.replace("@dataclass(frozen=True)", ""), "is no frozen dataclass"),
        ("drift_weights.py", USER_PASS.replace("frozen=True", ""), "cannot be imported: TypeError: "),
        ("drift_weights.py", USER_PASS.replace("float = 1.01", "list[int] = ()"), "option by of pass"),
        ("drift_weights.txt", USER_PASS, "is no Python file with a pass"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_pass_is_refused(tmp_path: Path, file: str, text: str, sentence: str) -> None:
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(sentence)) as caught:
        load_pass(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.py: no such file"):
        load_pass(tmp_path / "absent.py")


def test_two_passes_in_one_file_are_refused() -> None:
    module = ModuleType("passes.two")
    for name in ("One", "Two"):
        setattr(module, name, dataclass(frozen=True)(type(name, (Pass,), {"__module__": "passes.two"})))
    with pytest.raises(UsageError, match=r"two.py: defines 2 passes instead of one"):
        pass_in(module, "two")


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prune_channels.py"
    file.write_text(USER_PASS.replace("drift-weights", "prune-channels"))
    with pytest.raises(UsageError, match="holds pass prune-channels, a name that is taken"):
        load_passes([file])
    with pytest.raises(UsageError, match="there is a pass prune-channels already"):
        Pipeline.parse("prune-channels", {"prune-channels": load_pass(file)})
    twice = tmp_path / "again" / "drift_weights.py"
    twice.parent.mkdir()
    for path in (twice, tmp_path / "drift_weights.py"):
        path.write_text(USER_PASS)
    with pytest.raises(UsageError, match="a name that is taken"):
        load_passes([twice, tmp_path / "drift_weights.py"])


def test_every_pass_is_found_by_its_file() -> None:
    found = all_passes()
    files = {path.stem for path in (Path(pass_api.__file__).parents[1] / "passes").glob("[a-z]*.py")}
    assert {name.replace("-", "_") for name in found} == files
    for kind in found.values():
        assert str(Pipeline.parse(kind.name)) == kind.name


def test_notes_survive_a_pipeline(tmp_path: Path) -> None:
    graph = network()
    annotate(calls(graph)[0], precision="int7", frozen="by hand")
    result = Pipeline.parse("prune-channels{keep=0.5},sparsify-1x1{sparsity=0.5}").run(graph).graph
    save_graph(result, tmp_path / "g.mcc")
    loaded = load_graph(tmp_path / "g.mcc")
    assert note(calls(loaded)[0]).precision == "int7"
    assert note(calls(loaded)[0]).frozen == "by hand"
    assert print_graph(loaded) == print_graph(result)


def test_what_the_driver_does_is_no_change_by_a_pass() -> None:
    b = GraphBuilder()
    y = b.conv2d(b.input("x", (1, 3, 4, 4)), b.constant("w", torch.randn(4, 3, 1, 1)), None)
    b.neg(y)
    graph = b.finish(b.relu(y))
    for node in graph.graph.nodes:
        annotate(node, origin=())
    text = print_graph(graph)
    result = Pipeline.parse("fold-pad,fuse-activation,fold-pad").run(graph)
    assert [report.changed for report in result.reports] == [False, True, False]
    assert print_graph(graph) == text
    assert Pipeline.parse("drop-dead-code").run(graph).reports[0].changed

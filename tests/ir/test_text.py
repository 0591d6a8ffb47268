"""The text form: inverse of printing, and one sentence for whatever is malformed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mcc.errors import DataError, GraphError, MccError
from mcc.ir.canonical import check_shapes, check_structure
from mcc.ir.graph import Graph, GraphBuilder, add_constant, calls, constants, inputs, run
from mcc.ir.notes import SparseNote, annotate, note
from mcc.ir.storage import load_graph, save_graph
from mcc.ir.text import parse_graph, print_graph, print_node, text_constants

GOLDENS = sorted((Path(__file__).parents[2] / "golden_graphs").glob("*/*.mcc"))
BEFORE = [path.read_text().split("=== before\n")[1].split("=== ")[0] for path in GOLDENS]

SMALL = """mcc 1
const @w : f32[2,3,1,1] = integers(1)
const @b : f32[2] = full(0.5)
const @m : f32[1,2,1,1] fixed = seed(3)
%x = input() {} : f32[1,3,4,4]
%y = conv2d(%x, @w, @b) {stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, activation='none'} : f32[1,2,4,4] !{origin=('stem',), keep=(0,), sparse=(2, 0.5)}
%z = mul(%y, @m) {activation='relu6'} : f32[1,2,4,4]
return %z, %y
"""  # noqa: E501


def refused(text: str, sentence: str = ".") -> None:
    with pytest.raises(MccError, match=sentence) as caught:
        parse_graph(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_what_is_printed_parses_to_the_same() -> None:
    graph = parse_graph(SMALL)
    printed = print_graph(graph)
    again = parse_graph(printed, text_constants(graph))
    assert print_graph(again) == printed
    x = torch.randn(2, 3, 4, 4)
    for first, second in zip(run(graph, x), run(again, x), strict=True):
        assert torch.equal(first, second)
    conv = calls(graph, "conv2d")[0]
    assert note(conv).sparse == SparseNote(2, 0.5)
    assert note(conv).keep == (0,)
    assert print_node(conv) in printed


def test_what_trains_and_what_is_fixed_stay_so() -> None:
    graph = parse_graph(SMALL)
    assert {name for name, _ in graph.named_parameters()} == {"w", "b"}
    assert {name for name, _ in graph.named_buffers()} == {"m"}
    assert constants(graph)["b"].tolist() == [0.5, 0.5]
    assert set(constants(graph)["w"].flatten().tolist()) <= set(range(-3, 4))


def test_infinite_attributes_print_and_parse() -> None:
    b = GraphBuilder()
    graph = b.finish(b.clamp(b.input("x", (1, 2)), min=float("-inf")))
    assert "min=-1e999, max=1e999" in print_graph(graph)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)


def test_strings_in_notes_may_hold_the_signs_of_the_format() -> None:
    b = GraphBuilder()
    y = b.relu(b.input("x", (1, 2)))
    annotate(y, frozen="a}} : f32[1] !{b='%x' @c\n\"")  # fmt: skip
    graph = b.finish(y)
    again = parse_graph(print_graph(graph))
    assert note(calls(again)[0]).frozen == "a}} : f32[1] !{b='%x' @c\n\""


def test_a_constant_may_bear_the_name_of_its_reader() -> None:
    b = GraphBuilder()
    y = b.add(b.input("x", (1, 2)), b.constant("c", torch.ones(2)), name="y")
    graph = b.finish(y)
    late = add_constant(graph, y, "y", torch.full((2,), 2.0))
    y.args = (y.args[0], late)
    graph.recompile()
    printed = print_graph(graph)
    assert "%y = add(%x, @y)" in printed
    again = parse_graph(printed, text_constants(graph))
    assert print_graph(again) == printed
    assert torch.equal(run(again, torch.zeros(1, 2))[0], torch.full((1, 2), 2.0))


@pytest.mark.parametrize(
    "name", ["sum", "forward", "training", "graph", "code", "_modules", "relu", "None", "in_"]
)
def test_any_name_prints_and_parses_or_is_refused(name: str) -> None:
    text = f"mcc 1\nconst @{name} : f32[2] = full(1)\n%x = input() {{}} : f32[1,2]\n"
    text += f"%y = mul(%x, @{name}) {{activation='none'}} : f32[1,2]\nreturn %y\n"
    try:
        graph = parse_graph(text)
    except MccError:
        return
    assert torch.equal(run(graph, torch.ones(1, 2))[0], torch.ones(1, 2))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("mcc 1", "mcc 2", "graph: is no mcc graph: the first line must be 'mcc 1'"),
        ("mcc 1\n", "", "is no mcc graph"),
        ("return %z, %y\n", "", "has no return line"),
        ("return %z, %y", "return", "cannot be read"),
        ("return %z, %y", "return @w", "cannot be read"),
        ("return %z, %y", "return %q", "graph:8: '%q' is not defined"),
        ("return %z, %y\n", "return %z\n%y = relu(%z) {} : f32[1]\n", "text after the return line"),
        ("%z = mul(%y", "%z = mul(%q", "graph:7: '%q' is not defined before it is used"),
        ("%z = mul(%y, @m)", "%z = mul(%y, @q)", "'@q' is not defined"),
        ("%z = mul", "%z = multiply", "operator 'multiply' is not in the canonical form"),
        ("%z = mul", "%y = mul", "%y is defined twice"),
        ("%z = mul", "%x.1 = mul", "cannot be read"),
        ("%z = mul", "%1 = mul", "%1 is not a usable name; for example %_1 would be"),
        ("const @b", "const @w", "constant @w is declared twice"),
        ("const @b : f32[2] = full(0.5)", "const @b : f32[2]", "constant @b is not in the file of constants"),
        ("full(0.5)", "full(half)", r"cannot make a constant from full\(half\)"),
        ("full(0.5)", "random(5)", "unknown constant maker 'random'; use seed, integers or full"),
        ("integers(1)", "integers(99999999999999999999)", "cannot make a constant"),
        ("f32[2] = full", "f99[2] = full", "unknown dtype 'f99'"),
        ("f32[2] = full", "f32[0] = full", r"a length in shape \(0,\) is not positive"),
        ("f32[2] = full", "f32[99999999999] = full", "beyond what mcc handles"),
        ("f32[2] = full", "f32[99999,99999] = full", "beyond what mcc handles"),
        ("f32[1,2,4,4]\n", "f32[1,2,4,5]\n", r"declares f32\[1,2,4,5\], but computes f32\[1,2,4,4\]"),
        ("groups=1", "groups=2", "graph:6: conv2d does not fit its operands"),
        ("groups=1", "groups=0", "graph:6: conv2d does not fit its operands"),
        ("groups=1", "groups=1.0", "graph:6: conv2d does not fit its operands"),
        ("groups=1", "gruppen=1", "conv2d has no attribute gruppen"),
        ("groups=1", "groups=1, groups=1", "an attribute is given twice"),
        ("groups=1", "groups=__import__('os')", "malformed line"),
        ("groups=1", "**{'groups': 1}", "conv2d has no attribute None"),
        ("activation='relu6'", "activation='gelu'", "mul does not fit its operands: activation must be"),
        ("keep=(0,)", "keep=(1, 0)", "keep must be ascending channel indices"),
        ("keep=(0,)", "keep=5", "keep must be ascending channel indices"),
        ("keep=(0,)", "keep=(-1,)", "keep must be ascending channel indices"),
        ("keep=(0,)", "keep=()", "keep must be ascending channel indices"),
        ("keep=(0,)", "frozen=3", "frozen must be a reason"),
        ("keep=(0,)", "rank=-3", "rank must be a positive number"),
        ("keep=(0,)", "precision='int3'", "precision must be float, int8 or int7"),
        ("keep=(0,)", "colour='red'", "unknown note field colour"),
        ("keep=(0,)", "type=3", "unknown note field"),
        ("sparse=(2, 0.5)", "sparse=(3, 0.5)", "block must be 1, 2 or 4"),
        ("sparse=(2, 0.5)", "sparse=(2, 1.5)", r"sparsity must lie in 0\.\.1"),
        ("sparse=(2, 0.5)", "sparse=2", "sparse must be a block and a sparsity"),
        ("origin=('stem',)", "origin='stem'", "origin must be names"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_sentence(old: str, new: str, sentence: str) -> None:
    assert old in SMALL
    refused(SMALL.replace(old, new, 1), sentence)


def test_a_name_that_python_keeps_is_refused() -> None:
    refused(SMALL.replace("@b", "@class"), "graph:6: @class is not a usable name")


def test_an_attribute_left_out_takes_its_default() -> None:
    graph = parse_graph(SMALL.replace("activation='relu6'", ""))
    assert calls(graph, "mul")[0].kwargs == {"activation": "none"}


def test_many_constants_are_bounded_together() -> None:
    lines = [f"const @c{i} : f32[100000000] = full(0)" for i in range(40)]
    start = time.monotonic()
    refused("\n".join(["mcc 1", *lines, "return %x"]), "makes more constants than mcc handles")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "line",
    [
        "%y = relu(%x) {} : f32[1,3,4,4] " + "!{ : f32[1] } " * 20_000,
        "%y = relu(%x) {" + "} : f32[1] !{" * 20_000,
        "%y = relu(%x) {a=" + "(" * 100_000 + "} : f32[1]",
        "%y = relu(%x) {a=" + "-" * 100_000 + "1} : f32[1]",
        "%y = relu(%x) {a=" + "[" * 90 + "]" * 90 + "} : f32[1]",
        "%y = relu(%x) {a=" + "9" * 10_000 + "} : f32[1]",
        "%y = relu(%x) {a=1" + "+1j" * 2_000 + "} : f32[1]",
        "%y = relu(" + "%x, " * 30_000 + ") {} : f32[1]",
        "%y = concat(" + ", ".join(["%x"] * 2_000) + ") {axis=1} : f32[1]",
        "%y = resize(%x) {size=(1000000, 1000000), mode='nearest'} : f32[1,3,1000000,1000000]",
        "%y = resize(%x) {size=(1000000, 1000000), mode='nearest'} : f32[1]",
        "%y = reshape(%x) {shape=(-1,)} : f32[1,48]",
        "%y = pad(%x) {padding=((0, 0), (99999999999, 0), (0, 0), (0, 0))} : f32[1]",
        "%y = pixel_shuffle(%x) {factor=0} : f32[1]",
        "%y = group_norm(%x, none, none) {groups=0} : f32[1]",
        "%y = transpose(%x) {perm=(0, 1)} : f32[1]",
        "%y = slice(%x) {axis=9, start=0, stop=1} : f32[1]",
        "%y = slice(%x) {axis=1, start=2, stop=1} : f32[1]",
        "%y = mean(%x) {axes='all'} : f32[1]",
        "%y = relu(none) {} : f32[1]",
        "%y = relu() {} : f32[1]",
        "%y = input(%x) {} : f32[1] !{{{",
        "%ÿ = relu(%x) {} : f32[1,3,4,4]",
        "%y = relu(%x) {} : f32[١,3,4,4]",
        "\0",
    ],
    ids=range(25),
)
def test_odd_lines_are_refused_soon(line: str) -> None:
    start = time.monotonic()
    refused(f"mcc 1\n%x = input() {{}} : f32[1,3,4,4]\n{line}\nreturn %y\n")
    assert time.monotonic() - start < 30  # not a speed: a line that is read again at every sign takes hours


_SIGNS = ["(", ")", "{", "}", "[", "]", ",", "=", ":", "!{", "'", "\n", " "]
_TOKENS = [*_SIGNS, "%x", "@w", "none", "0", "-1", "1e999", "99999999", "f32", "i8", "mul", "input", "concat",
           "axis", "return", "const", "fixed", "keep=(0,)"]  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """A golden graph with a few pieces cut, doubled, exchanged or replaced."""
    text = draw(st.sampled_from([SMALL, *BEFORE]))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(text) - 1)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            text = text[:at] + text[end:]
        elif kind == 1:
            text = text[:end] + text[at:]
        elif kind == 2:
            text = text[:at] + draw(st.sampled_from(_TOKENS)) + text[end:]
        elif kind == 3:
            lines = text.splitlines()
            first, second = (draw(st.integers(0, max(0, len(lines) - 1))) for _ in range(2))
            if lines:
                lines[first], lines[second] = lines[second], lines[first]
            text = "\n".join(lines)
        else:
            text = text[:at] + draw(st.text(max_size=3)) + text[at:]
    return text


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_a_mutated_text_is_a_graph_or_one_sentence(text: str) -> None:
    sentence = ""
    try:
        graph = parse_graph(text)
    except MccError as error:
        sentence = error.message
        graph = None
    if graph is None:
        assert "\n" not in sentence
        return
    printed = print_graph(graph)
    assert print_graph(parse_graph(printed, text_constants(graph))) == printed
    _checks_end_in_sentences(graph)


def _checks_end_in_sentences(graph: Graph) -> None:
    try:
        check_structure(graph)
        check_shapes(graph)
    except MccError:
        assume(False)
    assert len(run(graph, *(torch.zeros(note(node).type.shape) for node in inputs(graph)))) > 0  # pyright: ignore


# -- storage -----------------------------------------------------------------------------------------------


def test_a_graph_is_stored_whole(tmp_path: Path) -> None:
    graph = parse_graph(SMALL)
    save_graph(graph, tmp_path / "g.mcc")
    loaded = load_graph(tmp_path / "g.mcc")
    assert print_graph(loaded) == print_graph(graph)
    for name, value in constants(graph).items():
        assert torch.equal(value, constants(loaded)[name])
        assert constants(loaded)[name].requires_grad == value.requires_grad
    assert {path.name for path in tmp_path.iterdir()} == {"g.mcc", "g.safetensors"}


def test_what_cannot_be_loaded_or_stored_is_said(tmp_path: Path) -> None:
    graph = parse_graph(SMALL)
    path = tmp_path / "g.mcc"
    with pytest.raises(GraphError, match=r"g\.mcc: no such file"):
        load_graph(path)
    save_graph(graph, path)
    beside = path.with_suffix(".safetensors")
    whole = beside.read_bytes()
    for damage in (b"", whole[:20], b"\xff" * 8 + whole[8:], whole[:-4]):
        beside.write_bytes(damage)
        with pytest.raises(GraphError):
            load_graph(path)
    beside.unlink()
    with pytest.raises(GraphError, match="constant @w is not in the file of constants"):
        load_graph(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GraphError, match="cannot be read"):
        load_graph(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save_graph(graph, tmp_path / "file" / "g.mcc")


def test_constants_of_another_shape_are_refused(tmp_path: Path) -> None:
    graph = parse_graph(SMALL)
    given_ = {**text_constants(graph), "w": torch.zeros(2, 3, 1, 2)}
    with pytest.raises(
        GraphError, match=r"constant @w is \(2, 3, 1, 2\) torch.float32, declared f32\[2,3,1,1\]"
    ):
        parse_graph(print_graph(graph), given_)
    with pytest.raises(GraphError, match="declared"):
        parse_graph(print_graph(graph), {**given_, "w": torch.zeros(2, 3, 1, 1, dtype=torch.bfloat16)})


@pytest.mark.parametrize(
    "interface",
    [
        "1",
        "((), ())",
        "((('x', '', 'int8', 0.0, 0),), (), '', False)",
        "((('x', '', 'int64', 1.0, 0),), (), '', False)",
    ],
)
def test_an_interface_that_is_none_is_refused(interface: str) -> None:
    lines = ["mcc 1", "%x = input() {} : f32[1,3]", "%y = relu(%x) {} : f32[1,3]"]
    text = "\n".join([*lines, f"return %y !{{interface={interface}}}\n"])
    with pytest.raises(GraphError):
        parse_graph(text)


def test_an_interface_prints_and_parses_back() -> None:
    ports = "(('in put:0', 'x', 'uint8', 0.5, 128),), (('é {}!', '', 'float32', 0.0, 0),)"
    noted = f"return %y !{{interface=({ports}, 'serve', True)}}\n"
    text = f"mcc 1\n%x = input() {{}} : f32[1,3]\n%y = relu(%x) {{}} : f32[1,3]\n{noted}"
    assert print_graph(parse_graph(text)) == text

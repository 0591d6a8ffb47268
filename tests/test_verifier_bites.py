"""Every checker catches a planted fault: small passes that are wrong, each in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import fx

from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.analysis.exactness import exact_on_integers
from mcc.analysis.remove_channels import refill_producers, shrink, zero_readers
from mcc.errors import GraphError, MccError, UnsupportedError, VerificationError
from mcc.ir import ops
from mcc.ir.canonical import check_shapes, check_structure
from mcc.ir.graph import (
    Graph,
    GraphBuilder,
    add_call,
    calls,
    constant,
    copy_graph,
    inputs,
    operand,
    output_node,
    set_constant,
)
from mcc.ir.notes import TensorType, annotate, note
from mcc.ir.text import parse_graph
from mcc.pass_api import Pass, PassContext
from mcc.pipeline import Pipeline
from mcc.verify import TOLERANCE, compare, prove, relative_difference
from passes.drop_dead_code import DropDeadCode
from passes.freeze_nodes import FreezeNodes

NETWORK = """mcc 1
const @a_w : f32[6,3,3,3] = {make}(1)
const @a_b : f32[6] = {make}(2)
const @b_w : f32[6,6,1,1] = {make}(3)
const @c_w : f32[4,6,1,1] = {make}(4)
const @scale : f32[] fixed = full(0.25)
const @zero : i32[] fixed = full(3)
%x = input() {{}} : f32[1,3,6,6]
%a = conv2d(%x, @a_w, @a_b) {{stride=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=1, activation='none'}} : f32[1,6,6,6]
%r = relu(%a) {{}} : f32[1,6,6,6]
%b = conv2d(%r, @b_w, none) {{stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, activation='none'}} : f32[1,6,6,6]
%s = add(%r, %b) {{activation='none'}} : f32[1,6,6,6]
%q = {last} : f32[1,6,6,6]
%c = conv2d(%q, @c_w, none) {{stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, activation='none'}} : f32[1,4,6,6]
return %c
"""  # noqa: E501
PLAIN = "identity(%s) {}"
QUANTISED = "fake_quantize(%s, @scale, @zero) {qmin=-128, qmax=127, axis=None}"


def network(make: str = "seed", last: str = PLAIN) -> Graph:
    """Two convolutions with a shortcut and a third that reads the sum; weights normal or small integers."""
    return parse_graph(NETWORK.format(make=make, last=last))


def named(graph: Graph, name: str) -> fx.Node:
    return next(node for node in graph.graph.nodes if node.name == name)


@dataclass(frozen=True)
class Fault(Pass):
    """A pass that says it changes no numbers and does what it is told."""

    name: ClassVar[str] = "fault"
    do: Callable[[Graph], object] = lambda graph: None

    def run(self, graph: Graph, ctx: PassContext) -> None:
        self.do(graph)

    def __str__(self) -> str:
        return self.name


def run(step: Pass, graph: Graph) -> None:
    Pipeline((step,)).run(graph)


def scale_constant(name: str, factor: float) -> Callable[[Graph], None]:
    return lambda graph: set_constant(graph, name, constant(graph, name).detach() * factor)


def set_attribute(name: str, **attributes: object) -> Callable[[Graph], None]:
    def do(graph: Graph) -> None:
        node = named(graph, name)
        node.kwargs = {**node.kwargs, **attributes}  # pyright: ignore

    return do


# -- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["seed", "integers"])
@pytest.mark.parametrize("weight", ["a_w", "a_b", "b_w", "c_w"])
def test_one_percent_of_drift_in_any_constant_is_caught(make: str, weight: str) -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(scale_constant(weight, 1.01)), network(make))


def test_a_drift_of_one_millionth_in_one_weight_is_caught() -> None:
    def do(graph: Graph) -> None:
        value = constant(graph, "b_w").detach().clone()
        value[0, 0] *= 1 + 1e-6
        set_constant(graph, "b_w", value)

    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(do), network())


def test_integer_weights_are_compared_for_equality() -> None:
    graph = network("integers")
    assert exact_on_integers(as_double(graph), 3)
    found = prove(
        Fault(lambda g: add_call(g, output_node(g), "relu", named(g, "a"))), graph, graph, PassContext()
    )
    assert found is not None
    assert found.exact


def as_double(graph: Graph) -> Graph:
    return copy_graph(graph).double()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("fraction", "0.5"),
        ("large", "1e15"),
        ("division", "sigmoid"),
    ],
)
def test_exactness_is_claimed_only_for_small_integers(change: str, text: str) -> None:
    graph = as_double(network("integers"))
    if change == "division":
        node = named(graph, "r")
        node.target = ops.sigmoid
    else:
        set_constant(graph, "b_w", torch.full((6, 6, 1, 1), float(text), dtype=torch.float64))
    assert not exact_on_integers(graph, 3)


def drop(name: str) -> Callable[[Graph], None]:
    def do(graph: Graph) -> None:
        node = named(graph, name)
        node.replace_all_uses_with(operand(node, 0))

    return do


@pytest.mark.parametrize("make", ["seed", "integers"])
def test_a_dropped_activation_is_caught(make: str) -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(drop("r")), network(make))


def test_a_dropped_shortcut_is_caught() -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(drop("s")), network())


def test_an_activation_fused_where_another_reader_is_not_is_caught() -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(set_attribute("b", activation="relu")), network())


@pytest.mark.parametrize("factor", [1.01, 2.0])
def test_a_wrong_scale_is_caught(factor: float) -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(scale_constant("scale", factor)), network("seed", QUANTISED))


def test_a_wrong_zero_point_is_caught() -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(lambda g: constant(g, "zero").add_(1)), network("seed", QUANTISED))


def test_a_pass_that_drifts_in_float32_alone_is_caught() -> None:
    """The float64 run is right; the graph that leaves the pass is not."""

    def do(graph: Graph) -> None:
        value = constant(graph, "c_w").detach()
        set_constant(graph, "c_w", value * (1.01 if value.dtype == torch.float32 else 1.0))

    with pytest.raises(VerificationError, match="in its own precision"):
        run(Fault(do), network())


def test_a_pass_that_draws_at_random_outside_its_context_is_caught() -> None:
    with pytest.raises(VerificationError):
        run(
            Fault(lambda g: set_constant(g, "b_w", torch.randn(6, 6, 1, 1).to(constant(g, "b_w")))), network()
        )


def test_another_structure_in_float64_is_caught() -> None:
    def do(graph: Graph) -> None:
        if constant(graph, "a_w").dtype == torch.float32:
            drop("q")(graph)

    with pytest.raises(VerificationError, match="another structure"):
        run(Fault(do), network())


def test_infinite_outputs_do_not_pass_as_equal() -> None:
    graph = network()
    set_constant(graph, "c_w", torch.full((4, 6, 1, 1), float("nan")))
    with pytest.raises(VerificationError, match="no output is finite"):
        run(Fault(scale_constant("a_w", 2.0)), graph)


def test_logarithms_are_compared_where_they_are_defined() -> None:
    b = GraphBuilder()
    x = b.log(b.input("x", (1, 4)))
    graph = b.finish(b.linear(x, b.constant("w", torch.randn(3, 4)), None))
    run(Fault(lambda g: add_call(g, output_node(g), "identity", inputs(g)[0])), graph)
    with pytest.raises(VerificationError, match="differs by"):
        run(Fault(scale_constant("w", 1.01)), graph)


def test_one_sided_infinities_and_nans_are_infinitely_far() -> None:
    one, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    assert relative_difference(one, nan) == float("inf")
    assert relative_difference(nan, one) == float("inf")
    assert relative_difference(nan, nan) == 0.0
    assert relative_difference(torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("inf")])) == 0.0
    assert relative_difference(torch.tensor([float("inf")]), torch.tensor([-float("inf")])) == float("inf")
    assert relative_difference(torch.tensor([1.5, 2.0]), one) == pytest.approx(0.25)


def test_what_is_nothing_but_rounding_is_no_difference_and_a_small_mistake_is_one() -> None:
    noise = torch.tensor([3e-17, -5e-17], dtype=torch.float64)  # where the exact sum is zero
    assert relative_difference(noise, -noise) < TOLERANCE
    small = torch.tensor([2e-9, 1e-9], dtype=torch.float64)  # an output that is small by nature
    assert relative_difference(small, 1.001 * small) > TOLERANCE
    assert relative_difference(small, torch.zeros(2, dtype=torch.float64)) > TOLERANCE


def test_shapes_that_would_broadcast_are_told_apart() -> None:
    b = GraphBuilder()
    narrow = b.finish(b.mean(b.input("x", (1, 4)), axes=(1,), keepdim=True))
    b = GraphBuilder()
    wide = b.finish(b.mul(b.input("x", (1, 4)), b.constant("zero", torch.zeros(1))))
    with pytest.raises(VerificationError, match=r"is \(1, 1\) in place of \(1, 4\)"):
        compare(narrow, wide, [torch.zeros(1, 4)], tolerance=1.0)


# -- structure, shapes, interface --------------------------------------------------------------------------


def test_a_wrong_shape_note_is_caught() -> None:
    graph = network()
    annotate(named(graph, "b"), type=TensorType((1, 6, 6, 5)))
    with pytest.raises(VerificationError, match=r"b: declares f32\[1,6,6,5\], but computes f32\[1,6,6,6\]"):
        check_shapes(graph)


def test_a_missing_type_is_caught() -> None:
    graph = network()
    annotate(named(graph, "b"), type=None)
    with pytest.raises(VerificationError, match="b: declares no type"):
        check_shapes(graph)


def test_another_input_shape_is_caught() -> None:
    with pytest.raises(VerificationError, match=r"takes %x : f32\[1,3,8,8\] in place of %x : f32\[1,3,6,6\]"):
        run(Fault(lambda g: annotate(inputs(g)[0], type=TensorType((1, 3, 8, 8)))), network())


def test_another_output_is_caught() -> None:
    def twice(graph: Graph) -> None:
        output_node(graph).args = ((named(graph, "c"), named(graph, "c")),)

    def flatten(graph: Graph) -> None:
        end = output_node(graph)
        end.args = ((add_call(graph, end, "reshape", named(graph, "c"), shape=(144,)),),)

    for do in (twice, flatten):
        with pytest.raises(VerificationError, match=r"returns %c : f32\[1,4,6,6\], |returns %reshape"):
            run(Fault(do), network())


def test_an_unknown_attribute_is_caught() -> None:
    with pytest.raises(MccError, match=r"b: conv2d does not fit .* 'gamma'"):
        run(Fault(set_attribute("b", gamma=2)), network())
    graph = network()
    set_attribute("b", gamma=2)(graph)
    with pytest.raises(GraphError, match="b: conv2d must name exactly"):
        check_structure(graph)


def test_a_missing_attribute_is_caught() -> None:
    graph = network()
    node = named(graph, "b")
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "groups"}
    with pytest.raises(GraphError, match="b: conv2d must name exactly"):
        check_structure(graph)


@pytest.mark.parametrize("value", [[1, 1], float("nan"), torch.tensor(1)])
def test_an_attribute_that_cannot_be_printed_is_caught(value: object) -> None:
    graph = network()
    set_attribute("b", stride=value)(graph)
    with pytest.raises(GraphError, match="b: conv2d has a stride that is no plain value"):
        check_structure(graph)


def test_a_call_outside_the_table_is_caught() -> None:
    graph = network()
    named(graph, "r").target = torch.relu
    with pytest.raises(UnsupportedError, match=r"r: calls .*not in the canonical form"):
        check_structure(graph)


def test_a_method_call_and_a_returned_constant_are_caught() -> None:
    graph = network()
    with graph.graph.inserting_before(output_node(graph)):
        graph.graph.call_method("relu", (named(graph, "c"),))
    with pytest.raises(GraphError, match="node kind call_method"):
        check_structure(graph)
    graph = network()
    output_node(graph).args = ((operand(named(graph, "a"), 1),),)
    with pytest.raises(GraphError, match="a_w: returns a constant"):
        check_structure(graph)


def test_a_reader_before_its_value_is_caught() -> None:
    graph = network()
    named(graph, "r").append(named(graph, "a"))
    with pytest.raises(GraphError, match="no well-formed graph"):
        check_structure(graph)


def test_a_missing_constant_is_caught() -> None:
    graph = network()
    del graph.a_w
    with pytest.raises(GraphError, match="nonexistent attribute a_w"):
        check_structure(graph)


BATCH = """mcc 1
const @three : f32[{shape}] = seed(1)
%x = input() {{}} : f32[1,4]
%y = {call}
return %y
"""


@pytest.mark.parametrize(
    ("shape", "call"),
    [
        ("3,4", "add(%x, @three) {activation='none'} : f32[3,4]"),
        ("4", "concat(%x, %x) {axis=0} : f32[2,4]"),
        ("4", "mean(%x) {axes=(0,), keepdim=True} : f32[1,4]"),
        ("4", "softmax(%x) {axis=0} : f32[1,4]"),
        ("4", "layer_norm(%x, none, none) {axes=(0, 1), eps=0.1} : f32[1,4]"),
        ("4", "pad(%x) {padding=((1, 0), (0, 0)), mode='constant', value=0.0} : f32[2,4]"),
        ("4", "slice(%x) {axis=0, start=0, stop=1, step=1} : f32[1,4]"),
        ("4", "transpose(%x) {perm=(1, 0)} : f32[4,1]"),
        ("1,1", "matmul(@three, %x) {} : f32[1,4]"),
        ("4", "group_norm(%x, none, none) {groups=4, eps=0.1} : f32[1,4]"),
    ],
)
def test_an_operator_that_works_at_one_batch_length_only_is_caught(shape: str, call: str) -> None:
    with pytest.raises(GraphError, match=r"batch|does not fit"):
        check_shapes(parse_graph(BATCH.format(shape=shape, call=call)))


def test_a_pass_whose_promise_is_broken_is_caught() -> None:
    @dataclass(frozen=True)
    class Promise(Fault):
        def ensures(self, graph: Graph) -> None:
            raise VerificationError("is not as promised", where="b")

    with pytest.raises(VerificationError, match="is not as promised"):
        run(Promise(), network())
    with pytest.raises(VerificationError, match="is not as promised"):
        run(Promise(scale_constant("b_w", 1.0000001)), network())


# -- pruning -----------------------------------------------------------------------------------------------


def removed_of(graph: Graph, group: str) -> tuple[ChannelAnalysis, frozenset[int]]:
    analysis = analyse_channels(graph)
    return analysis, frozenset(analysis.group(group).classes[:2])


@dataclass(frozen=True)
class Prune(Pass):
    """Pruning whose twin forgets a reader, or which removes channels that are still read."""

    name: ClassVar[str] = "prune"
    forget: str = ""
    graph_forgets: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> None:
        analysis, removed = removed_of(graph, "a")
        shrink(graph, analysis, removed)

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        analysis, removed = removed_of(before, "a")
        held = constant(before, self.forget).detach().clone() if self.forget else None
        zero_readers(before, analysis, removed)
        if held is not None:
            set_constant(before, self.forget, held)
        return before

    def variants(self, twin: Graph, before: Graph, ctx: PassContext) -> Iterator[Graph]:
        analysis, removed = removed_of(before, "a")
        filled = copy_graph(twin)
        refill_producers(filled, analysis, removed, ctx.generator)
        yield filled


def test_right_pruning_passes() -> None:
    for make in ("seed", "integers"):
        run(Prune(), network(make))


@pytest.mark.parametrize("forget", ["b_w", "c_w"])
def test_pruning_that_forgets_one_reader_is_caught(forget: str) -> None:
    with pytest.raises(VerificationError, match="differs by"):
        run(Prune(forget), network())


@dataclass(frozen=True)
class LeaveRead(Pass):
    """Says that channels are gone, in graph and twin alike, but one of their readers still reads them.

    Graph and twin are equal here, so that only the random fill shows it.
    """

    name: ClassVar[str] = "leave-read"

    def run(self, graph: Graph, ctx: PassContext) -> None:
        self._forgetful(graph)

    def reference(self, before: Graph, ctx: PassContext) -> Graph:
        self._forgetful(before)
        return before

    def _forgetful(self, graph: Graph) -> None:
        analysis, removed = removed_of(graph, "a")
        held = constant(graph, "c_w").detach().clone()
        zero_readers(graph, analysis, removed)
        set_constant(graph, "c_w", held)

    def variants(self, twin: Graph, before: Graph, ctx: PassContext) -> Iterator[Graph]:
        analysis, removed = removed_of(before, "a")
        filled = copy_graph(twin)
        refill_producers(filled, analysis, removed, ctx.generator)
        yield filled


def test_a_channel_still_read_is_caught_by_the_random_fill() -> None:
    with pytest.raises(VerificationError, match=r"leave-read \(variant\)"):
        run(LeaveRead(), network())


def test_removing_the_wrong_channels_is_caught() -> None:
    @dataclass(frozen=True)
    class Other(Prune):
        def run(self, graph: Graph, ctx: PassContext) -> None:
            analysis = analyse_channels(graph)
            shrink(graph, analysis, frozenset(analysis.group("a").classes[1:3]))

    with pytest.raises(VerificationError, match="differs by"):
        run(Other(), network())


def test_shrinking_one_end_only_does_not_fit() -> None:
    def do(graph: Graph) -> None:
        set_constant(graph, "b_w", constant(graph, "b_w").detach()[:5])

    with pytest.raises(MccError, match="s: add does not fit its operands"):
        run(Fault(do), network())


def test_a_frozen_node_keeps_its_note() -> None:
    graph = network()
    annotate(named(graph, "r"), frozen="by hand")
    result = Pipeline.parse("prune-channels{keep=0.5}").run(graph)
    assert note(named(result.graph, "r")).frozen == "by hand"
    assert calls(result.graph, "conv2d")[0].meta["mcc"].type.shape == (1, 6, 6, 6)


# -- dead code and frozen nodes ----------------------------------------------------------------------------


def test_dropping_what_an_output_depends_on_is_caught() -> None:
    """As a drop-dead-code would that follows the first operand only: the shortcut is gone."""

    @dataclass(frozen=True)
    class DropTooMuch(DropDeadCode):
        name: ClassVar[str] = "drop-too-much"

        def run(self, graph: Graph, ctx: PassContext) -> None:
            add = named(graph, "s")
            add.replace_all_uses_with(operand(add, 0))
            super().run(graph, ctx)

    run(DropDeadCode(), with_dead_code(network()))
    with pytest.raises(VerificationError, match="differs by"):
        run(DropTooMuch(), with_dead_code(network()))


def with_dead_code(graph: Graph) -> Graph:
    """A network with two operators that lead nowhere, the first of which has a reader."""
    add_call(graph, output_node(graph), "abs", add_call(graph, output_node(graph), "relu", named(graph, "a")))
    return graph


def test_dead_code_that_is_left_is_caught() -> None:
    with pytest.raises(VerificationError, match=r"relu.*: no output depends on it"):
        DropDeadCode().ensures(with_dead_code(network()))


def test_an_input_dropped_as_dead_is_caught() -> None:
    b = GraphBuilder()
    used, unused = b.input("x", (1, 4)), b.input("y", (1, 4))
    graph = b.finish(b.relu(used))

    def drop_input(g: Graph) -> None:
        g.graph.erase_node(named(g, unused.name))

    run(DropDeadCode(), graph)
    with pytest.raises(VerificationError, match=r"takes %x : .* in place of %x : .*, %y"):
        run(Fault(drop_input), graph)


def test_a_node_that_freezing_forgets_is_caught() -> None:
    @dataclass(frozen=True)
    class FreezeFirst(FreezeNodes):
        name: ClassVar[str] = "freeze-first"

        def run(self, graph: Graph, ctx: PassContext) -> None:
            annotate(self._found(graph)[0], frozen=self.because)

    run(FreezeFirst(match="a"), network())
    with pytest.raises(VerificationError, match=r"r: .*is not frozen"):
        run(FreezeFirst(match="?"), network())


def frozen_network(name: str = "b") -> Graph:
    graph = network()
    annotate(named(graph, name), frozen="asked for")
    return graph


def test_freezing_that_changes_the_node_is_caught() -> None:
    @dataclass(frozen=True)
    class FreezeAndFuse(FreezeNodes):
        name: ClassVar[str] = "freeze-and-fuse"

        def run(self, graph: Graph, ctx: PassContext) -> None:
            super().run(graph, ctx)
            set_attribute("b", activation="relu")(graph)

    with pytest.raises(VerificationError, match="differs by"):
        run(FreezeAndFuse(match="b"), network())


@dataclass(frozen=True)
class Intended(Fault):
    """A fault in a pass whose numbers change by intent, which no twin would catch."""

    name: ClassVar[str] = "intended"

    def reference(self, before: Graph, ctx: PassContext) -> None:
        return None


def touch_type(graph: Graph) -> None:
    node = named(graph, "r")
    node.replace_all_uses_with(add_call(graph, node.next, "relu6", operand(node, 0), name="six"))


@pytest.mark.parametrize(
    ("node", "do", "said"),
    [
        ("b", scale_constant("b_w", 1.01), "b: .*reads another b_w, though frozen"),
        ("b", set_attribute("b", activation="relu"), "b: .*is another operator or shape, though frozen"),
        ("r", touch_type, "r: .*is gone, though frozen"),
        ("b", lambda g: annotate(named(g, "b"), frozen=None), "b: .*is frozen for another reason"),
    ],
)
def test_a_pass_that_touches_a_frozen_node_is_caught(
    node: str, do: Callable[[Graph], object], said: str
) -> None:
    run(Intended(do), network())  # by intent: nobody minds where nothing is frozen
    with pytest.raises(VerificationError, match=said):
        run(Intended(do), frozen_network(node))

"""Building, reading and copying graphs; the op table; names and types."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

from mcc.errors import GraphError, UnsupportedError
from mcc.ir import ops, recurrent, table
from mcc.ir.canonical import check_shapes, check_structure
from mcc.ir.graph import (
    Graph,
    GraphBuilder,
    add_call,
    add_constant,
    calls,
    clean,
    constant,
    constants,
    copy_graph,
    infer,
    inputs,
    op_name,
    operand,
    operands,
    optional_operand,
    output_node,
    outputs,
    run,
    set_buffer,
    set_constant,
)
from mcc.ir.notes import Note, SparseNote, TensorType, annotate, note, shape_of, type_of
from mcc.ir.text import print_graph


def network() -> Graph:
    torch.manual_seed(0)
    b = GraphBuilder()
    x = b.input("x", (1, 3, 4, 4))
    w = b.constant("w", torch.randn(3, 3, 1, 1))
    y = b.conv2d(x, w, None, name="first")
    z = b.conv2d(y, w, b.constant("shift", torch.ones(3), trains=False), name="second", activation="relu")
    return b.finish(z, b.add(y, z, name="sum_both"))


# -- building and reading ----------------------------------------------------------------------------------


def test_an_attribute_of_the_wrong_length_is_refused() -> None:
    b = GraphBuilder()
    x, w = b.input("x", (1, 3, 4, 4)), b.constant("w", torch.ones(4, 3, 1, 1))
    with pytest.raises(GraphError, match=r"dilation must hold 2 numbers, not \(1, 1, 1\)"):
        b.conv2d(x, w, None, dilation=(1, 1, 1))
    with pytest.raises(GraphError, match=r"stride must hold 2 numbers, not 1"):
        b.conv2d(x, w, None, stride=1)


def test_a_graph_says_what_it_holds() -> None:
    graph = network()
    assert [node.name for node in inputs(graph)] == ["x"]
    assert [node.name for node in outputs(graph)] == ["second", "sum_both"]
    assert [op_name(node) for node in calls(graph)] == ["conv2d", "conv2d", "add"]
    assert [node.name for node in calls(graph, "add", "sub")] == ["sum_both"]
    assert list(constants(graph)) == ["w", "shift"]
    assert output_node(graph).args == (tuple(outputs(graph)),)
    first, second, both = calls(graph)
    assert operand(first, 0).name == "x"
    assert optional_operand(first, 2) is None
    assert operands(both) == [first, second]
    with pytest.raises(GraphError, match="first: operand 2 of conv2d is missing"):
        operand(first, 2)


def test_a_shared_constant_is_one_node() -> None:
    graph = network()
    assert operand(calls(graph)[0], 1) is operand(calls(graph)[1], 1)
    assert len([node for node in graph.graph.nodes if node.op == "get_attr"]) == 2


def test_attributes_left_out_take_their_defaults() -> None:
    kwargs = calls(network())[0].kwargs
    assert kwargs == {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, "activation": "none"}  # fmt: skip  # noqa: E501


def test_a_builder_survives_what_does_not_fit() -> None:
    b = GraphBuilder()
    x = b.input("x", (1, 3, 4, 4))
    with pytest.raises(GraphError, match="conv2d does not fit its operands"):
        b.conv2d(x, b.constant("w", torch.randn(3, 4, 1, 1)), None)
    with pytest.raises(ValueError, match="conv2d has no attribute colour"):
        b.conv2d(x, b.constant("w", torch.randn(3, 4, 1, 1)), None, colour="red")
    with pytest.raises(ValueError, match="mean needs the attribute axes"):
        b.mean(x)
    with pytest.raises(
        UnsupportedError, match="operator 'fold' is not in the canonical form; it knows abs, add"
    ):
        b.call("fold", x)
    for name in ("forward", "training", "a.b", "class", "1st", ""):
        with pytest.raises(GraphError, match=f"@{name} is not a usable name"):
            b.constant(name, torch.ones(2))
    with pytest.raises(GraphError, match=r"h: has elements of torch.bfloat16"):
        b.constant("h", torch.ones(2, dtype=torch.bfloat16))
    graph = clean(b.finish(b.relu(x)))
    check_structure(graph)
    assert [op_name(node) for node in calls(graph)] == ["relu"]


def test_what_trains_stays_a_parameter_and_statistics_stay_buffers() -> None:
    graph = network()
    set_constant(graph, "w", torch.zeros(3, 3, 1, 1))
    set_constant(graph, "shift", torch.zeros(3))
    set_constant(graph, "new", torch.zeros(3))
    set_constant(graph, "count", torch.zeros(3, dtype=torch.int32))
    set_buffer(graph, "scale", torch.zeros(3))
    assert {name for name, _ in graph.named_parameters()} == {"w", "new"}
    assert {name for name, _ in graph.named_buffers()} == {"shift", "count", "scale"}


def test_what_is_added_is_typed_and_named_apart() -> None:
    graph = network()
    last = output_node(graph)
    held = add_constant(graph, last, "w", torch.ones(3, 1, 1))
    assert held.target == "w_1"
    node = add_call(graph, last, "mul", calls(graph)[0], held, activation="none")
    assert type_of(node) == TensorType((1, 3, 4, 4))
    with pytest.raises(GraphError, match="add does not fit"):
        add_call(graph, last, "add", calls(graph)[0], add_constant(graph, last, "v", torch.ones(5)), activation="none")  # fmt: skip  # noqa: E501


def test_cleaning_drops_what_nobody_reads() -> None:
    graph = network()
    output_node(graph).args = ((calls(graph)[0],),)
    clean(graph)
    assert [node.name for node in calls(graph)] == ["first"]
    assert set(dict(graph.named_parameters())) == {"w"}
    assert not dict(graph.named_buffers())


def test_inferring_anew_corrects_the_types() -> None:
    graph = network()
    annotate(inputs(graph)[0], type=TensorType((2, 3, 5, 5)))
    infer(graph)
    check_shapes(graph)
    assert {shape_of(node) for node in calls(graph)} == {(2, 3, 5, 5)}


# -- copies ------------------------------------------------------------------------------------------------


def test_a_tensor_under_two_names_survives_a_copy() -> None:
    b = GraphBuilder()
    tied = nn.Parameter(torch.randn(2, 2))
    x = b.linear(b.input("x", (1, 2)), b.constant("a", tied), None)
    graph = b.finish(b.linear(x, b.constant("b", tied), None))
    graph.b = graph.a  # one tensor under two names, as tied weights are
    for other in (copy_graph(graph), copy.deepcopy(graph)):
        assert set(constants(other)) == {"a", "b"}
        assert print_graph(other) == print_graph(graph)
    assert print_graph(graph).count("fixed") == 0


def test_a_copy_keeps_what_trains_and_the_mode() -> None:
    graph = network()
    graph.w.requires_grad_(False)
    graph.train()
    twin = copy_graph(graph)
    assert not twin.w.requires_grad
    assert twin.training
    again = pickle.loads(pickle.dumps(graph))  # noqa: S301 - our own bytes
    assert not again.w.requires_grad
    assert again.training
    assert type(again).__name__ == type(graph).__name__


# -- notes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "int4"}, {"keep": ()}, {"keep": (1, 1)}, {"keep": [0]}, {"keep": (True,)}, {"rank": 0},
        {"rank": 1.5}, {"pruned_from": -1}, {"frozen": 1}, {"origin": "x"}, {"origin": (1,)},
        {"sparse": (1, 0.5)},
    ],
)  # fmt: skip
def test_notes_check_themselves(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        Note(**wrong)  # pyright: ignore


def test_types_and_patterns_check_themselves() -> None:
    assert str(TensorType((1, 2), "i8")) == "i8[1,2]"
    assert TensorType((3, 4)).size_bytes == 48
    assert TensorType(()).elements == 1
    for wrong in ({"shape": (0,)}, {"shape": (-1,)}, {"shape": (1,), "dtype": "f8"}):
        with pytest.raises(ValueError, match=r"not positive|unknown dtype"):
            TensorType(**wrong)  # pyright: ignore
    for pattern in ((3, 0.5), (1, 1.5), (1, -0.1)):
        with pytest.raises(ValueError, match="must"):
            SparseNote(*pattern)


def test_unknown_fields_of_a_note_are_refused() -> None:
    node = inputs(network())[0]
    with pytest.raises(TypeError):
        annotate(node, colour="red")
    assert note(node).frozen is None


# -- the op table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(table.TABLE))
def test_columns_agree_with_one_another(name: str) -> None:
    row = table.TABLE[name]
    assert set(row.counts) <= set(row.attributes)
    assert row.scales == "tied" or not row.moves
    assert (row.moves and row.unary) or not row.clamps
    assert row.parameters or row.scales != "weighted"
    assert row.sign != "kept" or row.scales == "tied"


@pytest.mark.parametrize("name", [name for name, row in table.TABLE.items() if row.sign == "positive"])
def test_results_that_are_said_to_be_positive_are(name: str) -> None:
    attributes = {"axis": 1} if name == "softmax" else {}
    x = torch.linspace(-9, 9, 64).reshape(1, 4, 4, 4)
    assert bool((table.TABLE[name].function(x, **table.TABLE[name].complete(attributes)) >= 0).all())


@pytest.mark.parametrize("name", sorted(table.TABLE))
def test_a_row_and_its_function_agree(name: str) -> None:
    row = table.TABLE[name]
    parameters = inspect.signature(row.function).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert list(row.attributes) == keywords
    tensors = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert row.operands == ((1, 1024) if name == "concat" else (len(tensors), len(tensors)))
    assert inspect.getdoc(row.function)
    assert row.function is getattr(recurrent if name in ("lstm", "gru") else ops, name)


def test_every_function_of_ops_is_in_the_table() -> None:
    functions = {
        name
        for module in (ops, recurrent)
        for name, found in vars(module).items()
        if inspect.isfunction(found) and found.__module__ == module.__name__
    }
    assert {name for name in functions if not name.startswith("_")} - {"activate", "batch_statistics"} == set(
        table.TABLE
    )


def test_equal_attributes_of_other_kinds_are_not_mistaken_for_one_another() -> None:
    row, types = table.row("conv2d"), [TensorType((1, 3, 4, 4)), TensorType((3, 3, 1, 1)), None]
    row.infer(types, row.complete({"groups": 1}))
    with pytest.raises(table.MISFITS):
        row.infer(types, row.complete({"groups": 1.0}))


def test_batch_norm_learns_statistics_only_when_asked() -> None:
    b = GraphBuilder()
    start = {"g": torch.ones(3), "s": torch.zeros(3), "m": torch.zeros(3), "v": torch.ones(3)}
    rows = [b.constant(name, value, trains=name in "gs") for name, value in start.items()]
    graph = b.finish(b.batch_norm(b.input("x", (1, 3, 4, 4)), *rows))
    x = torch.randn(8, 3, 4, 4) * 3 + 5
    assert torch.allclose(run(graph, x)[0], x, atol=1e-3)
    assert float(constant(graph, "m").abs().max()) == 0.0
    with ops.batch_statistics(momentum=1.0):
        normal = run(graph, x)[0]
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(constant(graph, "m"), x.mean((0, 2, 3)), atol=1e-5)

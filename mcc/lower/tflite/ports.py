"""Inputs and outputs of a file: those of the file that the graph was read from, else named as the nodes.

A file whose graph came from a .tflite file has the same names, order, types and grids, whatever passes did in
between; what the graph computes is brought to them by QUANTIZE and DEQUANTIZE.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from torch import fx

from mcc.errors import UnsupportedError
from mcc.ir.graph import Graph, inputs, is_constant, output_node, outputs
from mcc.ir.interface import Port
from mcc.ir.notes import note, shape_of, type_of
from mcc.lower.layout import image_or_plain
from mcc.lower.tflite import regions
from mcc.lower.tflite.builder import Options
from mcc.lower.tflite.lowering import Lowering, Value
from mcc.lower.tflite.quantisation import Quantisation, per_tensor
from mcc.quant.params import is_fake_quantize

Io = Literal["float", "int8"]


def signature(graph: Graph) -> str:
    """Key of the signature of the file that the graph was read from; empty if there is none."""
    interface = note(output_node(graph)).interface
    return "" if interface is None else interface.signature


def half_weights(graph: Graph) -> bool:
    """Whether the file that the graph was read from stores real weights in half precision."""
    interface = note(output_node(graph)).interface
    return interface is not None and interface.half_weights


def _ports(graph: Graph, nodes: Sequence[fx.Node], io: Io | None, *, into: bool) -> list[Port]:
    """A port for each input, or each output: the file's where it has as many, else one named as the node.

    What is asked for by `io` goes before the types of that file.
    """
    interface = note(output_node(graph)).interface
    known = () if interface is None else interface.inputs if into else interface.outputs
    found = list(known) if len(known) == len(nodes) else [Port(node.name) for node in nodes]
    return found if io is None else [Port(port.name, port.key) for port in found]


def _named(low: Lowering, found: Iterable[tuple[Port, int]]) -> dict[str, int]:
    """Tensors by their names in the signature; the tensors get those of their ports."""
    result: dict[str, int] = {}
    renamed: set[int] = set()
    for port, index in found:
        result[_free_name(port.key or port.name, result)] = index
        if index not in renamed:  # a value may be returned twice
            low.model.rename(index, port.name)
            renamed.add(index)
    return result


def _free_name(name: str, taken: Iterable[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique


# -- inputs ------------------------------------------------------------------------------------------------


def file_inputs(low: Lowering, io: Io | None) -> dict[str, int]:
    """Add the tensors of the graph's inputs, and return them by their names in the signature."""
    nodes = inputs(low.graph)
    ports = _ports(low.graph, nodes, io, into=True)
    return _named(low, [(port, _input(low, node, port, io)) for node, port in zip(nodes, ports, strict=True)])


def _input(low: Lowering, node: fx.Node, port: Port, io: Io | None) -> int:
    readers = list(node.users)
    alone = len(readers) == 1 and is_fake_quantize(readers[0])
    wanted = regions.activation_quantisation(low.graph, readers[0]) if alone else None
    if port.integer:
        return _integer_input(low, node, port, wanted)
    quantisation = wanted if io == "int8" else None
    dtype = {"f32": "float32", "i32": "int32", "i64": "int64", "bool": "bool"}.get(type_of(node).dtype)
    if dtype is None:
        raise UnsupportedError(f"an input of type {type_of(node).dtype} has no form here", where=node.name)
    value = _value(node, quantisation)
    index = low.model.tensor(
        node.name, value.stored_shape, dtype if quantisation is None else "int8", quantisation
    )
    low.bind(node, replace(value, index=index))
    return index


def _integer_input(low: Lowering, node: fx.Node, port: Port, wanted: Quantisation | None) -> int:
    """An input of integers: as they are where the only reader has their grid, else requantised or real."""
    given = _value(node, per_tensor(port.scale, port.zero_point))
    index = low.model.tensor(node.name, given.stored_shape, port.dtype, given.quantisation)
    given = replace(given, index=index)
    if wanted is None:
        code, options = "DEQUANTIZE", Options("DequantizeOptions")
        given = low.call(node, code, [given], given.shape, given.layout, options, suffix="float")
    elif port.dtype == "uint8":
        code, options = "QUANTIZE", Options("QuantizeOptions")
        shape, layout = given.shape, given.layout
        given = low.call(node, code, [given], shape, layout, options, quantisation=wanted, suffix="signed")
    low.bind(node, given)
    return index


def _value(node: fx.Node, quantisation: Quantisation | None) -> Value:
    shape = shape_of(node)
    return Value(-1, shape, image_or_plain(len(shape)), quantisation)


# -- outputs -----------------------------------------------------------------------------------------------


def file_outputs(low: Lowering, io: Io | None) -> dict[str, int]:
    """The tensors of the graph's outputs by their names in the signature; one returned twice has two."""
    nodes = outputs(low.graph)
    ports = _ports(low.graph, nodes, io, into=False)
    return _named(
        low, [(port, _output(low, node, port, io)) for node, port in zip(nodes, ports, strict=True)]
    )


def _output(low: Lowering, node: fx.Node, port: Port, io: Io | None) -> int:
    native = None if is_constant(node) else low.native(node).quantisation
    layout = image_or_plain(len(shape_of(node)))
    if not port.integer:
        return low.value(node, layout, integer=io == "int8" and native is not None).index
    value = low.value(node, layout, integer=native is not None)
    grid = per_tensor(port.scale, port.zero_point)
    if port.dtype == "int8":
        return low.requantise(node, value, grid).index
    index = low.model.tensor(f"{node.name}/unsigned", value.stored_shape, port.dtype, grid)
    low.model.operator("QUANTIZE", [value.index], [index], Options("QuantizeOptions"))
    return index

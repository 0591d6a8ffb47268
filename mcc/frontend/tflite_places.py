"""Places in a .tflite file: operators by name, where it can be cut, and what its outputs depend on."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mcc.errors import DataError, UnsupportedError
from mcc.frontend.cut import unknown_place
from mcc.frontend.emitter import MAX_ELEMENTS
from mcc.frontend.tflite_constants import short_name
from mcc.frontend.tflite_table import SHAPE_INPUTS
from mcc.lower.tflite.reader import TfliteModel, TfliteOperator, TfliteTensor


def check_shape(tensor: TfliteTensor, where: str) -> None:
    """Raise for a shape that no value has, or that is beyond what mcc handles."""
    if any(length < 0 for length in tensor.shape):
        raise DataError(f"declares the shape {list(tensor.shape)}", where=where, hint="convert it again")
    if 0 in tensor.shape:
        raise UnsupportedError(
            f"has the empty shape {list(tensor.shape)}",
            where=where,
            hint="convert the model with static shapes",
        )
    if math.prod(tensor.shape) > MAX_ELEMENTS:
        raise UnsupportedError(f"of shape {list(tensor.shape)} is beyond what mcc handles", where=where)


def place_of(model: TfliteModel, operator: TfliteOperator) -> str:
    """An operator as messages name it."""
    name = model.tensors[operator.outputs[0]].name
    return f"operator {operator.index} ({operator.code.removeprefix('CUSTOM:')}, {name})"


def cut_place(model: TfliteModel, name: str) -> int:
    """The tensor of a place to cut: named as in the file, or as the node of the graph."""
    computed = [index for operator in model.operators for index in operator.outputs]
    places = {short_name(model.tensors[index].name): index for index in reversed(computed)}
    places |= {model.tensors[index].name: index for index in reversed(computed)}
    if name not in places:
        raise unknown_place(name, places, "tensor or node")
    return places[name]


def needed(model: TfliteModel, returned: Iterable[int]) -> list[TfliteOperator]:
    """The operators that outputs depend on, in the order of the file; not by way of a shape."""
    writer: dict[int, TfliteOperator] = {}
    for operator in model.operators:
        for index in operator.outputs:
            if index in writer or index in model.inputs:
                raise DataError(
                    "writes a value that another operator or an input has written",
                    where=place_of(model, operator),
                    hint="convert the model again",
                )
            writer[index] = operator
    found: dict[int, TfliteOperator] = {}
    pending = list(returned)
    while pending:
        operator = writer.get(pending.pop())
        if operator is None or operator.index in found:
            continue
        found[operator.index] = operator
        skipped = SHAPE_INPUTS.get(operator.code, ())
        pending += [
            index for place, index in enumerate(operator.inputs) if index >= 0 and place not in skipped
        ]
    return [found[index] for index in sorted(found)]

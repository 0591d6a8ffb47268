"""The graph that was read from a .tflite file, compared with the file in LiteRT."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from mcc.errors import VerificationError
from mcc.frontend.batch import Original
from mcc.frontend.onnx_compare import Comparison
from mcc.ir.graph import Graph, calls, run
from mcc.lower.tflite.reader import TfliteModel, TfliteOperator
from mcc.quant.noise import random_images

log = logging.getLogger(__name__)

COMPARED = 4  # inputs of an integer file
TOLERANCE_INTEGERS = 0.25
"""Each layer may round either way, which adds up to some percent on random inputs; a wrong scale or order is
apart by as much as the output is large."""
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def verify_against_litert(
    graph: Graph,
    original: Original,
    shapes: Sequence[tuple[int, ...]],
    model: TfliteModel,
    returned: Sequence[int],
    operators: Sequence[TfliteOperator],
) -> None:
    """Compare on random inputs; see `_apart` for integers.

    Args:
        shapes: shapes of the graph's inputs.
        returned: tensors of the file that are the graph's outputs.
        operators: those that were read.

    Raises:
        VerificationError: an output differs.
    """
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn((2, *shape[1:]), generator=generator) for shape in shapes]
    integer = bool(calls(graph, "fake_quantize"))
    if integer:
        values = [value[:COMPARED] for value in random_images(graph)]
    elif _is_hybrid(model, operators):
        return  # LiteRT rounds activations to 8 bits for every inference, the graph does not
    try:
        expected = original([value.clone() for value in values])
    except (RuntimeError, ValueError) as error:  # LiteRT's own refusals
        reason = (str(error).splitlines() or [""])[0]
        log.warning("not compared with LiteRT, which does not run the file: %s", reason)
        return
    comparison = Comparison(graph, original, values)
    if integer:
        found = _apart(model, returned, run(graph, *values), expected)
    else:
        found = comparison.own_differences(expected)
    for index, difference in enumerate(found):
        if not difference <= (TOLERANCE_INTEGERS if integer else comparison.tolerance):
            raise VerificationError(
                f"output {index} differs from LiteRT by {difference:.2g} of its range",
                hint="please report it",
            )


def _apart(
    model: TfliteModel, returned: Sequence[int], values: Sequence[Tensor], expected: Sequence[Tensor]
) -> list[float]:
    """The mean difference of each output over its mean size, of which a step of its grid is the least."""
    found: list[float] = []
    for index, got, wanted in zip(returned, values, expected, strict=True):
        grid = model.tensors[index].quantisation
        step = 0.0 if grid is None else float(grid.scale)
        apart = (got - wanted.reshape(got.shape)).abs().mean()
        found.append(float(apart) / (float(wanted.abs().mean()) + step or 1.0))
    return found


def _is_hybrid(model: TfliteModel, operators: Sequence[TfliteOperator]) -> bool:
    """Whether weights of 8 bits meet real activations."""
    tensors = model.tensors
    return any(
        tensors[one.inputs[1]].dtype == "int8" and tensors[one.inputs[0]].dtype == "float32"
        for one in operators
        if one.code in WEIGHTED
    )

"""Checks after every pass: structure, declared against recomputed shapes, numbers against the exact twin.

Numbers are compared in float64: the pass is run again on a float64 copy of the graph before, so that the
rounding of float32 weights does not hide a mistake. Where all constants and inputs are small integers, sums
are exact and equality means equality; elsewhere the tolerance is `TOLERANCE` of the output range, which is
float64 rounding (2**-53) times the length of the longest sums and the depth of a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mcc.errors import GraphError, MccError, VerificationError
from mcc.ir import table
from mcc.ir.graph import (
    Graph,
    constant,
    constants,
    copy_graph,
    infer,
    infer_node,
    inputs,
    is_constant,
    outputs,
    run,
)
from mcc.ir.notes import Note, TensorType, annotate, note, shape_of, type_of
from mcc.pass_api import Pass, PassContext, apply_pass

TOLERANCE = 1e-9
SEEDS = (0, 1)


@dataclass(frozen=True)
class Comparison:
    """Result of comparing numbers: the largest difference as a share of the output range."""

    worst: float
    exact: bool


def check_structure(graph: Graph) -> None:
    """Raise GraphError unless the graph is in canonical form: known operators with all their attributes."""
    try:
        graph.graph.lint()
    except RuntimeError as error:
        raise GraphError(f"is no well-formed graph: {str(error).splitlines()[0]}") from error
    for node in graph.graph.nodes:
        if node.op == "call_function":
            row = table.row_of(node)
            if set(node.kwargs) != set(row.attributes):
                raise GraphError(f"{row.name} must name exactly {', '.join(row.attributes)}", where=node.name)
            if any(arg is not None and not isinstance(arg, fx.Node) for arg in node.args):
                raise GraphError(f"{row.name} has an operand that is no value", where=node.name)
        elif is_constant(node):
            constant(graph, node)
        elif node.op not in ("placeholder", "output"):
            raise GraphError(f"node kind {node.op} is not in the canonical form", where=node.name)
        if not isinstance(node.meta.get("mcc", Note()), Note):
            raise GraphError("carries something that is no note", where=node.name)
    outputs(graph)


def check_shapes(graph: Graph) -> None:
    """Raise VerificationError where a declared type differs from the recomputed one."""
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        declared, computed = note(node).type, infer_node(graph, node)
        if declared != computed:
            raise VerificationError(f"declares {declared}, but computes {computed}", where=node.name)


def as_float64(graph: Graph) -> Graph:
    """A float64 copy of a graph, its declared types included."""
    double = copy_graph(graph).double()
    for node in inputs(double):
        declared = type_of(node)
        annotate(node, type=TensorType(declared.shape, "f64" if declared.dtype == "f32" else declared.dtype))
    return infer(double)


def random_inputs(graph: Graph, seed: int, *, integers: bool = False) -> list[Tensor]:
    """Float64 inputs of the declared shapes, normal or of small integers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape_of(node) for node in inputs(graph)]
    if integers:
        return [torch.randint(-3, 4, shape, generator=generator).double() for shape in shapes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def is_integral(graph: Graph) -> bool:
    """Whether all constants of the graph are integers."""
    return all(bool((value == value.round()).all()) for value in constants(graph).values())


def compare(
    a: Graph, b: Graph, values: Sequence[Tensor], *, tolerance: float, where: str = "graph"
) -> Comparison:
    """Compare the outputs of two graphs on one batch.

    Raises:
        VerificationError: different number or shape of outputs, a value that is not finite on one side only,
            or a difference beyond `tolerance` of the output range.
    """
    left, right = run(a, *values), run(b, *values)
    if len(left) != len(right):
        raise VerificationError(f"returns {len(left)} values in place of {len(right)}", where=where)
    worst, exact = 0.0, True
    for index, (x, y) in enumerate(zip(left, right, strict=True)):
        if x.shape != y.shape:
            raise VerificationError(
                f"output {index} is {tuple(x.shape)} in place of {tuple(y.shape)}", where=where
            )
        difference = relative_difference(x, y)
        exact = exact and bool(torch.equal(x, y))
        worst = max(worst, difference)
        if not difference <= tolerance:
            raise VerificationError(
                f"output {index} differs by {difference:.3g} of its range from the exact twin", where=where
            )
    return Comparison(worst, exact)


def relative_difference(x: Tensor, y: Tensor) -> float:
    """Largest absolute difference over the largest magnitude of y; infinite where only one is finite."""
    finite = torch.isfinite(x) & torch.isfinite(y)
    if not bool((finite | (x == y) | (torch.isnan(x) & torch.isnan(y))).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    scale = float(y[finite].abs().max())
    difference = float((x - y)[finite].abs().max())
    return difference / scale if scale > 0 else difference


def prove(step: Pass, before: Graph, after: Graph, ctx: PassContext) -> Comparison | None:
    """Prove a pass on a graph: run it in float64 and compare with its exact twin.

    Args:
        before: the graph that the pass was given.
        after: what it made of it, in its own precision; its structure must be that of the float64 run.
        ctx: calibration data and seed of that run.

    Returns:
        The comparison, or None for a pass whose numbers change by intent.

    Raises:
        VerificationError: the outputs differ, or the structure depends on the precision.
    """
    double = as_float64(before)
    private = PassContext(tuple(batch.double() for batch in ctx.calibration), ctx.seed)
    twin = step.reference(copy_graph(double), private)
    if twin is None:
        return None
    result = apply_pass(step, double, PassContext(private.calibration, ctx.seed))
    _same_structure(result, after, step)
    integers = is_integral(before)
    batches = [random_inputs(double, seed, integers=integers) for seed in SEEDS]
    if len(inputs(double)) == 1:
        batches += [[batch[:8]] for batch in private.calibration[:1]]
    worst = Comparison(0.0, True)
    for batch in batches:
        tolerance = 0.0 if integers and all(bool((b == b.round()).all()) for b in batch) else TOLERANCE
        if integers and not _exact_arithmetic(double):
            tolerance = TOLERANCE
        found = compare(result, twin, batch, tolerance=tolerance, where=str(step))
        worst = Comparison(max(worst.worst, found.worst), worst.exact and found.exact)
        for variant in step.variants(twin, double, private):
            compare(variant, twin, batch, tolerance=tolerance, where=f"{step} (variant)")
    return worst


_EXACT = frozenset(
    {
        *("conv2d", "conv_transpose2d", "linear", "matmul", "add", "sub", "mul", "neg", "abs", "sum", "amax"),
        *("relu", "relu6", "clamp", "identity", "max_pool2d", "concat", "slice", "pad", "reshape"),
        *("transpose", "pixel_shuffle"),
    }
)


def _exact_arithmetic(graph: Graph) -> bool:
    """Whether integers stay integers: no division, root or exponential, and sums that cannot reach 2**53."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    weighted = sum(table.row_of(node).scales == "weighted" for node in calls)
    return weighted <= 6 and all(table.row_of(node).name in _EXACT for node in calls)


def _same_structure(double: Graph, single: Graph, step: Pass) -> None:
    shapes = [
        [(node.name, shape_of(node)) for node in graph.graph.nodes if node.op == "call_function"]
        for graph in (double, single)
    ]
    if shapes[0] != shapes[1]:
        raise VerificationError("gives another structure in float64 than in float32", where=str(step))


def check_pass(step: Pass, before: Graph, after: Graph, ctx: PassContext) -> Comparison | None:
    """Everything that is checked after a pass. Raises VerificationError naming the node and the pass."""
    try:
        check_structure(after)
        check_shapes(after)
        step.ensures(after)
    except MccError as error:
        raise VerificationError(f"after {step}: {error.message}", where=error.where) from error
    return prove(step, before, after, ctx)

"""Checks after every pass: structure, declared against recomputed shapes, numbers against the exact twin.

Numbers are compared in float64: the pass is run again on a float64 copy of the graph before, so that the
rounding of float32 weights does not mask an error. Where all constants and inputs are small integers, sums
are exact and outputs must be equal; elsewhere the tolerance is `TOLERANCE` of the output range, which is
float64 rounding (2**-53) times the length of the longest sums and the depth of a network. The output of the
pass in its own precision is then compared with the float64 one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mcc.analysis.exactness import exact_on_integers
from mcc.errors import MccError, VerificationError
from mcc.ir.canonical import check_shapes, check_structure
from mcc.ir.feed import tensors_of
from mcc.ir.graph import (
    Graph,
    calls,
    clean,
    constant,
    constants,
    copy_graph,
    infer,
    inputs,
    is_constant,
    live_nodes,
    op_name,
    outputs,
    run,
)
from mcc.ir.notes import DTYPES, TensorType, annotate, note, shape_of, type_of
from mcc.pass_api import Pass, PassContext, apply_pass

TOLERANCE = 1e-9
# float32 rounds a weight by a relative 2**-24 = 6e-8; the error of a network of a hundred layers, each adding
# that much in the same direction and amplified tenfold, is smaller.
SINGLE_TOLERANCE = 1e-4
SMALL = 1e-5  # lower bound of the output range: intermediate values of about 1 were rounded
SEEDS = (0, 1)
INTEGER_INPUTS = 3  # integer inputs are -3..3, like the integer constants of golden files
CALIBRATION_SAMPLES = 8
SAMPLES = 8
SMALL_INPUT = 1 << 14  # elements: eight samples of 3x26x26, which any network evaluates quickly


@dataclass(frozen=True)
class Comparison:
    """Result of comparing numbers: the largest difference as a share of the output range."""

    worst: float
    exact: bool


def check_interface(before: Graph, after: Graph) -> None:
    """Raise VerificationError unless the inputs and outputs of both graphs have the same names and types."""
    taken = [[(node.name, type_of(node)) for node in inputs(graph)] for graph in (before, after)]
    if taken[0] != taken[1]:
        raise VerificationError(f"takes {_listed(taken[1])} in place of {_listed(taken[0])}")
    returned = [[(node.name, type_of(node)) for node in outputs(graph)] for graph in (before, after)]
    if [kind for _, kind in returned[0]] != [kind for _, kind in returned[1]]:
        raise VerificationError(f"returns {_listed(returned[1])} in place of {_listed(returned[0])}")


def check_frozen(before: Graph, after: Graph) -> None:
    """Raise VerificationError unless every frozen node that an output depends on is unchanged.

    This covers its operator, attributes, type, reason, and the constants that it reads; its other operands
    may come from another node (an identity before it may be removed).
    """
    now = {node.name: node for node in calls(after)}
    for node in live_nodes(before):
        if node.op != "call_function" or note(node).frozen is None:
            continue
        found = now.get(node.name)
        if found is None:
            raise VerificationError("is gone, though frozen", where=node.name)
        if (op_name(node), node.kwargs, type_of(node)) != (op_name(found), found.kwargs, type_of(found)):
            raise VerificationError("is another operator or shape, though frozen", where=node.name)
        if note(found).frozen != note(node).frozen:
            raise VerificationError("is frozen for another reason than before", where=node.name)
        for old, new in zip(node.args, found.args, strict=False):
            if not isinstance(old, fx.Node) or not isinstance(new, fx.Node) or not is_constant(old):
                continue
            if is_constant(new) and not torch.equal(constant(before, old), constant(after, new)):
                raise VerificationError(f"reads another {old.target}, though frozen", where=node.name)


def _listed(values: Sequence[tuple[str, TensorType]]) -> str:
    return ", ".join(f"%{name} : {kind}" for name, kind in values)


def as_float64(graph: Graph) -> Graph:
    """A float64 copy of a graph, including its declared types."""
    double = copy_graph(graph).double()
    for node in inputs(double):
        declared = type_of(node)
        floating = DTYPES[declared.dtype].is_floating_point
        annotate(node, type=TensorType(declared.shape, "f64" if floating else declared.dtype))
    return infer(double)


def random_inputs(graph: Graph, seed: int, *, integers: bool = False) -> list[Tensor]:
    """Float64 inputs of the declared shapes, normal or of small integers.

    Small inputs are batched: with one sample, a path after an activation or a pool may be dead.
    """
    generator = torch.Generator().manual_seed(seed)
    types = [type_of(node) for node in inputs(graph)]
    elements = max((declared.elements for declared in types), default=1)
    repeat = max(1, min(SAMPLES, SMALL_INPUT // elements))
    shapes = [(declared.shape[0] * repeat, *declared.shape[1:]) for declared in types]
    if integers:
        low, high = -INTEGER_INPUTS, INTEGER_INPUTS + 1
        return [torch.randint(low, high, shape, generator=generator).double() for shape in shapes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def is_integral(graph: Graph) -> bool:
    """Whether all constants of the graph are integers."""
    return all(bool((value == value.round()).all()) for value in constants(graph).values())


def compare(
    a: Graph, b: Graph, values: Sequence[Tensor], *, tolerance: float, where: str = "graph"
) -> Comparison:
    """Compare the outputs of two graphs on one batch.

    Raises:
        VerificationError: The outputs differ in number or shape, a value is not finite on one side only, or
            the difference exceeds `tolerance` of the output range.
    """
    return compare_outputs(run(a, *values), run(b, *values), tolerance=tolerance, where=where)


def compare_outputs(
    left: Sequence[Tensor], right: Sequence[Tensor], *, tolerance: float, where: str = "graph"
) -> Comparison:
    """Compare outputs with the expected ones. Raises VerificationError as `compare` does."""
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
    """Largest absolute difference over the largest magnitude of y; infinite where only one is finite.

    The magnitude is at least `SMALL`: the sum of values normalised to a mean of zero is only rounding, and a
    rounding of a value of 1 by 1e-16 is no error after a clamp, either.
    """
    finite = torch.isfinite(x) & torch.isfinite(y)
    if not bool((finite | (x == y) | (torch.isnan(x) & torch.isnan(y))).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    scale = float(y[finite].abs().max())
    difference = float((x - y)[finite].abs().max())
    return difference / max(scale, SMALL) if scale > 0 else difference


def prove(step: Pass, before: Graph, after: Graph, ctx: PassContext) -> Comparison | None:
    """Verify a pass on a graph: run it in float64 and compare with its exact twin.

    Args:
        before: Input of the pass.
        after: Output of the pass, in its own precision; its structure must be that of the float64 run.
        ctx: Calibration data and seed of that run.

    Returns:
        The comparison, or None for a pass whose numbers change by intent.

    Raises:
        VerificationError: The outputs differ, no output is finite on any input, or the structure depends on
            the precision.
    """
    double = as_float64(before) if step.sees_dead_code else clean(as_float64(before))
    private = PassContext(tuple(batch.double() for batch in ctx.calibration), ctx.seed)
    twin = step.reference(copy_graph(double), private)
    if twin is None:
        return None
    result = apply_pass(step, double, PassContext(private.calibration, ctx.seed))
    _same_structure(result, after, step)
    exact = all(exact_on_integers(graph, INTEGER_INPUTS) for graph in (twin, result))
    proof = _Proof(step, twin)
    for number, (batch, whole) in enumerate(_batches(double, private)):
        got = proof.compare(result, batch, 0.0 if whole and exact else TOLERANCE)
        if number == 0:
            for variant in step.variants(twin, double, private):
                proof.compare_variant(variant, whole and exact)
                _release(variant)
            _same_in_own_precision(got, after, batch, step)
    if not proof.finite:  # logarithms and roots need non-negative inputs
        proof.compare(result, [value.abs() for value in random_inputs(double, SEEDS[0])], TOLERANCE)
    for graph in (double, twin, result):
        _release(graph)
    return proof.comparison()


def _release(graph: Graph) -> None:
    """Release the constants of a graph that is no longer needed.

    Nodes, graph and module form reference cycles, freed by Python's garbage collector, which counts objects
    and not bytes: the verification of ResNet-50 left 1 GB behind.
    """
    for name in [name for name, _ in graph.named_parameters(recurse=False)] + list(constants(graph)):
        if hasattr(graph, name):
            delattr(graph, name)


class _Proof:
    """Comparisons with the exact twin of a pass, and whether they are conclusive."""

    def __init__(self, step: Pass, twin: Graph) -> None:
        self.step = step
        self.twin = twin
        self.wanted: tuple[Tensor, ...] = ()
        self.finite = True  # all outputs, on all inputs
        self._meaningful = False
        self._found: list[Comparison] = []
        self._batch: list[Tensor] = []

    def compare(self, graph: Graph, batch: list[Tensor], tolerance: float) -> tuple[Tensor, ...]:
        """Compare on a batch; returns the graph's outputs. Raises VerificationError where they differ."""
        self._batch, self.wanted = batch, run(self.twin, *batch)
        got = run(graph, *batch)
        self._found.append(compare_outputs(got, self.wanted, tolerance=tolerance, where=str(self.step)))
        for value in self.wanted:
            self.finite = self.finite and bool(torch.isfinite(value).all())
            self._meaningful = self._meaningful or bool(torch.isfinite(value).any())
        return got

    def compare_variant(self, variant: Graph, integers: bool) -> None:
        """Compare a variant of the twin on the last batch. Raises VerificationError where they differ."""
        tolerance = 0.0 if integers and exact_on_integers(variant, INTEGER_INPUTS) else TOLERANCE
        got = run(variant, *self._batch)
        compare_outputs(got, self.wanted, tolerance=tolerance, where=f"{self.step} (variant)")

    def comparison(self) -> Comparison:
        """The overall comparison. Raises VerificationError where nothing could be compared."""
        if not self._meaningful:
            raise VerificationError(
                "cannot be proved: no output is finite on any input", where=str(self.step)
            )
        return Comparison(max(c.worst for c in self._found), all(c.exact for c in self._found))


def _batches(graph: Graph, ctx: PassContext) -> Iterator[tuple[list[Tensor], bool]]:
    """Batches to compare on, each with a flag for integers."""
    integral = is_integral(graph)
    for seed in SEEDS:
        yield random_inputs(graph, seed, integers=integral), integral
    if integral:  # integers drive clamps and sigmoids into saturation, where an error would not show
        yield random_inputs(graph, SEEDS[0]), False
    for batch in ctx.calibration[:1]:
        yield list(tensors_of(batch[:CALIBRATION_SAMPLES])), False


def _same_in_own_precision(wanted: Sequence[Tensor], single: Graph, batch: list[Tensor], step: Pass) -> None:
    """Check that the output of the pass is the verified graph, up to the rounding of its constants."""
    if calls(single, "fake_quantize"):
        return  # rounding there turns any difference, however small, into a whole step
    double = as_float64(single)
    got = run(double, *batch)
    _release(double)
    compare_outputs(got, wanted, tolerance=SINGLE_TOLERANCE, where=f"{step} in its own precision")


def _same_structure(double: Graph, single: Graph, step: Pass) -> None:
    shapes = [
        [(node.name, shape_of(node)) for node in graph.graph.nodes if node.op == "call_function"]
        for graph in (double, single)
    ]
    if shapes[0] != shapes[1]:
        raise VerificationError("gives another structure in float64 than in float32", where=str(step))


def check_pass(step: Pass, before: Graph, after: Graph, ctx: PassContext) -> Comparison | None:
    """All checks after a pass. Raises VerificationError naming the node and the pass."""
    try:
        check_structure(after)
        check_shapes(after)
        check_interface(before, after)
        check_frozen(before, after)
        step.ensures(after)
    except MccError as error:
        raise VerificationError(f"after {step}: {error.message}", where=error.where) from error
    return prove(step, before, after, ctx)

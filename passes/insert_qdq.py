"""insert-qdq: insert quantisers where integer kernels need them, with ranges from calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, fx

from mcc.analysis.batch_norms import cannot_be_folded
from mcc.errors import Refusal, VerificationError
from mcc.ir.feed import tensors_of
from mcc.ir.graph import (
    Graph,
    add_call,
    add_constant,
    calls,
    clean,
    constant,
    copy_graph,
    is_constant,
    op_name,
    operand,
    optional_operand,
)
from mcc.ir.notes import note
from mcc.ir.table import WEIGHTED
from mcc.pass_api import Pass, PassContext
from mcc.quant.detectors import deviations, last_layers, reads
from mcc.quant.groups import ScaleGroups, decide
from mcc.quant.params import INT8_MAX, INT8_MIN, is_fake_quantize, quant_params
from mcc.quant.placement import Placement, activation_operands, place
from mcc.quant.ranges import OBSERVERS, Observed, Observer, bias_floor, observe_values, weight_scales
from mcc.quant.regions import integer_nodes

WEIGHT_LIMITS = {"int8": 127, "int7": 63}
WORTH_FLOAT = 0.8
"""The last layers of a detector stay in float if that removes a fifth of the error; else it is the body's."""
TRIED = 16  # images on which that is tested


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Insert `fake_quantize` nodes so that operators run as integer kernels (Jacob 2018).

    Before and after:

                                        %xq = fake_quantize(%x, @x_scale, @x_zero_point) {axis=None}
        %y = conv2d(%x, @w, @b)         %wq = fake_quantize(@w, @w_scale, @w_zero_point) {axis=0}
                                        %y = conv2d(%xq, %wq, @b)
                                        %yq = fake_quantize(%y, @y_scale, @y_zero_point) {axis=None}

    Activations: one scale, integers -128..127, zero exact. Weights: one scale per output channel, zero
    point 0, -127..127, or -63..63 for `int7`, which cannot saturate the 16-bit sums of x86 kernels without
    VNNI. Biases stay float; runtimes hold them as int32 of scale s_x * s_w, so a weight scale is at least
    |b| / (s_x 2^30).

    Operators that cannot change a scale (concat, pooling, reshape, ...) share it with their operands; if that
    would widen a range more than twofold, the scales are separate and the runtime requantises. Softmax,
    sigmoid and tanh have scales fixed by the runtime. Nodes with an SQNR below 20 dB on such a scale,
    although int8 could give more, stay in float (`mcc.quant.groups`), as do operators that decode results
    after the last weights (`mcc.quant.decoding`), and the last layers of a detector whose boxes or scores
    would otherwise exceed the allowed error (`mcc.quant.detectors`), if that helps.

    A node's note decides its precision, including `float`. Operators without integer kernel stay in float, as
    do frozen nodes and their operands. A graph that already has quantisers is not changed (`strip-qdq`
    removes them). There is no exact twin: numbers change by rounding, and are verified on the integer
    simulator and the lowered file.

    Raises Refusal without calibration data, and if there are batch norms that could be folded.

    Attributes:
        precision: `int8` or `int7`, for nodes whose note has no precision.
        observer: Observer of activation ranges: `mse`, `minmax` or `percentile`.
        weights: Observer of weight ranges: `mse` or `minmax`.
    """

    name: ClassVar[str] = "insert-qdq"
    precision: str = "int8"
    observer: str = "mse"
    weights: str = "minmax"

    def __post_init__(self) -> None:
        if self.precision not in WEIGHT_LIMITS:
            raise ValueError(f"precision must be {' or '.join(WEIGHT_LIMITS)}, not {self.precision!r}")
        if self.observer not in OBSERVERS:
            raise ValueError(f"observer must be one of {', '.join(OBSERVERS)}, not {self.observer!r}")
        if self.weights not in ("mse", "minmax"):
            raise ValueError(f"weights must be mse or minmax, not {self.weights!r}")

    def requires(self, graph: Graph) -> None:
        """Raise Refusal if there is a batch norm that could be folded."""
        for node in calls(graph, "batch_norm"):
            if cannot_be_folded(node) is None:
                raise Refusal(
                    "a batch norm follows a convolution",
                    where=node.name,
                    hint="run fold-batch-norm first",
                )

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Decide the placement, observe ranges, and insert quantisers."""
        if calls(graph, "fake_quantize"):
            return
        possible = place(graph, self.precision)
        if possible.precision and not ctx.calibration:
            raise Refusal("needs calibration data", where=self.name, hint="give it with --data")
        observer = cast(Observer, self.observer)
        observed = observe_values(graph, possible.values, ctx.calibration, observer)
        reasons = self._kept_for_detectors(graph, observed, ctx)
        placement, groups = decide(graph, self.precision, observed, reasons)
        for node, reason in placement.refused.items():
            ctx.refuse(node, reason)
        if not placement.precision:
            return
        self._insert_all(graph, placement, groups, ctx)
        ctx.count("requantised", len(groups.requantised))
        running = integer_nodes(graph)
        for node in placement.precision:
            if node not in running:
                ctx.refuse(node, "the integer kernel does not take its scales: it runs in float")
        check_once(graph)

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError unless every quantiser has usable parameters."""
        for node in calls(graph, "fake_quantize"):
            quant_params(graph, node)

    def reference(self, before: Graph, ctx: PassContext) -> None:
        """None: the numbers change by intent."""
        return None

    def _insert_all(self, graph: Graph, placement: Placement, groups: ScaleGroups, ctx: PassContext) -> None:
        quantised = self._quantise_weights(graph, placement, groups, ctx)
        _quantise_values(graph, placement, groups, ctx)
        for node, weight in quantised.items():
            node.update_arg(1, weight)

    def _kept_for_detectors(
        self, graph: Graph, observed: Mapping[fx.Node, Observed], ctx: PassContext
    ) -> dict[fx.Node, str]:
        """The last layers of a detector, if trials show that they cause excessive errors of its outputs."""
        last = last_layers(graph) if reads(graph) else ()
        asked = all(note(node).precision is None for node in last)
        if not last or not asked or not ctx.calibration:
            return {}
        before = self._excess(graph, observed, (), ctx)
        if before <= 1:
            return {}
        after = self._excess(graph, observed, last, ctx)
        if after > WORTH_FLOAT * before:
            return {}
        reason = (
            f"boxes or scores would be off by {before:.1f} times what is allowed, in float by {after:.1f}"
        )
        return dict.fromkeys(last, reason)

    def _excess(
        self, graph: Graph, observed: Mapping[fx.Node, Observed], kept: Sequence[fx.Node], ctx: PassContext
    ) -> float:
        """The largest error of boxes or scores relative to its bound, with some layers in float."""
        trial = copy_graph(graph)
        named = {node.name: node for node in trial.graph.nodes}
        seen = {named[node.name]: found for node, found in observed.items()}
        placement, groups = decide(trial, self.precision, seen, {named[n.name]: "" for n in kept})
        self._insert_all(trial, placement, groups, PassContext(seed=ctx.seed))
        found = deviations(clean(trial), graph, tensors_of(ctx.calibration[0][:TRIED]))
        return max(deviation.excess for deviation in found)

    def _quantise_weights(
        self, graph: Graph, placement: Placement, groups: ScaleGroups, ctx: PassContext
    ) -> dict[fx.Node, fx.Node]:
        """Insert a quantiser for each weight, shared if the weight is; the readers are rewired later."""
        made: dict[tuple[fx.Node, int, int], fx.Node] = {}
        readers: dict[tuple[fx.Node, int, int], list[fx.Node]] = {}
        for node, precision in placement.precision.items():
            if op_name(node) in WEIGHTED:
                axis = 1 if op_name(node) == "conv_transpose2d" else 0
                readers.setdefault((operand(node, 1), axis, WEIGHT_LIMITS[precision]), []).append(node)
        for key, nodes in readers.items():
            weight, axis, limit = key
            scales = weight_scales(constant(graph, weight), axis, limit, cast(Observer, self.weights))
            for node in nodes:
                scales = torch.maximum(scales, _floor(graph, node, groups, len(scales)))
            zeros = torch.zeros(len(scales), dtype=torch.int32)
            made[key] = _insert(graph, nodes[0], weight, str(weight.target), (scales, zeros), limit, axis)
            ctx.count("weights quantised")
        return {node: made[key] for key, nodes in readers.items() for node in nodes}


def _floor(graph: Graph, node: fx.Node, groups: ScaleGroups, channels: int) -> Tensor:
    """Minimum weight scales [C] that keep the bias of a node within int32."""
    bias = optional_operand(node, 2)
    if bias is None:
        return torch.zeros(channels)
    floor = bias_floor(constant(graph, bias), groups.grid(operand(node, 0))[0])
    return floor.reshape(-1, channels).amax(0)  # a grouped transposed convolution shares scales across groups


def _insert(
    graph: Graph,
    before: fx.Node,
    value: fx.Node,
    name: str,
    grid: tuple[Tensor, Tensor],
    limit: int | None = None,
    axis: int | None = None,
    parameters: tuple[fx.Node, fx.Node] | None = None,
) -> fx.Node:
    """Insert a `fake_quantize` of a value before a node; `parameters` are its group's constants, if any."""
    scale, zero = parameters or (
        add_constant(graph, before, f"{name}_scale", grid[0], trains=False),
        add_constant(graph, before, f"{name}_zero_point", grid[1], trains=False),
    )
    low, high = (INT8_MIN, INT8_MAX) if limit is None else (-limit, limit)
    return add_call(
        graph, before, "fake_quantize", value, scale, zero, name=f"{name}_q", qmin=low, qmax=high, axis=axis
    )


def check_once(graph: Graph) -> None:
    """Raise VerificationError if a quantiser reads another one."""
    for node in calls(graph, "fake_quantize"):
        if is_fake_quantize(operand(node, 0)):
            raise VerificationError("a value is quantised twice", where=node.name)


def _quantise_values(graph: Graph, placement: Placement, groups: ScaleGroups, ctx: PassContext) -> None:
    """Insert a quantiser after each value; a float value keeps its float readers."""
    made: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
    for value in placement.values:
        readers = [user for user in value.users if _reads(user, value, placement.precision)]
        if value in placement.precision:
            readers = list(value.users)
        scale, zero = groups.grid(value)
        root = groups.root(value)
        name = str(value.target) if is_constant(value) else value.name
        grid = (torch.tensor(scale), torch.tensor(zero, dtype=torch.int32))
        node = _insert(graph, value.next, value, name, grid, parameters=made.get(root))
        made[root] = (operand(node, 1), operand(node, 2))
        for reader in readers:
            if value in activation_operands(reader) or value in placement.precision:
                reader.replace_input_with(value, node)
        ctx.count("values quantised")


def _reads(user: fx.Node, value: fx.Node, precision: Mapping[fx.Node, str]) -> bool:
    return user in precision and value in activation_operands(user)

"""Check of a quantised graph against the float network of its own weights.

Comparing a file with its graph does not find errors of the graph itself: a scale or a zero point that clips
or flattens a value. Here the quantisers are removed, the remaining float network is run on the same inputs,
and compared with:

* each output of the integer simulator, and each group of its channels with similar ranges: an SQNR of at
  least `OUTPUT_DB`,
* boxes and scores of a detector: their errors, see `mcc.quant.detectors`,
* each quantiser by itself: an SQNR on the float value of at least `LOCAL_DB`, or less than `FALL_DB` below
  that of the best int8 grid. This finds errors that later layers average out.

The bounds lie between healthy networks and planted faults, see docs/method.md. Random inputs differ from
those of calibration (means of noise are small); their bounds are far lower, and find only values that are
lost entirely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from mcc.errors import VerificationError
from mcc.ir.graph import (
    Graph,
    calls,
    clean,
    constant,
    copy_graph,
    inputs,
    is_constant,
    op_name,
    operand,
    operands,
    outputs,
)
from mcc.ir.interpreter import observe
from mcc.ir.notes import shape_of
from mcc.ir.table import WEIGHTED
from mcc.quant.detectors import Deviation, deviations, in_words
from mcc.quant.fidelity import PERFECT_DB, Sample, Sampler, decibels
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params
from mcc.quant.simulator import Flavour, Simulator

OUTPUT_DB = 3.0
"""Minimum SQNR of an output, and of each group of its channels, on data: noise power of half the signal's.
An untrained gated network of two classes, whose logits differ little, has 6.6."""
LOCAL_DB = 20.0
"""Minimum SQNR of a value after its own quantiser alone, where a better grid exists."""
FALL_DB = 18.0
"""Three bits: allowed loss of a quantiser against the best grid. Learned scales clip, tied ones are wide."""
RANDOM_OUTPUT_DB = -10.0
RANDOM_LOCAL_DB = 3.0
"""`LOCAL_DB` for random inputs, where healthy networks go down to -2 dB in outputs and 6 dB in a quantiser:
only values that are lost entirely can be distinguished from the effect of the inputs."""

IMAGES = 32  # number of images compared
TRACED = 4  # images of which all values are kept, to find where the signal was lost
_CLAMPS = ("relu", "relu6", "clamp")


@dataclass(frozen=True)
class Lost:
    """A value whose signal is lost.

    Attributes:
        node: Name of the value.
        words: Remaining signal, in words.
    """

    node: str
    words: str


@dataclass(frozen=True)
class NoiseReport:
    """Result of the check.

    Attributes:
        images: Number of inputs compared.
        random: Whether they were random.
        worst_db: SQNR of the worst output or group of its channels.
        lost: Values below the bounds, in graph order.
        read: Errors of the boxes and scores of a detector; empty for random inputs.
    """

    images: int
    random: bool
    worst_db: float
    lost: tuple[Lost, ...]
    read: tuple[Deviation, ...] = ()

    @property
    def compared_on(self) -> str:
        """The inputs of the comparison, in words."""
        return f"{self.images} {'random inputs' if self.random else 'calibration images'}"

    @property
    def words(self) -> str:
        """The result in one line."""
        kept = f"{min(self.worst_db, PERFECT_DB):.1f} dB of signal to noise in the worst output"
        read = f"; {in_words(self.read)}" if self.read else ""
        return f"against the float network on {self.compared_on}: {kept}{read}"

    def failure(self) -> VerificationError | None:
        """The error that names the first lost value, or None if none is lost."""
        if not self.lost:
            return None
        first = self.lost[0]
        return VerificationError(
            f"the integers lose the signal here: {first.words} (against the float network on "
            f"{self.compared_on})",
            where=first.node,
            hint="quantise it again, leave the node in float, or pass --allow-noise for a warning",
        )


def without_quantisers(graph: Graph) -> Graph:
    """A copy in which each reader of a quantiser reads the real numbers; names of operators are kept."""
    private = copy_graph(graph)
    for node in calls(private, "fake_quantize"):
        node.replace_all_uses_with(operand(node, 0))
        private.graph.erase_node(node)
    return clean(private)


def is_integer(graph: Graph) -> bool:
    """Whether a graph has quantisers, and so must be checked."""
    return bool(calls(graph, "fake_quantize"))


def random_images(graph: Graph, seed: int = 0) -> tuple[Tensor, ...]:
    """One random batch for each input, half white and half smooth noise, over its quantiser's range."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for node in inputs(graph):
        shape = shape_of(node)
        noise = torch.rand((IMAGES, *shape[1:]), generator=generator)
        if noise.dim() == 4:
            coarse = torch.rand((IMAGES // 2, shape[1], 4, 4), generator=generator)
            noise[::2] = torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
        grids = [quant_params(graph, user) for user in node.users if is_fake_quantize(user)]
        low, high = (-1.0, 1.0)
        if grids and len(grids[0].scales) == 1:
            scale, zero = float(grids[0].scale), grids[0].zero_point
            low, high = (grids[0].qmin - zero) * scale, (grids[0].qmax - zero) * scale
        found.append(low + (high - low) * noise)
    return tuple(found)


def check_noise(
    graph: Graph, batch: Sequence[Tensor] | None = None, *, flavour: Flavour = "xnnpack", seed: int = 0
) -> NoiseReport:
    """Compare a quantised graph with the float network of its own weights.

    Args:
        batch: Values [N, ...] for each input, of which `IMAGES` are used; random inputs if None.
        flavour: Integer arithmetic, see `mcc.quant.simulator`.
        seed: Seed of random inputs.
    """
    random = batch is None
    values = tuple(v[:IMAGES].float() for v in (random_images(graph, seed) if batch is None else batch))
    plain = without_quantisers(graph)
    quantisers = [n for n in calls(graph, "fake_quantize") if quant_params(graph, n).is_int8_activation]
    wanted = {n.name for q in quantisers for n in (operand(q, 0), *_stand_in(q)) if not is_constant(n)}
    wanted |= {operand(n, 0).name for n in calls(plain, *WEIGHTED)} | {
        n.name for n in calls(plain, *WEIGHTED)
    }
    samples, reference = _samples(plain, values, wanted)
    worst, broken = _lost_in_outputs(graph, values, reference, flavour, random)
    lost = _lost_in_weights(graph, samples)
    lost += _lost_in_quantisers(graph, quantisers, samples, RANDOM_LOCAL_DB if random else LOCAL_DB)
    read = () if random else deviations(graph, plain, values, flavour)
    order = {node.name: place for place, node in enumerate(graph.graph.nodes)}
    if broken and not lost:
        lost = [_where_it_fell(graph, plain, values, flavour, broken)]
    if not lost:
        lost = [Lost(found.read.node, found.words) for found in read if found.excess > 1]
    lost.sort(key=lambda found: order.get(found.node, 0))
    return NoiseReport(len(values[0]), random, worst, tuple(lost), read)


def _samples(
    plain: Graph, values: Sequence[Tensor], wanted: Iterable[str]
) -> tuple[dict[str, Sample], tuple[Tensor, ...]]:
    """Samples of the named values of the float network, and its outputs."""
    found: dict[str, Sample] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        if value.dim() and value.is_floating_point():
            found[node.name] = _sample(value)

    return found, observe(plain, values, see, set(wanted))


def _sample(value: Tensor) -> Sample:
    sampler = Sampler(len(value))
    sampler.add(value)
    return sampler.sample(tuple(value.shape))


def _stand_in(quantiser: fx.Node) -> tuple[fx.Node, ...]:
    """The clamp that is the only reader of a quantiser: values that it cuts off may be out of range."""
    users = list(quantiser.users)
    clamped = len(users) == 1 and users[0].op == "call_function" and op_name(users[0]) in _CLAMPS
    return (users[0],) if clamped else ()


def _lost_in_quantisers(
    graph: Graph, quantisers: Sequence[fx.Node], samples: dict[str, Sample], least_db: float
) -> list[Lost]:
    """The quantisers whose grid is unsuitable for their value."""
    found: list[Lost] = []
    for node in quantisers:
        value = operand(node, 0)
        name = (_stand_in(node) or (value,))[0].name
        sample = _sample(constant(graph, value).detach()[None]) if is_constant(value) else samples.get(name)
        if sample is None or not bool(sample.values.any()):
            continue
        params = quant_params(graph, node)
        kept = sample.sqnr_db((params.scales[0], params.zero_point))
        fall = 0.0 if kept >= least_db else max(0.0, sample.best_db() - kept)
        if fall >= FALL_DB and not _drowned(node, sample, params, samples):
            found.append(Lost(value.name, f"{kept:.0f} dB of it are left, int8 could keep {kept + fall:.0f}"))
    return found


def _drowned(quantiser: fx.Node, sample: Sample, params: QuantParams, samples: dict[str, Sample]) -> bool:
    """Whether a value is only used as a term so small that its noise does not affect the sum."""
    noise = float(params.scale) ** 2 / 12
    for user in quantiser.users:
        total = samples.get(user.name)
        if user.op != "call_function" or op_name(user) not in ("add", "sub") or total is None:
            return False
        clipped = decibels(1.0, noise / max(float(total.values.double().square().mean()), 1e-300))
        if clipped < 40 or float(sample.values.abs().max()) > 256 * float(params.scale):
            return False
    return True


def _lost_in_weights(graph: Graph, samples: dict[str, Sample]) -> list[Lost]:
    """The layers with an output channel whose scale is unsuitable for its weights."""
    found: list[Lost] = []
    for node in calls(graph, *WEIGHTED):
        quantiser = operand(node, 1)
        if not is_fake_quantize(quantiser) or not is_constant(operand(quantiser, 0)):
            continue
        source = operand(node, 0)
        x = samples.get((operand(source, 0) if is_fake_quantize(source) else source).name)
        y = samples.get(node.name)
        if x is not None and y is not None:
            found += _weights_of(graph, node, quantiser, x, y)
    return found


def _weights_of(graph: Graph, node: fx.Node, quantiser: fx.Node, x: Sample, y: Sample) -> list[Lost]:
    params = quant_params(graph, quantiser)
    axis = params.axis if params.axis is not None else (1 if op_name(node) == "conv_transpose2d" else 0)
    weight = constant(graph, operand(quantiser, 0)).detach().float()
    rows = weight.transpose(0, axis).reshape(weight.shape[axis], -1)
    scale = torch.from_numpy(params.scale_vector).reshape(-1, 1)
    left = (rows / scale).round().clamp(params.qmin, params.qmax) * scale
    best_scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-30) / params.qmax
    best = (rows / best_scale).round().clamp(params.qmin, params.qmax) * best_scale
    # A channel whose weights are tiny compared with its bias may have a scale determined by its bias.
    power = float(x.values.double().square().mean())
    total = float(y.values.double().square().mean())
    for channel in range(len(rows)):
        signal = float(rows[channel].double().square().sum())
        noise = float((left[channel] - rows[channel]).double().square().sum())
        kept, could = (
            decibels(signal, float((other[channel] - rows[channel]).double().square().sum()))
            for other in (left, best)
        )
        seen = noise * power > 1e-4 * total
        if signal > 0 and seen and kept < LOCAL_DB and could - kept >= FALL_DB:
            words = f"channel {channel} of its weights keeps {kept:.0f} dB, int8 could keep {could:.0f}"
            return [Lost(node.name, words)]
    return []


def _lost_in_outputs(
    graph: Graph, values: Sequence[Tensor], reference: Sequence[Tensor], flavour: Flavour, random: bool
) -> tuple[float, str | None]:
    """The worst SQNR of outputs and their groups of channels, and those below the bound."""
    worst, broken = PERFECT_DB, None
    made = Simulator(graph, flavour).run(*values)
    bound = RANDOM_OUTPUT_DB if random else OUTPUT_DB
    for index, (value, wanted) in enumerate(zip(made, reference, strict=True)):
        if not wanted.is_floating_point() or not bool(wanted.any()):
            continue
        a, b = _sample(value.float()), _sample(wanted)
        for place, group in enumerate([None, *(b.groups if len(b.groups) > 1 else ())]):
            kept = _between(a, b, group)
            worst = min(worst, kept)
            if kept < bound and broken is None:
                part = "" if group is None else f"channels of group {place} of "
                broken = f"{part}output {index} keep{'s' if not part else ''} {kept:.1f} dB"
    return worst, broken


def _between(a: Sample, b: Sample, group: Tensor | None) -> float:
    got, wanted = (s.values if group is None else s.values[:, group] for s in (a, b))
    noise = (got - wanted).double().square().mean()
    return decibels(float(wanted.double().square().mean()), float(noise))


def _where_it_fell(
    graph: Graph, plain: Graph, values: Sequence[Tensor], flavour: Flavour, broken: str
) -> Lost:
    """The first value with the largest drop of SQNR relative to its operands."""
    few = [value[:TRACED] for value in values]
    simulator = Simulator(graph, flavour)
    made, kept = simulator.trace(*few), dict[str, float]()

    def see(node: fx.Node, value: Tensor) -> None:
        got = made.get(node.name)
        if got is None or got.shape != value.shape or not value.is_floating_point():
            return
        entry = next((u for u in by_name[node.name].users if is_fake_quantize(u)), None)
        if got.dtype == torch.int8 and entry is not None:
            params = quant_params(graph, entry)
            got = (got.float() - params.zero_point) * float(params.scale)
        noise = float((got.float() - value).double().square().mean())
        kept[node.name] = decibels(float(value.double().square().mean()), noise)

    by_name = {node.name: node for node in graph.graph.nodes}
    observe(plain, few, see)
    worst, where = -1.0, outputs(plain)[0].name
    for node in plain.graph.nodes:
        if node.op == "call_function" and node.name in kept:
            before = min((kept[n.name] for n in operands(node) if n.name in kept), default=PERFECT_DB)
            fall = min(before, 40.0) - kept[node.name]
            if fall > worst + 1.0:
                worst, where = fall, node.name
    return Lost(where, broken)

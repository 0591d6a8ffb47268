"""What integer joins hand on keeps its numbers, on random networks of unlike ranges.

Judged by arithmetic of its own: the sample and the grids that `mcc.quant.groups` decided by are not asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, fx

import mcc.quant.groups as groups
from mcc.ir.graph import Graph, is_constant, op_name, operand
from mcc.ir.interpreter import values_of
from mcc.pass_api import PassContext, apply_pass
from mcc.quant.params import QuantParams, is_fake_quantize, quant_params
from mcc.quant.regions import MOVING, IntegerNode, integer_nodes
from passes.insert_qdq import InsertQdq
from tests.property.joins import join_graph

LEAST_DB, NEAR_DB = 20.0, 3.0
JOINS = {"add", "sub", "mul", "concat", "resize", "max_pool2d", "avg_pool2d", "slice", "pad"}
CLAMPS = {"relu", "relu6", "clamp"}
GRAPHS = 32
BITES = {"tying": 47, "judging": 16, "lifting": 9}  # graphs on which each part of the rule decides


def images() -> Tensor:
    """Normal numbers whose mean over an image is next to zero: little is left where they are averaged."""
    drawn = torch.randn((64, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return drawn - 0.95 * drawn.mean((2, 3), keepdim=True)


def held(value: Tensor, grid: QuantParams) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(value, float(grid.scale), grid.zero_point, -128, 127)


def kept_db(value: Tensor, grids: Sequence[QuantParams]) -> float:
    left = value
    for grid in grids:
        left = held(left, grid)
    noise = float((left.double() - value).square().mean())
    return float(10 * torch.tensor(float(value.double().square().mean()) / max(noise, 1e-30)).log10())


def best_db(value: Tensor) -> float:
    """On the best grid of its own: over the whole range, or less of it where few numbers are large."""
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    found: list[float] = []
    for share in torch.linspace(0.1, 1.0, 19).tolist():
        scale = max((high - low) * share / 255, 1e-12)
        zero = min(max(round(-128 - low * share / scale), -128), 127)
        found.append(kept_db(value, [QuantParams((scale,), (zero,), -128, 127)]))
    return max(found)


def passed(graph: Graph, quantiser: fx.Node, running: dict[fx.Node, IntegerNode]) -> list[QuantParams]:
    """The grids that a value passes as integers, from where it was computed to this quantiser."""
    grids = [quant_params(graph, quantiser)]
    value = operand(quantiser, 0)
    while (
        value in running and op_name(value) in MOVING - {"concat"} and value.kwargs.get("mode") != "bilinear"
    ):
        quantiser = operand(value, 0)
        grids.insert(0, quant_params(graph, quantiser))
        value = operand(quantiser, 0)
    return grids


def handed_on(graph: Graph) -> Iterator[tuple[str, fx.Node, list[QuantParams]]]:
    """What integer joins read, and slices hand on, with the grids on the way."""
    running = integer_nodes(graph)
    for node, entry in running.items():
        if op_name(node) in JOINS:
            for quantiser in dict.fromkeys(node.all_input_nodes):
                if is_fake_quantize(quantiser) and not is_constant(operand(quantiser, 0)):
                    behind = [entry.output] if op_name(node) == "concat" else []
                    grids = [*passed(graph, quantiser, running), *behind]
                    yield f"{node.name} reads", operand(quantiser, 0), grids
        if op_name(node) == "slice":
            yield "handed on", node, passed(graph, entry.quantiser, running)


def _judged_as(value: fx.Node) -> str:
    """The value, or what the clamp leaves of it that alone reads it."""
    user = next(iter(value.users))
    reader = next(iter(user.users)) if is_fake_quantize(user) else user
    alone = len(value.users) == len(user.users) == 1
    return reader.name if alone and reader.op != "output" and op_name(reader) in CLAMPS else value.name


LOST_IN_FLOAT = 2.0**-21
"""A term that much smaller than its sum keeps no 20 dB in float32 either, whose steps are 2**-24 of it."""


def violations(seed: int) -> tuple[list[str], int]:
    """The values of a network that are lost in an integer join, and how many were judged."""
    graph, data = join_graph(seed), images()
    result = apply_pass(InsertQdq(), graph, PassContext((data,)))
    judged = list(handed_on(result))
    sums = {what: what.removesuffix(" reads") for what, _, _ in judged if what.startswith(("add", "sub"))}
    wanted = {_judged_as(value) for _, value, _ in judged}
    values = values_of(graph, (data,), wanted | set(sums.values()))
    found: list[str] = []
    for what, value, grids in judged:
        real = values[_judged_as(value)]
        if what in sums and real.abs().max() < LOST_IN_FLOAT * values[sums[what]].abs().max():
            continue
        kept = kept_db(real, grids)
        if kept < LEAST_DB and best_db(real) - kept > NEAR_DB:
            found.append(f"{what} {value.name}: {kept:.1f} dB of {best_db(real):.1f}")
    return found, len(judged)


@pytest.mark.parametrize("start", range(0, GRAPHS, 8))
def test_what_integer_joins_read_keeps_its_numbers(start: int) -> None:
    counts = 0
    for seed in range(start, start + 8):
        found, judged = violations(seed)
        assert not found, (seed, found)
        counts += judged
    assert counts > 16, "the networks must hold joins that run on integers"


def _nothing(*_: object) -> None:
    return None


def _lift_all(found: groups.ScaleGroups, node: fx.Node, nodes: dict[fx.Node, str]) -> None:
    """Lift small terms whatever they lose."""
    least = found.ranges[found.root(node)].width / 512
    for value in node.all_input_nodes:
        found.ranges[found.root(value)] = found.ranges[found.root(value)].join(groups.Range(0.0, least))


@pytest.mark.parametrize("part", BITES)
def test_without_a_part_of_the_rule_numbers_are_lost(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not violations(BITES[part])[0]
    if part == "tying":
        monkeypatch.setattr(groups.ScaleGroups, "suffering", _nothing)
    elif part == "judging":
        monkeypatch.setattr(groups, "_judge", _nothing)
    else:
        monkeypatch.setattr(groups, "_lift_small_terms", _lift_all)
    assert violations(BITES[part])[0]

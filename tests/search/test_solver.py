"""The solver against brute force on random small problems, and on a network of sixty convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.search.kernel_family import Width
from mcc.search.problem import FLOAT, INTEGER, Layer, Option, Problem
from mcc.search.sensitivity import Sensitivities
from mcc.search.solver import Limits, Solution, solve
from mcc.search.space import Configuration, rank_levels
from mcc.search.tables import build_problem
from tests.search.networks import Net
from tests.search.test_problem import sensitivities, setting

GROUPS = ("a", "b", "c")
COSTS = st.integers(0, 2000).map(lambda ns: ns / 1000)  # whole nanoseconds: sums are exact
SIZES = st.integers(0, 50).map(float)
LOSSES = st.integers(-200, 1000).map(lambda step: step / 1000)  # two groups may lose less than the sum

Choice = tuple[dict[str, int], dict[str, Option]]


@st.composite
def _sides(draw: st.DrawFn, groups: tuple[str, ...]) -> tuple[Width, ...]:
    """One or two widths, each a sum over one to three groups; they may share groups."""
    sides: list[Width] = []
    for _ in range(draw(st.integers(1, 2))):
        chosen = draw(st.lists(st.sampled_from(groups), min_size=1, max_size=len(groups), unique=True))
        share = draw(st.sampled_from((1.0, 2.0, 4.0)))
        width = Width(draw(st.integers(0, 3)), tuple((name, share) for name in chosen))
        if all(set(width.groups) != set(other.groups) for other in sides):
            sides.append(width)
    return tuple(sides)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    groups = GROUPS[: draw(st.integers(1, 3))]
    levels = {
        name: tuple(
            sorted(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True)), reverse=True)
        )
        for name in groups
    }
    regions = {groups[-1]: ("inside",)} if draw(st.booleans()) else {}
    levels.update(dict.fromkeys(regions, (INTEGER, FLOAT)))
    losses = {name: tuple(draw(LOSSES) for _ in choice) for name, choice in levels.items()}
    layers: list[Layer] = []
    for index in range(draw(st.integers(1, 4))):
        sides = () if index == 3 else draw(_sides(groups))
        keys = {tuple(side.value(widths) for side in sides) for widths in _widths(levels)}
        options = {
            key: tuple(
                Option(
                    4 * i or None,
                    (),
                    draw(COSTS),
                    float(draw(st.integers(0, 50))),
                    draw(LOSSES),
                    (draw(COSTS),),
                )
                for i in range(draw(st.integers(1, 2)))
            )
            for key in sorted(keys)
        }
        layers.append(Layer(f"layer{index}", sides, options))
    return Problem(levels, losses, tuple(layers), draw(COSTS), Configuration(), regions, (draw(COSTS),))


def _widths(levels: dict[str, tuple[int, ...]]) -> Iterator[dict[str, int]]:
    for combination in itertools.product(*levels.values()):
        yield dict(zip(levels, combination, strict=True))


def _choices(problem: Problem) -> Iterator[Choice]:
    for widths in _widths(dict(problem.levels)):
        tables = [layer.options[tuple(s.value(widths) for s in layer.sides)] for layer in problem.layers]
        for options in itertools.product(*tables):
            yield widths, dict(zip((layer.node for layer in problem.layers), options, strict=True))


def _figures(problem: Problem, choice: Choice) -> dict[str, float]:
    widths, options = choice
    losses = sum(problem.losses[n][problem.levels[n].index(w)] for n, w in widths.items())
    return {
        "loss": losses + sum(o.loss for o in options.values()),
        "cost": problem.overhead_cost + sum(o.cost for o in options.values()),
        "size_bytes": sum(o.size_bytes for o in options.values()),
        "elsewhere_us": problem.more_overhead_costs[0] + sum(o.more_costs[0] for o in options.values())
        if problem.more_overhead_costs
        else 0.0,
    }


def _brute_force(problem: Problem, limits: Limits, minimise: str) -> float | None:
    kept = [
        figures[minimise]
        for figures in (_figures(problem, choice) for choice in _choices(problem))
        if (limits.cost is None or figures["cost"] <= limits.cost + 1e-7)
        and (limits.size_bytes is None or figures["size_bytes"] <= limits.size_bytes)
        and all(more is None or figures["elsewhere_us"] <= more + 1e-7 for more in limits.more_costs)
    ]
    return min(kept, default=None)


def _consistent(problem: Problem, limits: Limits, solution: Solution) -> None:
    """What the solution says of itself holds, and its options belong to its widths."""
    widths = {**solution.widths, **solution.forms}
    assert solution.forms.keys() == problem.regions.keys()
    figures = _figures(problem, (widths, dict(solution.options)))
    assert solution.loss == pytest.approx(figures["loss"], abs=1e-9)
    assert solution.cost == pytest.approx(figures["cost"], abs=1e-9)
    assert solution.size_bytes == figures["size_bytes"]
    assert all(
        more is None
        or (solution.more_costs[0] <= more + 1e-7 and solution.more_costs[0] == pytest.approx(elsewhere))
        for more, elsewhere in zip(limits.more_costs, [figures["elsewhere_us"]], strict=False)
    )
    for layer in problem.layers:
        key = tuple(side.value(widths) for side in layer.sides)
        assert solution.options[layer.node] in layer.options[key]
    assert limits.cost is None or solution.cost <= limits.cost + 1e-7
    assert limits.size_bytes is None or solution.size_bytes <= limits.size_bytes


@pytest.mark.slow
@given(
    problem=problems(),
    latency=st.none() | st.integers(0, 8000).map(lambda ns: ns / 1000),
    size=st.none() | st.integers(0, 150).map(float),
    elsewhere=st.none() | st.integers(0, 8000).map(lambda ns: ns / 1000),
    minimise=st.sampled_from(("loss", "loss", "cost", "size_bytes")),
)
@settings(max_examples=150)
def test_equals_brute_force(
    problem: Problem, latency: float | None, size: float | None, elsewhere: float | None, minimise: str
) -> None:
    limits = Limits(latency, size, (elsewhere,))
    best = _brute_force(problem, limits, minimise)
    solution = solve(problem, limits, minimise=minimise)
    assert (solution is None) == (best is None)
    if solution is not None and best is not None:
        assert solution.gap == 0.0
        # The program keeps its rows to 1e-6.
        assert getattr(solution, minimise) == pytest.approx(best, abs=1e-5)
        _consistent(problem, limits, solution)


def test_a_budget_that_is_just_kept_is_kept() -> None:
    problem = _chain()
    whole = sum(layer.options[max(layer.options)][0].cost for layer in problem.layers)
    solution = solve(problem, Limits(whole + problem.overhead_cost))
    assert solution is not None
    assert solution.widths == {name: levels[0] for name, levels in problem.levels.items()}
    assert solution.loss == 0.0


def test_an_impossible_budget_has_no_solution() -> None:
    problem = _chain()
    assert solve(problem, Limits(cost=problem.overhead_cost * 0.9)) is None
    assert solve(problem, Limits(size_bytes=0.0)) is None


def test_no_nodes_are_not_no_solution() -> None:
    problem = _chain()
    solution = solve(problem, Limits(cost=_tight(problem)), nodes=0)
    assert solution is not None
    _consistent(problem, Limits(cost=_tight(problem)), solution)


def test_fastest_and_smallest_break_ties_by_loss() -> None:
    low, high = Option(None, (), 1.0, 8.0, 0.0), Option(None, (), 1.0, 8.0, 0.0)
    layer = Layer("layer", (Width(0, (("a", 1.0),)),), {(8,): (high,), (4,): (low,)})
    problem = Problem({"a": (8, 4)}, {"a": (0.0, 0.5)}, (layer,), 0.0, Configuration())
    for minimise in ("cost", "size_bytes"):
        solution = solve(problem, Limits(), minimise=minimise)
        assert solution is not None
        assert solution.widths == {"a": 8}


def _chain() -> Problem:
    """Three layers in a row over two groups."""

    def options(read: int, made: int) -> tuple[Option, ...]:
        return (Option(None, (), read * made / 10, 4.0 * read * made, 0.0),)

    a, b = Width(0, (("a", 1.0),)), Width(0, (("b", 1.0),))
    first = Layer("first", (a,), {(m,): options(3, m) for m in (8, 4)})
    middle = Layer("middle", (a, b), {(r, m): options(r, m) for r in (8, 4) for m in (8, 4)})
    last = Layer("last", (b,), {(r,): options(r, 10) for r in (8, 4)})
    losses = {"a": (0.0, 0.2), "b": (0.0, 0.3)}
    return Problem({"a": (8, 4), "b": (8, 4)}, losses, (first, middle, last), 1.0, Configuration())


def _tight(problem: Problem) -> float:
    """A budget between the narrowest and the whole network."""
    return problem.overhead_cost + 0.6 * sum(
        layer.options[max(layer.options)][0].cost for layer in problem.layers
    )


def sixty() -> tuple[Problem, Problem]:
    """A network of 60 convolutions at up to nine widths for each group: plain, and with low-rank pairs."""
    net = Net(64)
    x = net.conv(net.x, 32, 3, 2, activation="relu6")
    stages = ((1, 16, 2, 1), (6, 24, 3, 2), (6, 32, 4, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
    for expansion, out, blocks, stride in (*stages, (6, 320, 1, 1)):
        for block in range(blocks):
            x = net.block(x, out, 1 if block else stride, expansion)
    graph = net.head(net.conv(x, 1280, activation="relu6"))
    known = sensitivities(graph)
    dense = build_problem(setting(graph, known), Configuration(), widths=True, low_rank=True)
    shapes = {layer.node: layer.options[max(layer.options)][0].kernels[0] for layer in dense.layers}
    ranks: dict[str, dict[int, float]] = {}
    for name, kernel in shapes.items():
        weight = kernel.operands[1] if kernel.op == "conv2d" else None
        if weight is not None and weight.shape[2:] == (1, 1):
            steps = rank_levels(weight.shape[0], weight.shape[1])
            ranks[name] = {rank: 0.02 * (index + 1) for index, rank in enumerate(steps)}
    paired = Sensitivities(known.order, known.scores, known.reference, ranks)
    return dense, build_problem(setting(graph, paired), Configuration(), widths=True, low_rank=True)


@pytest.mark.slow
def test_sixty_convolutions_are_solved_to_the_proof() -> None:
    dense, paired = sixty()
    assert max(map(len, dense.levels.values())) == 9
    solutions = [solve(problem, Limits(_tight(problem))) for problem in (dense, dense, paired)]
    first, again, with_pairs = solutions
    assert first is not None
    assert again is not None
    assert with_pairs is not None
    for problem, solution in ((dense, first), (paired, with_pairs)):
        _consistent(problem, Limits(_tight(problem)), solution)
        assert solution.gap < 0.01
    assert (first.widths, first.options) == (again.widths, again.options)
    assert with_pairs.ranks
    assert with_pairs.loss < first.loss

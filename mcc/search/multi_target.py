"""Joins the problems of several targets into one: the same decision, with its cost on each target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mcc.errors import UsageError
from mcc.search.problem import Layer, Option, Problem


def joined(problems: Sequence[Problem]) -> Problem:
    """The problem of the first target with the latencies of all others in `Option.more_costs`.

    A decision has to exist in all tables: widths, ranks and forms that only some tables have are left out.
        Zeros
    that a target's kernels cannot use cost as much there as the dense layer. Sizes are those of the largest
    file.

    Args:
        problems: Problems of the same network, one per target; the first is the primary target.

    Raises:
        UsageError: The tables have no common width of some group.
    """
    first, *others = problems
    levels = dict(first.levels)
    for other in others:
        levels = {n: tuple(w for w in ws if w in other.levels.get(n, ws)) for n, ws in levels.items()}
    for name, left in levels.items():
        if not left:
            raise UsageError("the targets share no width", where=f"channel group {name}")
    losses = {
        name: tuple(first.losses[name][first.levels[name].index(width)] for width in left)
        for name, left in levels.items()
    }
    tables = [{layer.node: layer for layer in other.layers} for other in others]
    layers = tuple(
        _joined_layer(layer, [table.get(layer.node) for table in tables]) for layer in first.layers
    )
    more = tuple(other.overhead_cost for other in others)
    worst = max(problem.base_loss for problem in problems)
    return dataclasses.replace(
        first, levels=levels, losses=losses, layers=layers, more_overhead_costs=more, base_loss=worst
    )


def _joined_layer(layer: Layer, others: Sequence[Layer | None]) -> Layer:
    found: dict[tuple[int, ...], tuple[Option, ...]] = {}
    for key, options in layer.options.items():
        costs = [None if other is None else other.options.get(key) for other in others]
        if any(other is not None and cost is None for other, cost in zip(others, costs, strict=True)):
            continue
        both = [_joined_option(option, costs) for option in options]
        found[key] = tuple(option for option in both if option is not None)
    return dataclasses.replace(layer, options={key: options for key, options in found.items() if options})


def _joined_option(option: Option, others: Sequence[tuple[Option, ...] | None]) -> Option | None:
    more: list[float] = []
    size = option.size_bytes
    for options in others:
        if options is None:  # a table that the other target lacks has zero cost there
            more.append(0.0)
            continue
        match = _match(option, options)
        if match is None:
            return None
        more.append(match.cost)
        size = max(size, match.size_bytes)
    return dataclasses.replace(option, more_costs=tuple(more), size_bytes=size)


def _match(option: Option, options: Sequence[Option]) -> Option | None:
    """The option of another target with the same decision."""
    alike = [other for other in options if other.rank == option.rank]
    exact = next((other for other in alike if other.sparsity == option.sparsity), None)
    return exact or next((other for other in alike if other.sparsity is None), None)

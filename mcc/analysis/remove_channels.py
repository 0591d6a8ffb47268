"""Removal of channel classes from a graph: constants, group counts and shape attributes shrink."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from mcc.analysis.channel_groups import ChannelAnalysis, Mask, kept
from mcc.errors import Refusal
from mcc.ir import table
from mcc.ir.graph import (
    Graph,
    add_call,
    add_constant,
    calls,
    clean,
    constant,
    constants,
    infer,
    operand,
    set_constant,
)
from mcc.ir.labels import produced_axis
from mcc.ir.notes import DTYPES, annotate, note, shape_of, type_of


def shrink(graph: Graph, analysis: ChannelAnalysis, removed: frozenset[int]) -> None:
    """Remove label classes in place and infer the shapes again.

    Args:
        analysis: Channel analysis of this graph.
        removed: Classes to remove, of groups that are not frozen.

    Raises:
        Refusal: A value or a constant would be left without channels.
    """
    if not removed:
        for node in graph.graph.nodes:
            _done(node)
        return
    gone = analysis.mask(removed)
    for name, labels in analysis.labels.items():
        if gone[labels].all():
            raise Refusal("would be left without channels", where=name)
    attributes = {
        node: _attributes(node, analysis, gone) for node in graph.graph.nodes if node.op == "call_function"
    }
    for name in constants(graph):
        _shrink_constant(graph, name, analysis, gone)
    for node, changed in attributes.items():
        node.kwargs = {**node.kwargs, **changed}
    widths = {node: type_of(node) for node in attributes}
    infer(clean(graph))
    for node, old in widths.items():
        _done(node)
        if table.row_of(node).scales == "weighted":
            axis = produced_axis(table.row_of(node).name, old.shape)
            if old.shape[axis] != shape_of(node)[axis]:
                annotate(node, pruned_from=note(node).pruned_from or old.shape[axis])


def _done(node: fx.Node) -> None:
    """Clear `keep` of a node's note after pruning; the note of a frozen node is not changed."""
    if note(node).frozen is None:
        annotate(node, keep=None)


def _shrink_constant(graph: Graph, name: str, analysis: ChannelAnalysis, gone: Mask) -> None:
    value = constant(graph, name).detach()
    changed = False
    for axis, labels in analysis.bound(name).items():
        stays = ~gone[labels]
        if not stays.any():
            raise Refusal("would be left without channels", where=name)
        if not stays.all():
            value, changed = value.index_select(axis, torch.from_numpy(np.flatnonzero(stays))), True
    if changed:
        set_constant(graph, name, value.contiguous())


def _attributes(node: fx.Node, analysis: ChannelAnalysis, gone: Mask) -> dict[str, Any]:
    """Attributes that count channels, after removal: those in the `counts` of the op table."""
    given = node.kwargs
    match table.row_of(node).counts:
        case ("groups",):
            stays = _along(operand(node, 0), 1, analysis, gone).reshape(cast(int, given["groups"]), -1)
            return {"groups": int(stays.any(1).sum())}
        case ("shape",):
            axes = range(1, len(shape_of(node)))
            return {"shape": tuple(int(_along(node, axis, analysis, gone).sum()) for axis in axes)}
        case ("start", "stop") if given["step"] == 1:
            axis, start, stop = (cast(int, given[key]) for key in ("axis", "start", "stop"))
            stays = _along(operand(node, 0), axis, analysis, gone)
            low = int(stays[:start].sum())
            return {"start": low, "stop": low + int(stays[start:stop].sum())}
        case ("padding",):
            return {"padding": _padding(node, analysis, gone)}
        case _:
            return {}


def _padding(node: fx.Node, analysis: ChannelAnalysis, gone: Mask) -> tuple[tuple[int, int], ...]:
    """Padding after removal: channel padding shrinks with its labels, spatial padding is unchanged."""
    result: list[tuple[int, int]] = []
    for axis, (low, high) in enumerate(cast(tuple[tuple[int, int], ...], node.kwargs["padding"])):
        stays = _along(node, axis, analysis, gone)
        result.append((int(stays[:low].sum()), int(stays[stays.size - high :].sum())))
    return tuple(result)


def _along(node: fx.Node, axis: int, analysis: ChannelAnalysis, gone: Mask) -> Mask:
    """A mask of the indices kept along an axis of a value, in its full length."""
    return np.broadcast_to(kept(analysis.labels[node.name], gone)[axis], shape_of(node)[axis])


def mask_out(graph: Graph, analysis: ChannelAnalysis, removed: frozenset[int]) -> None:
    """Remove all dependences on classes, in place: the exact twin of removing them.

    The weights through which they are read are set to zero. A mean over channels becomes one over the others:
    with all but m of C channels zero, a global response norm of weight w and eps e computes for these m the
    same as one of m channels, if its weight is w m / C and its eps is e m / C.
    """
    zero_readers(graph, analysis, removed)
    gone = analysis.mask(removed)
    for node in calls(graph, "global_response_norm"):
        axis = cast(int, node.kwargs["axis"]) % len(shape_of(node))
        stays = torch.from_numpy(_along(node, axis, analysis, gone).copy())
        if not bool(stays.all()):
            dtype, share = DTYPES[type_of(node).dtype], float(stays.double().mean())
            shape = [-1 if other == axis else 1 for other in range(len(shape_of(node)))]
            mask = add_constant(graph, node, "mask", stays.to(dtype).reshape(shape), trains=False)
            scale = add_constant(graph, node, "share", torch.tensor(share, dtype=dtype), trains=False)
            kept_alone = add_call(graph, node, "mul", operand(node, 0), mask, activation="none")
            weight = add_call(graph, node, "mul", operand(node, 1), scale, activation="none")
            node.args = (kept_alone, weight, *node.args[2:])
            node.kwargs = {**node.kwargs, "eps": cast(float, node.kwargs["eps"]) * share}


def zero_readers(graph: Graph, analysis: ChannelAnalysis, removed: frozenset[int]) -> None:
    """Set the weights through which classes are read to zero, in place."""
    gone = analysis.mask(removed)
    for binding in analysis.bindings:
        if binding.role == "reads":
            _write(graph, binding.constant, binding.axis, gone[binding.labels], 0.0)


def refill_producers(
    graph: Graph, analysis: ChannelAnalysis, removed: frozenset[int], generator: torch.Generator
) -> None:
    """Randomise constants that produce or carry the classes, in place; the twin's output must not change."""
    gone = analysis.mask(removed)
    for binding in analysis.bindings:
        if binding.role != "reads":
            _write(graph, binding.constant, binding.axis, gone[binding.labels], generator)


def _write(graph: Graph, name: str, axis: int, where: Mask, fill: float | torch.Generator) -> None:
    if not where.any():
        return
    value = constant(graph, name)
    index = torch.from_numpy(np.flatnonzero(where))
    with torch.no_grad():
        value.index_copy_(axis, index, _filling(value.index_select(axis, index), fill))


def _filling(like: Tensor, fill: float | torch.Generator) -> Tensor:
    if isinstance(fill, torch.Generator):
        # Positive, since it may be a variance; integers, so that sums are exact.
        return torch.randint(1, 4, like.shape, generator=fill).to(like.dtype)
    return torch.full_like(like, fill)

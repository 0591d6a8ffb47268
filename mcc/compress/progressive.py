"""Progressive pruning: alternate planning, short fine-tuning and re-measured sensitivities.

Each step prunes the network part of the way to the budget and fine-tunes it briefly. The trained weights of
the kept channels are written back into the whole network, whose other channels are unchanged. From there,
each group is measured again with all others as they are now: at its present width, what pruning cost after
the fine-tuning; below it, what more pruning would cost; above it, what restoring channels would gain. The
next step is planned from these figures and may change the width of every group.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.analysis.remove_channels import mask_out
from mcc.compress.build import Structure, restructure
from mcc.compress.job import Job
from mcc.compress.job_trainer import Trainer
from mcc.compress.planning import MARGIN, Planner
from mcc.ir.feed import joined, tensors_of
from mcc.ir.graph import Graph, constants, copy_graph, run, set_constant
from mcc.pipeline import deployment_form
from mcc.search.importance import taylor_scores
from mcc.search.probes import Probe, Subject
from mcc.search.sensitivity import Sensitivities, kept
from mcc.search.sensitivity_run import images_for
from mcc.search.solver import Limits, solve
from mcc.search.space import Configuration, Space

log = logging.getLogger(__name__)

STEP_SHARE = 0.1  # of the images of a whole fine-tuning, for each step; the last fine-tuning has the rest
POINTS = (1.0, 0.75, 0.5, 0.25)  # of a group's width: re-measured, beside its present width


def in_steps(job: Job, planner: Planner, trainer: Trainer, steps: int, label: str) -> Planner:
    """Run all steps but the last: returns a planner for the partly trained network, with its new losses.

    The last step is the plan by the returned planner, with ranks, zeros and precision; its fine-tuning has
    `left_share` of the images.

    Args:
        planner: Planner for the budget; without a budget of time it is returned unchanged.
        steps: Number of steps in all, the last one included.
    """
    goal = planner.cost_limit
    if goal is None or goal >= planner.baseline_cost:
        return planner
    for step in range(1, steps):
        limit = planner.baseline_cost * (goal / planner.baseline_cost) ** (step / steps)
        planner = _stepped(job, planner, trainer, limit, f"{label}-step-{step}")
    return planner


def left_share(steps: int) -> float:
    """Share of a fine-tuning's images that remains for the last step."""
    return 1.0 - STEP_SHARE * (steps - 1)


def _stepped(job: Job, planner: Planner, trainer: Trainer, cost_limit: float, label: str) -> Planner:
    problem = planner.tables(Space(widths=True), Configuration(), label, regions=False)()
    factor = planner.plan_whole(Configuration(), f"{label}-whole").factor
    solution = solve(problem, Limits(MARGIN * cost_limit / factor))
    if solution is None:
        return planner  # out of reach: the last plan reports it
    structure = Structure.of(problem, solution)
    log.info("%s: %d of %d groups pruned", label, len(structure.widths), len(problem.levels))
    known = planner.sensitivities
    small = restructure(planner.graph, structure, known, planner.calibration[:1], verify=True)
    trained = trainer.train_float(small, label, STEP_SHARE)
    whole = written_back(planner.graph, trained, structure.widths, known)
    again = measured_again(job, whole, structure.widths, known)
    setting = replace(planner.setting, graph=deployment_form(whole), sensitivities=again)
    return replace(planner, graph=whole, setting=setting)


def written_back(graph: Graph, trained: Graph, widths: Mapping[str, int], known: Sensitivities) -> Graph:
    """The whole network with the constants of a pruned and trained copy in place of the kept channels.

    Args:
        graph: The network before pruning; not changed.
        trained: The pruned network, its batch norms not folded: it has the same constants, with fewer
            channels.
        widths: Kept channels of each group.
    """
    analysis = analyse_channels(graph)
    gone = analysis.mask(removed_classes(analysis, widths, known))
    whole, learned = copy_graph(graph), dict(constants(trained))
    for name, value in constants(graph).items():
        if name not in learned:
            continue
        index: list[Tensor] = [torch.arange(length) for length in value.shape]
        for axis, labels in analysis.bound(name).items():
            index[axis] = torch.from_numpy(np.flatnonzero(~gone[labels]))
        merged = value.detach().clone()
        merged[torch.meshgrid(*index, indexing="ij") if index else ...] = learned[name].detach()
        set_constant(whole, name, merged)
    return whole


def removed_classes(
    analysis: ChannelAnalysis, widths: Mapping[str, int], known: Sensitivities
) -> frozenset[int]:
    """The classes of channels that are removed at these widths."""
    found: set[int] = set()
    for group in analysis.prunable():
        if widths.get(group.name, group.width) < group.width:
            found |= known.removed(group, widths[group.name])
    return frozenset(found)


def measured_again(job: Job, graph: Graph, widths: Mapping[str, int], known: Sensitivities) -> Sensitivities:
    """Losses of widths around the network's present ones, measured against the original network's outputs.

    Channels that are removed stay the first to be removed; the others are ranked by their scores in the
    present network. Ranks, zeros and integers keep their losses.

    Args:
        graph: The whole network, with the fine-tuned constants written back.
    """
    analysis = analyse_channels(graph)
    narrowed = copy_graph(graph)
    mask_out(narrowed, analysis, removed_classes(analysis, widths, known))
    batches = job.labelled()
    scores = taylor_scores(narrowed, analysis, batches, job.task.loss)
    order: dict[str, tuple[int, ...]] = {}
    for group in analysis.prunable():
        gone = known.order[group.name][: group.width - widths.get(group.name, group.width)]
        rest = [i for i in known.order[group.name] if i not in set(gone)]
        order[group.name] = (*gone, *sorted(rest, key=lambda i, g=group: scores.get(g.classes[i], 0.0)))
    x = joined([batch for batch, _ in batches])
    x = x[: images_for(tuple(tensors_of(x)[0].shape))]
    subject = Subject(
        graph, x, order, job.task.divergence, base=dict(widths), teacher=tuple(run(job.graph, x))
    )
    points: dict[str, dict[int, float]] = {}
    for index, group in enumerate(analysis.prunable()):
        wanted = {kept(group.width, share) for share in POINTS} | {widths.get(group.name, group.width)}
        found = {keep: subject.measure(Probe("width", (group.name,), keep)) for keep in sorted(wanted)}
        points[group.name] = {keep: value - found[group.width] for keep, value in found.items()}
        job.progress("re-measure sensitivities", index + 1, len(analysis.prunable()))
    return replace(known, order=order, points=points, pairs={})

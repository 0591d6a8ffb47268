"""Multi-target compression: one plan that keeps the budgets on every target, then one job for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcc.budget import Budget, check_units
from mcc.compress.build import Structure
from mcc.compress.driver import compress_one
from mcc.compress.folder import FORCE
from mcc.compress.job import Place, save_json
from mcc.compress.plan_loop import SharedTrial, plan_for_all
from mcc.compress.request import Request
from mcc.compress.session import opened
from mcc.errors import ConstraintError, DataError, UsageError
from mcc.ir.outputs import files_in, refuse_inputs
from mcc.report.schema import Report
from mcc.runtime import get_target
from mcc.search.space import Configuration


def shared_plan_content(found: SharedTrial) -> dict[str, Any]:
    """Content of plan.json of a multi-target plan; `structure` can be passed to `--plan`."""
    return {
        "targets": list(found.trials),
        "structure": found.structure.as_json(),
        "loss": found.loss,
        "measured": {
            name: {
                "latency_us": trial.speed.latency_us,
                "speedup": trial.speed.speedup,
                "size_bytes": trial.size_bytes,
                "kept": trial.kept,
                "measured_at": trial.speed.date,
            }
            for name, trial in found.trials.items()
        },
    }


def plan_multi_target(request: Request, place: Place, *, targets: Sequence[str]) -> SharedTrial:
    """Compute one plan for several targets, without training. The budgets hold on each of them.

    Args:
        request: The request for all targets; its own target is ignored.
        place: Folder; each target's state goes into a subfolder of its name.

    Raises:
        MccError: As `mcc.compress.compress`.
    """
    with ExitStack() as stack:
        sessions = {
            target: stack.enter_context(
                opened(
                    replace(request, target=target, epochs=0.0, strategies=(), steps=1),
                    replace(place.inside(folder_name(target)), resume=False),
                )
            )
            for target in checked_targets(targets, request.budget)
        }
        planners = {target: session.planner() for target, session in sessions.items()}
        offered = {target: session.configurations for target, session in sessions.items()}
        configurations = _shared_configurations(offered)
        found = [plan_for_all(planners, offered, r, f"shared-{i}") for i, r in enumerate(configurations)]
    keeping = [plan for plan in found if plan.keeps_all]
    best = min(keeping, key=lambda p: p.loss) if keeping else min(found, key=lambda p: p.excess)
    return replace(best, trials={target: best.trials[target] for target in sessions})


def _shared_configurations(offered: Mapping[str, Sequence[Configuration]]) -> tuple[Configuration, ...]:
    """Configurations that run on every target: sparse ones do, integer ones if all targets have them."""
    wanted = dict.fromkeys(
        configuration for configurations in offered.values() for configuration in configurations
    )
    return tuple(r for r in wanted if r.sparse is not None or all(r in o for o in offered.values()))


def checked_targets(targets: Sequence[str], budget: Budget) -> tuple[str, ...]:
    """The targets without repetition. Raises UsageError for none, or for a budget that does not fit all."""
    names = tuple(dict.fromkeys(targets))
    if not names:
        raise UsageError("names no target", where="--target", hint="see mcc targets")
    check_units(budget, [get_target(name) for name in names])
    return names


def folder_name(target: str) -> str:
    """Name of a target's folder."""
    return target.replace(":", "-")


def compress_multi_target(request: Request, place: Place, *, targets: Sequence[str]) -> dict[str, Report]:
    """Make one plan for several targets, then compress for each of them, into a subfolder of its name.

    If no plan keeps the budgets on every target, the nearest one is followed without comparing other
    strategies, so that the report of each target shows how far it is from the budgets.

    Raises:
        ConstraintError: No result keeps the budgets of a target; the error holds all reports as `report`.
    """
    targets = checked_targets(targets, request.budget)
    # Some options have no effect with a shared plan: they are refused before one is computed.
    request = replace(request, target=targets[0], plan="shared")
    path = place.folder / "plan.json"
    reads = files_in(request.model, request.data, request.weights)
    _check_plan_file(path, reads, force=place.force)
    keeps = _kept_plan(path) if place.resume else None
    failures: list[ConstraintError] = []
    if keeps is None:
        found = plan_multi_target(replace(request, plan=""), place.inside("shared"), targets=targets)
        save_json(path, shared_plan_content(found))
        keeps = found.keeps_all
        if not keeps:
            failures.append(_missed_by_all(found))
    if not keeps:
        request = replace(request, strategies=("joint",))
    reports: dict[str, Report] = {}
    for target in targets:
        try:
            one = replace(request, target=target)
            reports[target] = compress_one(one, place.inside(folder_name(target)), plan_file=path)
        except ConstraintError as error:
            if error.report is None:
                raise
            reports[target] = error.report
            failures.append(error)
    if failures:
        failures[0].report = reports
        raise failures[0]
    return reports


def _check_plan_file(path: Path, reads: Sequence[Path], *, force: bool) -> None:
    """Refuse a folder whose plan.json is not a multi-target plan. Raises UsageError."""
    refuse_inputs([path], reads)
    if path.exists() and not force and _kept_plan(path) is None:
        raise UsageError("was not left by a job of mcc for several targets", where=str(path), hint=FORCE)


def _kept_plan(path: Path) -> bool | None:
    """Whether a multi-target plan keeps all budgets; None if the file is not such a plan."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        Structure.from_json(raw["structure"], str(path))
        return all(all(dict(one["kept"]).values()) for one in dict(raw["measured"]).values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return None


def _missed_by_all(found: SharedTrial) -> ConstraintError:
    return ConstraintError(
        "no plan keeps the budgets on every target",
        where=", ".join(found.trials),
        hint=f"the nearest took {missed_words(found)}",
    )


def missed_words(plan: SharedTrial) -> str:
    """Latency or cycles of a plan on each target, as text."""
    return ", ".join(
        f"{get_target(name).unit.words(trial.speed.latency_us)} on {name}"
        for name, trial in plan.trials.items()
    )

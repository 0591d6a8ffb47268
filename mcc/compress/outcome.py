"""The outcome of a strategy, and its storage on disk, so that an interrupted run can continue."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcc.budget import CONSTRAINTS
from mcc.compress.bench import digest
from mcc.compress.build import Structure
from mcc.compress.job import save_json
from mcc.compress.planning import Trial
from mcc.errors import MccError
from mcc.ir.graph import Graph
from mcc.ir.storage import load_graph, save_graph

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A strategy's finished model.

    Attributes:
        name: Name of the strategy.
        structure: The decisions.
        graph: Graph in deployment form, trained, and quantised if the structure says so.
        file: Path of the lowered model.
        predicted_cost: Cost predicted before the first timing, in the target's unit; None for the original.
        plan: The accepted trial; None if nothing was planned.
        notes: Sentences for the report.
    """

    name: str
    structure: Structure
    graph: Graph
    file: Path
    predicted_cost: float | None = None
    plan: Trial | None = None
    notes: tuple[str, ...] = ()


def reach(trial: Trial, *, given: bool = True) -> tuple[str, ...]:
    """Why a strategy is not fine-tuned, as one sentence; empty if it is.

    Args:
        given: Whether the budgets are the user's; otherwise a speed-up was aimed at without one.
    """
    missed = " and ".join(CONSTRAINTS[name].label for name, kept in trial.kept.items() if not kept)
    if trial.structure.is_original:
        misses = f", and the original misses the budget of {missed}" if given else ""
        nothing = f"It finds nothing to change{misses}."
        return (nothing if missed else "The original keeps the budgets without any change.",)
    if not missed:
        return ()
    goal = f"The budget of {missed}" if given else f"The {missed} aimed at, as no budget was given,"
    return (f"{goal} is out of its reach, so it was not fine-tuned.",)


def remembered(folder: Path, step: Callable[[], Outcome]) -> Outcome:
    """The stored outcome of an earlier run from the strategy's folder; otherwise runs and stores the step."""
    mark = folder / "outcome.json"
    found = _kept(mark)
    if found is not None:
        return found
    outcome = step()
    graph = mark.with_name("model.mcc")
    save_graph(outcome.graph, graph)
    parts = (outcome.file, graph, graph.with_suffix(".safetensors"))
    save_json(
        mark,
        {
            "name": outcome.name,
            "structure": outcome.structure.as_json(),
            "file": outcome.file.name,
            "predicted_us": outcome.predicted_cost,
            "notes": list(outcome.notes),
            "digests": {path.name: digest(path) for path in parts},
        },
    )
    return outcome


def _kept(mark: Path) -> Outcome | None:
    """The outcome that an earlier run stored; None if there is none, or a part of it is damaged."""
    if not mark.exists():
        return None
    try:
        raw: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8"))
        for name, wanted in dict(raw["digests"]).items():
            if digest(mark.with_name(name)) != wanted:
                raise ValueError(f"{name} has changed")
        structure = Structure.from_json(raw["structure"], str(mark))
        graph, file = load_graph(mark.with_name("model.mcc")), mark.with_name(raw["file"])
        predicted = None if raw["predicted_us"] is None else float(raw["predicted_us"])
        notes = tuple(str(note) for note in raw["notes"])
        return Outcome(str(raw["name"]), structure, graph, file, predicted, None, notes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MccError) as error:
        log.warning("%s is damaged (%s): the strategy is made again", mark, error)
        return None

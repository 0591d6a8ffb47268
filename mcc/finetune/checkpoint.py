"""Checkpoints of training: one file, written atomically, from which a run continues bit-exactly."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mcc.errors import MccError
from mcc.files import readable_file, write_beside
from mcc.finetune.settings import FineTuneSettings
from mcc.ir.graph import Graph, constants
from mcc.ir.text import print_graph

log = logging.getLogger(__name__)

FORMAT = "1"
NOT_PART_OF_THE_RESULT = ("checkpoint_seconds",)


@dataclass(frozen=True)
class Checkpoint:
    """Number of steps done and every tensor that changes: weights, statistics, momentum, masks."""

    step: int
    tensors: Mapping[str, Tensor]


def fingerprint(
    graph: Graph, teacher: Graph | None, data_digest: str, settings: FineTuneSettings, *more: str
) -> str:
    """A hash of everything that the result of a run depends on: checkpoints of other runs are not used."""
    state = hashlib.sha256()
    for part in (graph, teacher):
        if part is not None:
            state.update(print_graph(part).encode())
            for name, value in constants(part).items():
                state.update(name.encode())
                state.update(value.detach().contiguous().numpy().tobytes())
    options = {k: v for k, v in asdict(settings).items() if k not in NOT_PART_OF_THE_RESULT}
    state.update(json.dumps([data_digest, options, more], sort_keys=True, default=str).encode())
    return state.hexdigest()


def save(path: Path, run: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and replace the previous one. Raises GraphError if the disk is full."""
    tensors = {name: value.detach().contiguous() for name, value in checkpoint.tensors.items()}
    metadata = {"format": FORMAT, "run": run, "step": str(checkpoint.step)}
    write_beside(path, lambda part: save_file(tensors, part, metadata))


def load(path: Path, run: str) -> Checkpoint | None:
    """The checkpoint of a run; None if there is none, it is damaged, or it belongs to another run."""
    if not path.exists():
        return None
    try:
        with safe_open(readable_file(path), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("run") != run:
                log.warning("%s is of another run: training starts again", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(int(metadata["step"]), tensors)
    except (SafetensorError, MccError, OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): training starts again", path, error)
        return None

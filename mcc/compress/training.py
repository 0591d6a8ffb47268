"""The repair of one candidate, as a job asks for it."""

from __future__ import annotations

import torch

from mcc.compress.candidate import Structure
from mcc.compress.job import Job
from mcc.finetune import (
    RepairProgress,
    RepairSettings,
    SparsityRamp,
    reestimate_batch_norm,
    repair,
    repair_candidate,
)
from mcc.ir.graph import Graph, copy_graph
from mcc.search.space import Regime

SETTLE_BATCH, SETTLE_IMAGES = 128, 1024  # images from which batch-norm statistics are estimated anew
RAMP_FROM_STEPS = 40  # a ramp of zeros needs some steps at each level; shorter repairs thin at once


class Trainer:
    """Repairs candidates of one job by distillation from the original.

    Args:
        job: gives data, task, seed and the number of images.
        part: of these images that a whole repair has; the rest went to steps before.
    """

    def __init__(self, job: Job, part: float = 1.0) -> None:
        self.job = job
        self.part = part

    @property
    def images(self) -> int:
        """Training images of a whole repair."""
        return round(self.job.images * self.part)

    def settings(self, structure: Structure, share: float) -> RepairSettings:
        """Settings of one repair; sparse regimes come to their zeros gradually where there is time."""
        plain = RepairSettings(images=round(self.images * share), seed=self.job.request.seed)
        if structure.regime.sparse is not None and plain.steps >= RAMP_FROM_STEPS:
            return RepairSettings(images=plain.images, seed=plain.seed, sparsity_ramp=SparsityRamp())
        return plain

    def settle(self, graph: Graph) -> Graph:
        """A copy with batch-norm statistics estimated anew, nothing trained."""
        private = copy_graph(graph)
        batches = self.job.data.batches(
            "train", SETTLE_BATCH, seed=self.job.request.seed, augment=False, limit=SETTLE_IMAGES
        )
        reestimate_batch_norm(private, (torch.from_numpy(batch.inputs) for batch in batches))
        return private

    def train(self, graph: Graph, structure: Structure, label: str, share: float = 1.0) -> Graph:
        """Repair a candidate and bring it into deployment form, quantised where its regime says so.

        Args:
            graph: as captured or restructured, batch norms live.
            label: of the checkpoint folder.
            share: of the job's images.
        """
        regime: Regime = structure.regime
        quantised = regime.precision != "float"
        insertion = f"insert-qdq{{precision={regime.precision}}}" if quantised else "insert-qdq"
        result = repair_candidate(
            graph,
            self.job.graph,
            self.job.data,
            self.job.task,
            self.settings(structure, share),
            quantise=quantised,
            insertion=insertion,
            verify=False,
            state_dir=self.job.state / label / "repair",
            progress=lambda p: self._tell(label, p),
        )
        return result.graph

    def train_float(self, graph: Graph, label: str, share: float) -> Graph:
        """Repair a float candidate and leave its batch norms live, with the constants that it had.

        Args:
            graph, label, share: as in `train`.
        """
        plain = RepairSettings(images=round(self.images * share), seed=self.job.request.seed)
        result = repair(
            graph, self.job.graph, self.job.data, self.job.task, plain,
            state_dir=self.job.state / label / "repair", progress=lambda p: self._tell(label, p),
        )  # fmt: skip
        return result.graph

    def _tell(self, label: str, at: RepairProgress) -> None:
        self.job.progress(
            f"repair {label}",
            at.step,
            at.steps,
            f"{at.phase}, loss {at.loss:.3f}, {at.images_per_second:.0f} images/s",
        )

"""Fine-tunes the candidates of a job, with its data, task, seed and number of images."""

from __future__ import annotations

from mcc.compress.build import Structure
from mcc.compress.job import Job
from mcc.finetune import (
    FineTuneProgress,
    FineTuneSettings,
    SparsityRamp,
    fine_tune,
    fine_tune_candidate,
    reestimate_batch_norm,
)
from mcc.ir.feed import feed_of
from mcc.ir.graph import Graph, copy_graph
from mcc.search.space import Configuration

SETTLE_BATCH, SETTLE_IMAGES = 128, 1024  # images from which batch-norm statistics are re-estimated
RAMP_FROM_STEPS = 40  # a ramp of zeros needs some steps at each level; shorter fine-tunings prune at once


class Trainer:
    """Fine-tunes candidates of one job by distillation from the original.

    Args:
        job: The job, source of data, task, seed and the number of images.
        part: Share of these images for a whole fine-tuning; earlier steps used the rest.
    """

    def __init__(self, job: Job, part: float = 1.0) -> None:
        self.job = job
        self.part = part

    @property
    def images(self) -> int:
        """Number of training images of a whole fine-tuning."""
        return round(self.job.images * self.part)

    def settings(self, structure: Structure, share: float) -> FineTuneSettings:
        """Settings of one fine-tuning; sparse layers get their zeros gradually if there are enough steps."""
        plain = FineTuneSettings(images=round(self.images * share), seed=self.job.request.seed)
        if structure.configuration.sparse is not None and plain.steps >= RAMP_FROM_STEPS:
            return FineTuneSettings(images=plain.images, seed=plain.seed, sparsity_ramp=SparsityRamp())
        return plain

    def settle(self, graph: Graph) -> Graph:
        """A copy with batch-norm statistics re-estimated, nothing trained."""
        private = copy_graph(graph)
        batches = self.job.data.batches(
            "train", SETTLE_BATCH, seed=self.job.request.seed, augment=False, limit=SETTLE_IMAGES
        )
        reestimate_batch_norm(private, (feed_of(batch.inputs) for batch in batches))
        return private

    def train(self, graph: Graph, structure: Structure, label: str, share: float = 1.0) -> Graph:
        """Fine-tune a candidate and bring it into deployment form, quantised where its configuration says so.

        Args:
            graph: The candidate, as captured or restructured, its batch norms not folded.
            label: Name of the checkpoint folder.
            share: Share of the job's images.
        """
        configuration: Configuration = structure.configuration
        quantised = configuration.precision != "float"
        insertion = f"insert-qdq{{precision={configuration.precision}}}" if quantised else "insert-qdq"
        result = fine_tune_candidate(
            graph,
            self.job.graph,
            self.job.data,
            self.job.task,
            self.settings(structure, share),
            quantise=quantised,
            insertion=insertion,
            verify=False,
            state_dir=self.job.state / label / "fine-tune",
            progress=lambda p: self._tell(label, p),
        )
        return result.graph

    def train_float(self, graph: Graph, label: str, share: float) -> Graph:
        """Fine-tune a float candidate, without folding its batch norms.

        Args:
            graph, label, share: As in `train`.
        """
        plain = FineTuneSettings(images=round(self.images * share), seed=self.job.request.seed)
        result = fine_tune(
            graph, self.job.graph, self.job.data, self.job.task, plain,
            state_dir=self.job.state / label / "fine-tune", progress=lambda p: self._tell(label, p),
        )  # fmt: skip
        return result.graph

    def _tell(self, label: str, at: FineTuneProgress) -> None:
        self.job.progress(
            f"fine-tune {label}",
            at.step,
            at.steps,
            f"{at.phase}, loss {at.loss:.3f}, {at.images_per_second:.0f} images/s",
        )

"""Fine-tuning: knowledge distillation and quantisation-aware training together.

A compressed network is trained on a few thousand images to follow the original one (Hinton 2015), while its
removed weights stay removed and its weights and activations are rounded as integer kernels will round them
(Jacob 2018). `fine_tune` runs one phase; `fine_tune_candidate` runs all phases of a candidate whose batch
norms are not folded:

    float, batch norm live  ->  statistics re-estimated  ->  norms folded, activations fused
        ->  quantisers inserted, ranges calibrated  ->  quantised, on folded weights
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mcc.data.bound import BoundTask
from mcc.data.module import DataModule
from mcc.finetune.batch_norm import reestimate_batch_norm
from mcc.finetune.settings import FineTuneResult, FineTuneSettings, Progress
from mcc.finetune.trainer import Trainer
from mcc.ir.feed import Feed, feed_of
from mcc.ir.graph import Graph, calls
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions, deployment_form

log = logging.getLogger(__name__)

NORM_BATCH = 128  # images in a batch of the statistics; they are means over batches


def fine_tune(
    graph: Graph,
    teacher: Graph | None,
    data: DataModule,
    task: BoundTask,
    settings: FineTuneSettings,
    *,
    state_dir: Path | None = None,
    progress: Progress | None = None,
) -> FineTuneResult:
    """Train a student graph to follow its teacher, and re-estimate its batch-norm statistics.

    Zero weights of nodes with a `sparse` note stay zero, or are set gradually with `settings.sparsity_ramp`.
    Weight scales of quantisers follow the weights. The same arguments give the same weights, for the same
    number of threads, whether the run was interrupted or not.

    Args:
        graph: Canonical graph, float with or without batch norms, or quantised; not changed.
        teacher: The original float graph; None: train with the task's own loss. Not changed.
        data: Data module; its `train` split is the training data.
        task: Task, which defines loss and distillation loss.
        state_dir: Folder of the checkpoint; a run with the same arguments continues from it.
        progress: Callback after every step.

    Raises:
        NotFiniteError: The loss is NaN or infinite.
        DataError: An image cannot be read.
        GraphError: The checkpoint cannot be written.
    """
    phase = "quantised" if calls(graph, "fake_quantize") else "float"
    trainer = Trainer(graph, deployment_form(teacher) if teacher else None, data, task, settings, phase)
    state_file = state_dir / f"{phase}.safetensors" if state_dir is not None else None
    result = trainer.run(state_file, progress)
    if trainer.has_norms:
        reestimate_batch_norm(result, norm_batches(data, settings))
    return FineTuneResult(
        result,
        phase,
        settings.steps,
        settings.steps * settings.batch_size,
        trainer.log.mean_loss(last=False),
        trainer.log.mean_loss(last=True),
        trainer.log.seconds,
        trainer.log.waited_s,
        trainer.arithmetic,
    )


def norm_batches(data: DataModule, settings: FineTuneSettings) -> Iterator[Feed]:
    """Batches for the batch-norm statistics: training images without augmentation."""
    limit = max(2, settings.norm_images)
    size = min(NORM_BATCH, limit)
    for batch in data.batches("train", size, seed=settings.seed, augment=False, limit=limit):
        if len(batch.targets) > 1:
            yield feed_of(batch.inputs)


def calibration_batches(data: DataModule, settings: FineTuneSettings) -> tuple[Feed, ...]:
    """Batches for the calibration of quantisation ranges."""
    batches = data.batches("calibration", NORM_BATCH, limit=settings.calibration_images)
    return tuple(feed_of(batch.inputs) for batch in batches)


@dataclass(frozen=True)
class CandidateResult:
    """A candidate after fine-tuning.

    Attributes:
        graph: The network in deployment form, quantised if requested: the input of the lowerings.
        trained: The same network before folding its batch norms.
        phases: Result of each phase.
    """

    graph: Graph
    trained: Graph
    phases: tuple[FineTuneResult, ...]


def fine_tune_candidate(
    graph: Graph,
    teacher: Graph | None,
    data: DataModule,
    task: BoundTask,
    settings: FineTuneSettings,
    *,
    quantise: bool,
    insertion: str = "insert-qdq",
    verify: bool = True,
    state_dir: Path | None = None,
    progress: Progress | None = None,
) -> CandidateResult:
    """Fine-tune a structurally compressed candidate within one budget of images.

    With `settings.images` 0 nothing is trained: statistics are re-estimated, and ranges calibrated.

    Args:
        graph: The candidate, its batch norms not folded; notes state sparsity and precision of nodes.
        quantise: Whether to insert quantisers, and spend the rest of the budget (1 - float_share) on QAT.
        insertion: The pipeline that inserts them.
        verify: Whether to verify each lossless pass.

    Raises:
        Refusal: A pass cannot be applied to the candidate.
        VerificationError: A pass failed its verification.
        DataError, GraphError: As in `fine_tune`.
    """
    share = settings.float_share if quantise else 1.0
    first = dataclasses.replace(settings, images=round(settings.images * share))
    phases = [fine_tune(graph, teacher, data, task, first, state_dir=state_dir, progress=progress)]
    options = RunOptions(verify=verify)
    folded = deployment_form(phases[0].graph, options)
    if not quantise:
        return CandidateResult(folded, phases[0].graph, tuple(phases))
    ctx = PassContext(calibration_batches(data, settings), settings.seed)
    quantised = Pipeline.parse(insertion).run(folded, ctx, options).graph
    # A seed of its own: the second phase should not see the same images in the same order and shape.
    rest = settings.images - first.images
    second = dataclasses.replace(settings, images=rest, sparsity_ramp=None, seed=settings.seed + 1)
    phases.append(fine_tune(quantised, teacher, data, task, second, state_dir=state_dir, progress=progress))
    return CandidateResult(phases[1].graph, phases[0].graph, tuple(phases))

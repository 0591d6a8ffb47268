"""Fine-tuning after compression: batch-norm statistics, distillation and quantisation-aware training."""

from mcc.finetune.batch_norm import reestimate_batch_norm
from mcc.finetune.fine_tune import CandidateResult, fine_tune, fine_tune_candidate
from mcc.finetune.settings import FineTuneProgress, FineTuneResult, FineTuneSettings, Progress, SparsityRamp

__all__ = [
    "CandidateResult",
    "FineTuneProgress",
    "FineTuneResult",
    "FineTuneSettings",
    "Progress",
    "SparsityRamp",
    "fine_tune",
    "fine_tune_candidate",
    "reestimate_batch_norm",
]

"""Repair after compression: batch-norm statistics, distillation and quantisation-aware training."""

from mcc.finetune.batch_norm import reestimate_batch_norm
from mcc.finetune.repair import CandidateResult, repair, repair_candidate
from mcc.finetune.settings import Progress, RepairProgress, RepairResult, RepairSettings, SparsityRamp

__all__ = [
    "CandidateResult",
    "Progress",
    "RepairProgress",
    "RepairResult",
    "RepairSettings",
    "SparsityRamp",
    "reestimate_batch_norm",
    "repair",
    "repair_candidate",
]

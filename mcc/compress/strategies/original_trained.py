"""Strategy original-trained: the original with the same extra training, to separate the gain of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mcc.compress.build import Structure
from mcc.compress.outcome import Outcome
from mcc.compress.parallel_training import FineTuning
from mcc.compress.strategy_api import Strategy
from mcc.compress.workspace import Work


class OriginalTrained(Strategy):
    """The original, fine-tuned as long as every candidate is."""

    name: ClassVar[str] = "original-trained"
    order: ClassVar[int] = 10
    is_reference: ClassVar[bool] = True

    def run(self, work: Work) -> Outcome:
        """Fine-tune the original; without training, the result is the original again."""
        if work.trainer.images == 0:
            said = ("No training was asked for.",)
            return work.finished(self.name, Structure(), work.original, notes=said)
        return work.finished(self.name, Structure(), work.trained(Structure(), self.name))

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """The fine-tuning of the original, which needs no plan."""
        return [FineTuning(Structure(), 1.0, self.name)]


STRATEGY = OriginalTrained()

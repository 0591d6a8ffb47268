"""The original given the same extra training: what the training alone is worth."""

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
        """Nothing is decided; without training it is the original once more."""
        if work.trainer.images == 0:
            said = ("No training was asked for.",)
            return work.finished(self.name, Structure(), work.original, notes=said)
        return work.finished(self.name, Structure(), work.trained(Structure(), self.name))

    def ahead(self, work: Work) -> Sequence[FineTuning]:
        """It needs no plan."""
        return [FineTuning(Structure(), 1.0, self.name)]


STRATEGY = OriginalTrained()

"""The model as it came."""

from __future__ import annotations

from typing import ClassVar

from mcc.compress.build import Structure
from mcc.compress.outcome import Outcome
from mcc.compress.strategy_api import Strategy
from mcc.compress.workspace import Work


class Original(Strategy):
    """What all others are held against: lowered as it is."""

    name: ClassVar[str] = "original"
    order: ClassVar[int] = 0
    is_reference: ClassVar[bool] = True

    def run(self, work: Work) -> Outcome:
        """Nothing is decided."""
        return work.finished(self.name, Structure(), work.original)


STRATEGY = Original()

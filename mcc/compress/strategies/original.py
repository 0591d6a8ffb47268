"""Strategy original: the model unchanged."""

from __future__ import annotations

from typing import ClassVar

from mcc.compress.build import Structure
from mcc.compress.outcome import Outcome
from mcc.compress.strategy_api import Strategy
from mcc.compress.workspace import Work


class Original(Strategy):
    """The baseline of all other strategies: lowered unchanged."""

    name: ClassVar[str] = "original"
    order: ClassVar[int] = 0
    is_reference: ClassVar[bool] = True

    def run(self, work: Work) -> Outcome:
        """Lower the original; nothing is decided."""
        return work.finished(self.name, Structure(), work.original)


STRATEGY = Original()

"""Strategy int8-ptq: post-training quantisation with ranges from calibration data, without training."""

from __future__ import annotations

import logging
from typing import ClassVar

from mcc.compress.build import Structure, quantise
from mcc.compress.outcome import Outcome
from mcc.compress.report_builder import signal_of
from mcc.compress.strategy_api import Strategy
from mcc.compress.workspace import Work
from mcc.ir.graph import Graph
from mcc.quant.noise import is_integer
from mcc.search.space import Configuration

log = logging.getLogger(__name__)


class Int8Ptq(Strategy):
    """The original, quantised after training."""

    name: ClassVar[str] = "int8-ptq"
    order: ClassVar[int] = 20

    def run(self, work: Work) -> Outcome:
        """Quantise with the target's integer precision."""
        configuration = next(
            (r for r in work.configurations if r.precision != "float"), Configuration("int8")
        )
        graph = quantise(work.original, configuration, work.planner.calibration)
        _check_early(work, graph)
        return work.finished(self.name, Structure(configuration), graph)


def _check_early(work: Work, graph: Graph) -> None:
    """Warn at the first integer graph, not after hours, if quantisation loses the signal.

    Fine-tuning may correct it, so it is an error only without one; the delivered file is checked again.
    """
    failure = signal_of(work.job, graph).failure() if is_integer(graph) else None
    if failure is None or work.job.request.allow_noise:
        return
    if work.trainer.images == 0:
        raise failure
    log.warning("%s: %s; fine-tuning may correct it", failure.where, failure.message)


STRATEGY = Int8Ptq()

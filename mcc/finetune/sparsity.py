"""Sparse training: zeros that are kept, or set gradually, while the other weights train."""

from __future__ import annotations

import torch

from mcc.analysis.thinning import thin
from mcc.finetune.settings import SparsityRamp
from mcc.ir.graph import Graph, calls, constant, is_constant, operand
from mcc.ir.notes import SparseNote, note
from mcc.quant.params import is_fake_quantize


class SparseWeights:
    """The sparse weights of a graph under training.

    Without a ramp, the zeros are those of the initial weights. With one, the smallest weights are set to zero
    step by step until each note's sparsity is reached; a zero is never revived, since its magnitude stays the
    smallest.

    Args:
        graph: Canonical graph, with its constants before the first step.
        ramp: Schedule of the sparsity, or None.
    """

    def __init__(self, graph: Graph, ramp: SparsityRamp | None) -> None:
        self.ramp = ramp
        self.notes: dict[str, SparseNote] = {}
        for node in calls(graph, "conv2d"):
            found = note(node).sparse
            weight = operand(node, 1)
            source = operand(weight, 0) if is_fake_quantize(weight) else weight
            if found is not None and is_constant(source):
                self.notes[str(source.target)] = found
        self.masks = {name: constant(graph, name).detach() != 0 for name in self.notes}

    def apply(self, graph: Graph, step: int, steps: int) -> None:
        """Apply the zeros, in place, after step `step` (counted from 1) of `steps`."""
        with torch.no_grad():
            if self.ramp is not None and self._chooses(self.ramp, step, steps):
                for name, wanted in self.notes.items():
                    share = wanted.sparsity * self.ramp.share(step, steps)
                    self.masks[name] = thin(constant(graph, name), SparseNote(wanted.block, share)) != 0
            for name, mask in self.masks.items():
                constant(graph, name).mul_(mask)

    @staticmethod
    def _chooses(ramp: SparsityRamp, step: int, steps: int) -> bool:
        """Whether the zeros are updated: at intervals, and at the target; then they are fixed."""
        growing = ramp.share(step - 1, steps) < 1.0
        return growing and (step % ramp.every == 0 or ramp.share(step, steps) == 1.0)

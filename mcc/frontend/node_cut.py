"""Cutting a PyTorch model at operators outside of modules, as the first of `interpolate(...).argmax(1)`.

Hooks see modules only, so the whole model is exported, and the exported program is cut at the node that is
the named one of the canonical graph. What follows need not be readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mcc.errors import MccError
from mcc.frontend.cut import unknown_place
from mcc.frontend.importer import places_of
from mcc.frontend.program import Program, as_double, cut_program, interpret

Export = Callable[[tuple[tuple[int, ...], ...]], Program]
"""Exports a module for inputs of given shapes, batch included."""


def cut_at_nodes(program: Program, cut: Sequence[str]) -> Program | None:
    """The program up to nodes of its canonical graph; None where no single node of the program is one."""
    places = places_of(program)
    if not all(name in places for name in cut):
        return None
    return cut_program(program, [places[name] for name in cut])


class UpToNodes:
    """What a module computes up to nodes of its canonical graph: the exported program runs up to there.

    Args:
        export: exports the module; called once for each length of the batch.
        cut: names of the nodes.
    """

    def __init__(self, export: Export, cut: Sequence[str]) -> None:
        self._export = export
        self._cut = tuple(cut)
        self._programs: dict[tuple[tuple[int, ...], ...], Program] = {}

    def program(self, shapes: tuple[tuple[int, ...], ...]) -> Program:
        """The program for inputs of these shapes. Raises UsageError where it has no such nodes."""
        if shapes not in self._programs:
            whole = self._export(shapes)
            found = cut_at_nodes(whole, self._cut)
            if found is None:
                raise unknown_place(", ".join(self._cut), places_of(whole), "node")
            self._programs[shapes] = found
        return self._programs[shapes]

    def shows(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the module can be run up to these nodes."""
        try:
            self.program(tuple(shapes))
        except MccError:
            return False
        return True

    def __call__(self, values: Sequence[Tensor]) -> list[Tensor]:
        return interpret(self.program(tuple(tuple(value.shape) for value in values)), values)

    def in_double(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The same in float64."""
        return interpret(as_double(self.program(tuple(tuple(value.shape) for value in values))), values)

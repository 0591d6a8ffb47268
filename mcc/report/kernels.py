"""Which kernels a target really ran for a file, and whether they compute what its reference kernels do.

LiteRT 2.3 on ARM64 gives wrong numbers for some networks with sparse weights, silently, that are right on
x86; and it leaves its sparse kernels aside for a whole cluster of layers when one of them does not fit. Both
show only on the target itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcc.lower.tflite.reader import read_tflite
from mcc.report.compare import Array, Comparison, compare_outputs
from mcc.report.measure import Shape, run_session
from mcc.report.schema import Count, Frozen
from mcc.runtime.target import Target

REFERENCE_IMAGES = 2  # reference kernels are slow, under emulation above all; one image shows what is wrong


class SparseKernels(Frozen):
    """Sparse kernels of one inference.

    Attributes:
        meant: weights that the file stores sparse.
        ran: kernels for sparse weights that ran; inside a cluster also those of dense weights.
    """

    meant: Count
    ran: Count

    @property
    def passed(self) -> bool:
        """Whether every weight that is stored sparse met a kernel that gains from it."""
        return self.ran >= self.meant

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.ran} sparse kernels ran, for {self.meant} sparse weights"


def sparse_kernels(target: Target, file: Path) -> SparseKernels | None:
    """Sparse kernels meant and run. None where the file has no sparse weight or the target does not tell."""
    if file.suffix != ".tflite":
        return None
    meant = read_tflite(file).op_counts()["DENSIFY"]
    ran = target.sparse_kernels(file) if meant else None
    return None if ran is None else SparseKernels(meant=meant, ran=ran)


def against_reference(
    target: Target, file: Path, values: Sequence[Array], shapes: Sequence[Shape], outputs: Sequence[Array]
) -> Comparison | None:
    """The first outputs of a float file against those of the target's reference kernels; None without such.

    Args:
        values: inputs [N, ...] in the graph's axes.
        shapes: of the graph's outputs.
        outputs: that the target gave for `values`.
    """
    session = target.reference_session(file)
    if session is None:
        return None
    with session:
        few = [value[:REFERENCE_IMAGES] for value in values]
        wanted = run_session(session, few, shapes, file)
    got = [value[: len(wanted[0])] for value in outputs]
    return compare_outputs(got, wanted, integer=False)

"""Checks of the kernels that a target ran for a file, and of their results against reference kernels.

LiteRT 2.3 on ARM64 silently gives wrong results for some networks with sparse weights that are right on x86;
and it does not use its sparse kernels for a whole cluster of layers if one of them does not fit. Both show
only on the target itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcc.lower.tflite.reader import read_tflite
from mcc.report.compare import Array, Comparison, compare_outputs
from mcc.report.measure import Shape, run_session
from mcc.report.schema import Count, Frozen
from mcc.runtime.target import Target

REFERENCE_IMAGES = 2  # reference kernels are slow, above all under emulation; one image shows an error


class SparseKernels(Frozen):
    """Sparse kernels of one inference.

    Attributes:
        meant: Number of weights that the file stores sparse.
        ran: Number of sparse kernels that ran; inside a cluster, dense weights are included.
    """

    meant: Count
    ran: Count

    @property
    def passed(self) -> bool:
        """Whether every weight that is stored sparse was run by a sparse kernel."""
        return self.ran >= self.meant

    @property
    def words(self) -> str:
        """The result as text."""
        return f"{self.ran} sparse kernels ran, for {self.meant} sparse weights"


def sparse_kernels(target: Target, file: Path) -> SparseKernels | None:
    """Sparse kernels intended and run. None without sparse weights, or if the target does not tell."""
    if file.suffix != ".tflite":
        return None
    meant = read_tflite(file).op_counts()["DENSIFY"]
    ran = target.sparse_kernels(file) if meant else None
    return None if ran is None else SparseKernels(meant=meant, ran=ran)


def against_reference(
    target: Target, file: Path, values: Sequence[Array], shapes: Sequence[Shape], outputs: Sequence[Array]
) -> Comparison | None:
    """Compare the first outputs of a float file with the target's reference kernels; None without such.

    Args:
        values: Inputs [N, ...] in the graph's axes.
        shapes: Shapes of the graph's outputs.
        outputs: Outputs of the target for `values`.
    """
    session = target.reference_session(file)
    if session is None:
        return None
    with session:
        few = [value[:REFERENCE_IMAGES] for value in values]
        wanted = run_session(session, few, shapes, file)
    got = [value[: len(wanted[0])] for value in outputs]
    return compare_outputs(got, wanted, integer=False)

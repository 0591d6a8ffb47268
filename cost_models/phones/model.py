"""Cost model from published measurements on phones: tables of blocks, and a fit for other blocks.

The cost of a block is the sum over its kernels, and that of a kernel a non-negative sum of its work:

    t = a * calls + b * multiply-accumulates + c * weights + d * elements written or read

with separate coefficients for each kind of kernel (`FEATURES`), by least squares of the relative error over
all rows of one phone (several image sizes together). Only sums over blocks were measured, so the cost of a
single kernel is known less accurately than that of a block, as stated by the error of an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cost_models.phones.blocks import Block, block_named
from mcc.cost_api import WHOLE_ERROR, Estimate, Kernel, Precision
from mcc.cost_sum import joint_source
from mcc.errors import DataError, UnsupportedError
from mcc.ir.json_file import read_bounded

Vector = NDArray[np.float64]

FEATURES = (
    "calls",
    "multiply-accumulates of convolutions",
    "multiply-accumulates of depthwise convolutions, stride 1",
    "multiply-accumulates of depthwise convolutions, stride 2",
    "elements that convolutions write",
    "elements that depthwise convolutions write",
    "weights of convolutions of images",
    "weights of convolutions of single pixels and of linear layers",
    "elements of hard swishes",
    "elements of additions",
    "elements of other operators",
)
ELEMENTWISE = {"hardswish": 8, "add": 9}  # their indices in the features
KERNEL_ERROR = 0.3  # relative, of one kernel: measured blocks of several determine its share only roughly
LEAST_ERROR = 0.02  # relative, of a block: difference between tables of means of 100 and more runs


@dataclass(frozen=True)
class Row:
    """A measured block: mean milliseconds, standard deviation, and number of runs."""

    mean_ms: float
    spread_ms: float
    runs: int


def read_table(path: Path | str) -> dict[Block, Row]:
    """Read a published table: YAML of one level, `name:` and below it `count`, `mean` and `var` or `std`.

    Raises:
        DataError: The file does not exist or is no such table; the message names the line.
    """
    path = Path(path)
    try:
        lines = read_bounded(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    fields: dict[str, dict[str, float]] = {}
    name = ""
    for number, line in enumerate(lines, start=1):
        key, _, value = line.rstrip().rpartition(":")
        try:
            if line.startswith(" "):
                key, value = (part.strip() for part in line.split(":"))
                fields[name][key] = float(value)
            elif line.strip():
                name = key if not value else line.strip()
                block_named(name)
                fields[name] = {}
        except (ValueError, KeyError) as error:
            raise DataError(
                f"is no row of a phone's table: {line.strip()!r}", where=f"{path}:{number}"
            ) from error
    # A table with hard swishes is one of MobileNetV3, where all layers outside the bottlenecks have them.
    hard = any("-hs:" in name for name in fields)
    try:
        return {block_named(name, hard): _row(name, values) for name, values in fields.items()}
    except KeyError as error:
        raise DataError(f"a row lacks {error}", where=str(path)) from error
    except ValueError as error:
        raise DataError(str(error), where=str(path)) from error


def _row(name: str, values: Mapping[str, float]) -> Row:
    """A row of figures. Raises KeyError for a missing figure, ValueError for an invalid one."""
    for key, value in values.items():
        if not math.isfinite(value) or value < 0.0 or (key in ("mean", "count") and value == 0.0):
            raise ValueError(f"{name}: {key} cannot be {value:g}")
    spread = values["std"] if "std" in values else math.sqrt(values["var"])
    return Row(values["mean"], spread, int(values["count"]))


def features(kernel: Kernel) -> Vector:
    """Features that take time, in the order of `FEATURES`, for one float kernel."""
    found = np.zeros(len(FEATURES))
    found[0] = 1.0
    written = float(math.prod(kernel.output))
    x = kernel.operands[0]
    read = float(math.prod(x.shape)) if x is not None else written
    if kernel.op not in ("conv2d", "linear"):
        found[ELEMENTWISE.get(kernel.op, 10)] = max(read, written)
        return found
    weight = kernel.operands[1]
    assert weight is not None
    weights, attributes = float(math.prod(weight.shape)), dict(kernel.attributes)
    if kernel.op == "conv2d" and attributes["groups"] == kernel.output[1] > 1:
        found[2 if attributes["stride"] == (1, 1) else 3] = kernel.macs
        found[5] = written
    elif kernel.op == "conv2d" and math.prod(kernel.output[2:]) > 1:
        found[1], found[4], found[6] = kernel.macs, written, weights
    else:
        found[7] = weights
    return found


@dataclass(frozen=True)
class PhoneCostModel:
    """A cost model from one phone's published tables, float32 on one core.

    Attributes:
        rows: Measured blocks.
        weights: Milliseconds per unit of each feature.
        error: Relative standard deviation of the fit over the rows.
        name: Name of the phone.
    """

    rows: Mapping[Block, Row]
    weights: tuple[float, ...]
    error: float
    name: str

    @staticmethod
    def from_tables(name: str, tables: Iterable[Mapping[Block, Row]]) -> PhoneCostModel:
        """Fit a model to a phone's tables. Raises DataError if they have fewer rows than coefficients."""
        rows = {block: row for table in tables for block, row in table.items()}
        if len(rows) <= len(FEATURES):
            raise DataError(f"{len(rows)} rows are too few for a fit", where=name)
        matrix = np.stack([_block_features(block) for block in rows])
        times = np.array([row.mean_ms for row in rows.values()])
        scale = np.maximum(matrix.max(axis=0), 1e-12)
        solved, _ = nnls(matrix / scale / times[:, None], np.ones(len(times)))
        weights = solved / scale
        error = float(np.sqrt(np.mean((matrix @ weights / times - 1.0) ** 2)))
        return PhoneCostModel(rows, tuple(float(w) for w in weights), error, name)

    def block(self, block: Block) -> Estimate:
        """Latency of a block: measured, else fitted; microseconds."""
        row = self.rows.get(block)
        if row is not None:
            error_ms = max(row.spread_ms / row.runs**0.5, LEAST_ERROR * row.mean_ms)
            return Estimate(1e3 * row.mean_ms, 1e3 * error_ms, "measured")
        latency = 1e3 * self._fitted_ms(_block_features(block))
        return Estimate(latency, max(LEAST_ERROR, self.error) * latency, "fitted")

    def network(self, blocks: Sequence[Block]) -> Estimate:
        """Sum over the blocks of a network: `measured` if all of them were.

        Errors of blocks of one kind add up, as do those of all fitted blocks; kinds are independent.
        """
        kinds: dict[str, float] = {}
        parts = [self.block(block) for block in blocks]
        for block, part in zip(blocks, parts, strict=True):
            kind = block.kind if part.source == "measured" else part.source
            kinds[kind] = kinds.get(kind, 0.0) + part.error
        source = joint_source(part.source for part in parts)
        return Estimate(sum(part.cost for part in parts), math.hypot(*kinds.values()), source)

    @property
    def whole_error(self) -> float:
        """`WHOLE_ERROR`."""
        return WHOLE_ERROR

    def kernel(self, kernel: Kernel) -> Estimate:
        """Latency of a dense float kernel. Raises UnsupportedError for others, which the tables lack."""
        if kernel.precision != "float" or kernel.sparse is not None:
            raise UnsupportedError(
                f"the tables of {self.name} hold dense float32 networks only", where=str(kernel)
            )
        latency = 1e3 * self._fitted_ms(features(kernel))
        return Estimate(latency, KERNEL_ERROR * latency, "fitted")

    def overhead(self, precision: Precision) -> Estimate:
        """Zero: the published latency is the sum of the blocks."""
        return Estimate(0.0, 0.0, "fitted")

    def _fitted_ms(self, found: Vector) -> float:
        return float(found @ np.array(self.weights))


@cache
def _block_features(block: Block) -> Vector:
    return np.sum([features(kernel) for kernel in block.kernels()], axis=0)

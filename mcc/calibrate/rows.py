"""Validation of the rows of tables, which may have been written or edited by others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mcc.cost_api import Kernel, Layout, OperandShape, Precision
from mcc.errors import DataError, MccError
from mcc.ir import table
from mcc.ir.json_file import first_problem, parse_json
from mcc.runtime.registry import get_target

QUANTITIES = ("overhead", "correction", "offset", "excess", "spread")
FIELDS = ("target", "device", "runtime", "version", "threads", "os")  # of a fingerprint, see `Fingerprint`
LONGEST_US = 1e12  # 11 days, beyond any kernel
LONGEST_AXIS = 1 << 31  # runtimes index with 32 bits
CLOCKS_DIFFER = timedelta(days=1)  # maximum by which a date may be ahead of this machine's clock
EARLIEST_YEAR = 2000
LEAST_CORRECTION, MOST_CORRECTION = 0.01, 100.0  # beyond these, a table does not fit its networks

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(T|$)")  # Python also parses weeks and bare digits


def moment(date: str) -> str:
    """A date in the form of tables: seconds, in UTC, so that dates sort by time.

    Raises ValueError unless it is an ISO 8601 date.
    """
    if not _DAY.match(date):
        raise ValueError(f"must be a date like 2026-11-23T10:00:00+00:00, not {date[:40]!r}")
    try:
        found = datetime.fromisoformat(date)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"must be a date like 2026-11-23T10:00:00+00:00, not {date[:40]!r}") from error
    return found.isoformat(timespec="seconds")


def _dated(date: str, info: ValidationInfo) -> str:
    if info.context is not None:  # own rows: a clock that was wrong for a day must not block work
        return date
    found = moment(date)
    when = datetime.fromisoformat(found)
    if when > datetime.now(UTC) + CLOCKS_DIFFER or when.year < EARLIEST_YEAR:
        raise ValueError(f"must be a date from {EARLIEST_YEAR} until today, not {date}")
    return found


@lru_cache(maxsize=1024)
def _fingerprint(key: str) -> str:
    parts = key.split("|")
    if len(parts) != len(FIELDS) or not all(parts):
        raise ValueError(f"must hold {' | '.join(FIELDS)}, not {key[:80]!r}")
    try:
        get_target(parts[0])
    except MccError as error:
        raise ValueError(f"names a target that is not mcc's: {error.message}") from error
    if not re.fullmatch(r"[1-9]\d{0,4}", parts[4]):
        raise ValueError(f"must hold a number of threads, not {parts[4][:40]!r}")
    return key


def _fingerprinted(key: str, info: ValidationInfo) -> str:
    return key if info.context is not None else _fingerprint(key)  # own rows are read by this key


Fingerprinted = Annotated[str, AfterValidator(_fingerprinted)]
Dated = Annotated[str, AfterValidator(_dated)]
Microseconds = Annotated[float, Field(gt=-LONGEST_US, lt=LONGEST_US)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class KernelRow(_Row):
    """A measured kernel, see `mcc.cost_api.Measurement`; `fields` is the JSON of the kernel."""

    fingerprint: Fingerprinted
    kernel: str
    fields: str
    latency_us: Annotated[float, Field(gt=0.0, lt=LONGEST_US)]
    low_us: Microseconds
    high_us: Microseconds
    runs: Annotated[int, Field(ge=1, lt=1 << 53)]
    date: Dated
    others_cores: Annotated[float, Field(ge=0.0, le=1e6)]

    @field_validator("fields")
    @classmethod
    def _sound(cls, fields: str) -> str:
        kernel_in(fields)
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if str(kernel_in(self.fields)) != self.kernel:
            raise ValueError("kernel: is not the name of the kernel that fields describes")
        if not self.low_us <= self.latency_us <= self.high_us:
            raise ValueError(
                f"latency_us: must lie between low_us and high_us ({self.low_us:g} and {self.high_us:g}), "
                f"not {self.latency_us:g}"
            )
        return self


class WholeRow(_Row):
    """A figure of whole networks, see `mcc.calibrate.store.Whole`."""

    fingerprint: Fingerprinted
    quantity: str
    precision: str
    value: Microseconds
    low: Microseconds
    high: Microseconds
    source: str
    date: Dated

    @field_validator("quantity")
    @classmethod
    def _known(cls, quantity: str) -> str:
        if quantity not in QUANTITIES:
            raise ValueError(f"must be one of {', '.join(QUANTITIES)}, not {quantity[:40]!r}")
        return quantity

    @field_validator("precision")
    @classmethod
    def _of_kernels(cls, precision: str) -> str:
        if precision not in get_args(Precision):
            raise ValueError(f"must be one of {', '.join(get_args(Precision))}, not {precision[:40]!r}")
        return precision

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: must not exceed high ({self.high:g}), not {self.low:g}")
        if self.quantity == "overhead" and self.value < 0.0:
            raise ValueError(f"value: an overhead must not be negative, not {self.value:g}")
        if self.quantity == "correction" and not LEAST_CORRECTION <= self.value <= MOST_CORRECTION:
            raise ValueError(
                f"value: a correction must lie in {LEAST_CORRECTION:g}..{MOST_CORRECTION:g}, "
                f"not {self.value:g}"
            )
        return self


KINDS: Mapping[str, type[_Row]] = {"kernels": KernelRow, "wholes": WholeRow}


def checked(
    kind: str, rows: Iterable[object], *, where: str, hint: str, own: bool = False
) -> list[dict[str, Any]]:
    """Rows of a table, every field checked; dates in UTC.

    Args:
        kind: `kernels` or `wholes`.
        own: Whether it is the user's own table, in which keys, dates and shapes are accepted unchecked.

    Raises:
        DataError: A row is invalid; the message names the file, the row, its field and the allowed values.
    """
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        try:
            context = {"own": True} if own else None
            found.append(KINDS[kind].model_validate(row, context=context).model_dump())
        except ValidationError as error:
            place = f"row {number} of {kind}{_named(row)}"
            raise DataError(f"{place}: {first_problem(error)}", where=where, hint=hint) from error
    if kind == "kernels" and not own:
        _check_kernels(found, where, hint)
    return found


def _check_kernels(rows: Sequence[Mapping[str, Any]], where: str, hint: str) -> None:
    """Check the shapes, after all else, since inferring the first one imports torch, which takes seconds."""
    for number, row in enumerate(rows, start=1):
        try:
            check_kernel(kernel_in(row["fields"]))
        except ValueError as error:
            place = f"row {number} of kernels{_named(row)}"
            raise DataError(f"{place}: fields: {error}", where=where, hint=hint) from error


def _named(row: object) -> str:
    kernel = row.get("kernel") if isinstance(row, Mapping) else None  # pyright: ignore[reportUnknownVariableType]
    return f" ({kernel[:60]})" if isinstance(kernel, str) else ""


@lru_cache(maxsize=65536)
def kernel_in(fields: str) -> Kernel:
    """The kernel of a row, with its figures checked one by one. Raises ValueError."""
    try:
        kernel = Kernel.from_json(parse_json(fields))
        table.row(kernel.op)
    except MccError as error:
        raise ValueError(f"describes no kernel: {error.message}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"describes no kernel: {type(error).__name__}: {str(error)[:80]}") from error
    if kernel.precision not in get_args(Precision):
        raise ValueError(f"describes no kernel: its precision is {str(kernel.precision)[:40]!r}")
    if kernel.layout not in get_args(Layout):
        raise ValueError(f"describes no kernel: its layout is {str(kernel.layout)[:40]!r}")
    for shape in (kernel.output, *(o.shape for o in kernel.operands if o is not None)):
        if not all(type(length) is int and 0 < length < LONGEST_AXIS for length in shape):
            raise ValueError(f"describes no kernel: one of its shapes is {str(shape)[:60]}")
    sparse = kernel.sparse
    if sparse is not None and not (
        type(sparse.block) is int
        and isinstance(sparse.sparsity, float | int)  # pyright: ignore[reportUnnecessaryIsInstance]
        and math.isfinite(sparse.sparsity)
        and sparse.sparsity < 1.0
    ):
        raise ValueError("describes no kernel: its sparsity must lie in 0..1, 1 excluded")
    return kernel


@lru_cache(maxsize=65536)
def _check(kernel: Kernel, spelling: str) -> None:
    row = table.row(kernel.op)
    try:
        types = [_type(o) for o in kernel.operands]
        made = row.infer(types, row.complete(dict(kernel.attributes))).shape
    except table.MISFITS as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise ValueError(f"describes no kernel: {reason}") from error
    if made != kernel.output:
        raise ValueError(
            f"describes no kernel: {kernel.op} makes {made} of its operands, not {kernel.output}"
        )


def check_kernel(kernel: Kernel) -> None:
    """Check that operands and attributes fit the operator and give the output. Raises ValueError."""
    _check(kernel, str(kernel))


def _type(operand: OperandShape | None) -> table.TensorType | None:
    return None if operand is None else table.TensorType(operand.shape)

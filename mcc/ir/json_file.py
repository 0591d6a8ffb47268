"""JSON from files that others may have written or edited: bounded in size and depth, mistakes told by field.

mcc's own files are small; one that is not small, not a regular file, or not what its reader asks for is
refused with a sentence that names the file, the field and what is allowed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mcc.errors import DataError
from mcc.files import readable_file

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound="BaseModel")

LARGEST_BYTES = 64 << 20  # the largest that mcc itself wrote was a table of 12 MB; parsed, it takes tenfold
SHOWN = 40  # characters of a wrong value in a sentence


def read_bounded(path: Path, *, hint: str | None = None) -> bytes:
    """The bytes of a regular file that is not too large for what mcc writes.

    Raises:
        DataError: no such file, no regular file, one that cannot be read or is too large.
    """
    try:
        with readable_file(path, at_most_bytes=LARGEST_BYTES, hint=hint).open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), hint=hint) from error
    if len(raw) > LARGEST_BYTES:  # it grew meanwhile, or its size is not told, as in /proc
        raise DataError(f"holds more than {LARGEST_BYTES:,} bytes", where=str(path), hint=hint)
    return raw


def parse_json(text: str | bytes) -> Any:
    """Plain values of a JSON text. Raises ValueError for anything else, NaN and infinity included."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    def number(digits: str) -> float:
        found = float(digits)
        if not math.isfinite(found):
            raise ValueError(f"{digits[:SHOWN]} is too large for a number")
        return found

    try:
        return json.loads(text, parse_constant=refuse, parse_float=number)
    except RecursionError as error:
        raise ValueError("nests too deeply") from error


def read_json(path: Path, *, what: str, hint: str | None = None) -> Any:
    """Plain values of a JSON file. Raises DataError naming the file for anything else.

    Args:
        what: the file is said to be, as in `report of mcc`.
    """
    raw = read_bounded(path, hint=hint)
    try:
        return parse_json(raw)
    except ValueError as error:  # a wrong encoding is one, too
        reason = "it is no text" if isinstance(error, UnicodeError) else str(error)
        raise DataError(f"is no {what}: {reason}", where=str(path), hint=hint) from error


def read_model(path: Path, model: type[Model], *, what: str, hint: str | None = None) -> Model:
    """A JSON file as a model of pydantic, strictly: no text for a number, no number for a flag.

    Raises:
        DataError: names the file, the first field that does not fit, and what is allowed there.
    """
    from pydantic import ValidationError

    raw = read_bounded(path, hint=hint)
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise DataError(f"is no {what}: {first_problem(error)}", where=str(path), hint=hint) from error


def first_problem(error: ValidationError) -> str:
    """The first field that did not fit: its place, what is allowed, and what was found."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    said = said.replace("Input should be", "must be") if place else said
    found = first["input"]
    # A whole object says nothing more; a text that is no JSON is not shown at all.
    shown = isinstance(found, str | int | float | bool) and place and first["type"] != "value_error"
    ending = f", not {_short(found)}" if shown else ""
    return f"{place}: {said}{ending}" if place else f"{said}{ending}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

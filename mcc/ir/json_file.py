"""Reading of JSON files that may have been edited: bounded in size and depth, errors reported by field.

mcc's own files are small. A file that is large, not regular, or does not match the reader's model is refused
with a sentence that names the file, the field and the allowed values.
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
SHOWN = 40  # characters of a wrong value in a message


def read_bounded(path: Path, *, hint: str | None = None) -> bytes:
    """The bytes of a regular file within the size limit of files that mcc writes.

    Raises:
        DataError: The file is absent, not regular, unreadable or too large.
    """
    try:
        with readable_file(path, at_most_bytes=LARGEST_BYTES, hint=hint).open("rb") as stream:
            raw = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path), hint=hint) from error
    if len(raw) > LARGEST_BYTES:  # it grew meanwhile, or has no known size, as in /proc
        raise DataError(f"holds more than {LARGEST_BYTES:,} bytes", where=str(path), hint=hint)
    return raw


def parse_json(text: str | bytes) -> Any:
    """Plain values of a JSON text. Raises ValueError for invalid JSON, including NaN and infinity."""

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
    """Plain values of a JSON file. Raises DataError naming the file if it is not valid JSON.

    Args:
        what: Description of the file for messages, e.g. `report of mcc`.
    """
    raw = read_bounded(path, hint=hint)
    try:
        return parse_json(raw)
    except ValueError as error:  # a wrong encoding is one, too
        reason = "it is no text" if isinstance(error, UnicodeError) else str(error)
        raise DataError(f"is no {what}: {reason}", where=str(path), hint=hint) from error


def read_model(path: Path, model: type[Model], *, what: str, hint: str | None = None) -> Model:
    """A JSON file as a pydantic model, in strict mode: no text for a number, no number for a flag.

    Raises:
        DataError: The file does not match; the message names it, the first wrong field and the allowed
            values.
    """
    from pydantic import ValidationError

    raw = read_bounded(path, hint=hint)
    try:
        return model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise DataError(f"is no {what}: {first_problem(error)}", where=str(path), hint=hint) from error


def first_problem(error: ValidationError) -> str:
    """The first wrong field: its place, the allowed values, and the value found."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ")
    said = said.replace("Input should be", "must be") if place else said
    found = first["input"]
    # A whole object would add nothing; a text that is not JSON is not shown.
    shown = isinstance(found, str | int | float | bool) and place and first["type"] != "value_error"
    ending = f", not {_short(found)}" if shown else ""
    return f"{place}: {said}{ending}" if place else f"{said}{ending}"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

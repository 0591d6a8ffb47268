"""Files: which may be read, how they are written, and those of graphs.

`x.mcc` holds the text form of a graph, `x.safetensors` beside it the constants.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mcc.errors import DataError, GraphError, MccError, UnsupportedError
from mcc.ir.graph import Graph
from mcc.ir.limits import check_count, check_graph
from mcc.ir.text import parse_graph, print_graph, text_constants

# A node takes about 150 bytes of text: a hundred times the largest networks.
MAX_TEXT_BYTES = 64 << 20

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def readable_file(
    path: Path | str,
    *,
    at_most_bytes: int | None = None,
    hint: str | None = None,
    raising: type[MccError] = DataError,
) -> Path:
    """The path, once it is known to lead to a regular file: to read a pipe or a device may never end.

    Everything that opens a file which somebody named asks here first. Links are followed.

    Args:
        at_most_bytes: largest size that is read into memory; None where the reader bounds it itself.
        hint: what to do where it is absent or another kind of file.
        raising: kind of error, where an absent file is wrong use rather than bad data.

    Raises:
        DataError: (or `raising`) absent, not to be looked at, no regular file, or too large.
    """
    path = Path(path)
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise raising("no such file", where=str(path), hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise raising(f"cannot be read: {reason}", where=str(path), hint=hint) from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise raising(f"is {kind}, not a file", where=str(path), hint=hint or "name a regular file")
    if at_most_bytes is not None and found.st_size > at_most_bytes:
        raise raising(
            f"holds {found.st_size} bytes, more than the {at_most_bytes} that mcc reads of such a file",
            where=str(path),
            hint="is it the right file?",
        )
    return path


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name in the same folder and rename it, so that it is whole or absent.

    Raises DataError when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"cannot be written: {reason}", where=str(path), hint="free space or choose another -o"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises DataError when it cannot be written."""
    write_beside(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, raw: bytes) -> None:
    """Write a file, whole or not at all. Raises DataError when it cannot be written."""
    write_beside(path, lambda beside: beside.write_bytes(raw))


SAID = "# mcc "
"""Begins a comment that holds a key and JSON: what belongs to a network and is not in its graph."""


def save_graph(graph: Graph, path: Path | str, said: Mapping[str, Any] | None = None) -> None:
    """Write a graph to `path` (.mcc) and its constants to the .safetensors of the same name.

    Args:
        said: JSON values by name that `said_with` reads back, as the preprocessing of the network.

    The constants are renamed into place first, so that a graph never stands without them.
    """
    path = Path(path)
    tensors = {name: value.detach().contiguous().clone() for name, value in text_constants(graph).items()}
    write_beside(path.with_suffix(".safetensors"), lambda p: save_file(tensors, p))
    notes = [f"{SAID}{key} {json.dumps(value)}\n" for key, value in (said or {}).items()]
    text = print_graph(graph) + "".join(notes)
    write_text(path, text)


def said_with(path: Path | str) -> dict[str, Any]:
    """What `save_graph` was told beside the graph; lines that hold something else are left out.

    Raises GraphError naming the file where it cannot be read.
    """
    found: dict[str, Any] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
    for line in lines:
        key, _, value = line.removeprefix(SAID).partition(" ")
        if line.startswith(SAID):
            with suppress(ValueError):
                found[key] = json.loads(value)
    return found


def load_graph(path: Path | str) -> Graph:
    """Read a graph written by `save_graph`.

    Raises:
        GraphError: it cannot be read; the message names the file and line.
        UnsupportedError: it is beyond the bounds of `mcc.ir.limits`, or holds weights that are no numbers.
    """
    path = readable_file(path, at_most_bytes=MAX_TEXT_BYTES, raising=GraphError)
    beside = path.with_suffix(".safetensors")
    try:
        text = path.read_text(encoding="utf-8")
        tensors = load_file(readable_file(beside, raising=GraphError)) if beside.exists() else {}
    except (OSError, UnicodeDecodeError, SafetensorError, ValueError) as error:
        raise GraphError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
    check_count(text.count("\n"), "lines")
    try:
        return check_graph(parse_graph(text, tensors, where=str(path)))
    except UnsupportedError as error:
        error.where = f"{path}: {error.where}"
        raise

"""Checks before reading users' files, and atomic writing of files.

Nothing here imports torch, which takes seconds: a bad file is reported before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from mcc.errors import DataError, MccError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


ENTRY = "#"


def split_entry(path: Path | str) -> tuple[Path, str]:
    """`last.pth#ema` as the file `last.pth` and the entry `ema` of it; "" where no entry is named."""
    path = Path(path)
    name, mark, entry = path.name.rpartition(ENTRY)
    if not mark or not name.strip(".") or os.path.lexists(path):  # a file may have the character in its name
        return path, ""
    return path.with_name(name), entry


def readable_file(
    path: Path | str,
    *,
    at_most_bytes: int | None = None,
    hint: str | None = None,
    raising: type[MccError] = DataError,
) -> Path:
    """The path, checked to be a regular file: reading a pipe or a device may never end.

    Everything that opens a file named by a user calls this first. Links are followed.

    Args:
        at_most_bytes: Largest size that is read into memory; None where the reader has its own bound.
        hint: Hint of the error for a file that is absent or of another kind.
        raising: Type of the error, where an absent file is wrong use rather than bad data.

    Raises:
        DataError: (or `raising`) The file is absent, inaccessible, not regular, or too large.
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
    if not os.access(path, os.R_OK):
        raise raising("cannot be read: Permission denied", where=str(path), hint=hint or "chmod u+r")
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

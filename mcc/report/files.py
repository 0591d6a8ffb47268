"""Text files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

from mcc.errors import DataError


def write_whole(path: Path, text: str) -> None:
    """Write a text file under another name in the same folder and rename it, so that it is whole or absent.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint="free space or choose another -o",
        ) from error

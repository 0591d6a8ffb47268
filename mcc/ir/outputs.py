"""Rules for overwriting files: never an input, and no existing file that the user did not name.

The rules hold for all outputs, named by the user or by mcc:

* an output is never one of the inputs, under any name (files are compared by device and inode);
* a file that the user named as output is overwritten, as by compilers;
* a file whose name mcc chose (the default name of `mcc lower`, the constants beside a graph) is overwritten
  only with `--force`; in a folder of mcc's pages also if mcc wrote it, according to the list there.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from mcc.errors import DataError, UsageError
from mcc.files import split_entry, write_text
from mcc.ir.json_file import read_json

MADE = ".mcc-made.json"
"""List of the files that mcc wrote in a folder of pages."""


def files_in(*specs: str | Path | None) -> list[Path]:
    """The existing files that a command reads for its MODEL, DATA or FILE.

    For `net.py:factory` that is `net.py`, for `cifar10:DIR` the folder, for `w.pth#ema` the file `w.pth`; a
    graph includes its file of constants.
    """
    found: list[Path] = []
    for spec in specs:
        if spec is None or not str(spec):
            continue
        first, _, rest = str(spec).partition(":")
        for text in dict.fromkeys((str(spec), first, rest, str(split_entry(spec)[0]))):
            path = Path(text)
            if not text or "\0" in text or not path.is_file():
                continue
            found.append(path)
            beside = path.with_suffix(".safetensors")
            if path.suffix == ".mcc" and beside.is_file():
                found.append(beside)
    return found


def written_with(path: Path) -> list[Path]:
    """The files that are written for an output: a graph includes its file of constants."""
    return [path, path.with_suffix(".safetensors")] if path.suffix == ".mcc" else [path]


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise UsageError where an output is one of the inputs, or cannot be a file."""
    read = list(inputs)
    for output in outputs:
        try:
            found = output.stat()
        except OSError:  # absent or inaccessible: writing will report it
            continue
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise UsageError("is a device or a pipe, not a file", where=str(output), hint="choose another -o")
        for path in read:
            if path.exists() and os.path.samestat(path.stat(), found):
                raise UsageError(
                    f"would be overwritten, and is read ({path})" if str(path) != str(output)
                    else "would be overwritten, and is read",
                    where=str(output), hint="choose another -o",
                )  # fmt: skip


def check_output(output: Path, inputs: Iterable[Path], *, named: bool, force: bool = False) -> None:
    """Check an output by the rules of this module, before anything is computed for it.

    Args:
        output: File to write.
        inputs: Files that the command reads, see `files_in`.
        named: Whether the user named the output; else mcc did.
        force: Whether files that the user did not name may be overwritten.

    Raises:
        UsageError: The output is an input, or exists and was not named.
    """
    written = written_with(output)
    refuse_inputs(written, inputs)
    own = output if named else None
    if force or (named and os.path.lexists(output) and all(map(os.path.lexists, written))):
        return  # the name of a graph covers both of its files
    for path in written:
        if path != own and os.path.lexists(path):
            raise UsageError(
                "exists, and was not named as output", where=str(path), hint="name one with -o, or --force"
            )


def check_folder(folder: Path, names: Iterable[str], inputs: Iterable[Path], *, force: bool = False) -> None:
    """Check a folder for files whose names mcc chose, before anything is computed for them.

    Args:
        names: Names of the files and folders to be written in it.

    Raises:
        UsageError: One is an input, or exists and was not written by mcc.
    """
    chosen = list(names)
    refuse_inputs([folder / name for name in (*chosen, MADE)], inputs)
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError("is no folder", where=str(folder), hint="choose another")
    made = _made(folder)
    others = [name for name in chosen if os.path.lexists(folder / name) and name not in made]
    if others and not force:
        raise UsageError(
            f"holds files that mcc did not make: {', '.join(others)}",
            where=str(folder),
            hint="choose another folder, or --force to overwrite",
        )


def note_made(folder: Path, names: Iterable[str]) -> None:
    """Record in a folder the names that mcc wrote there. Raises DataError where it cannot be written."""
    write_text(folder / MADE, json.dumps(sorted({*names, *_made(folder)})))


def _made(folder: Path) -> frozenset[str]:
    """The names that mcc wrote in a folder before; empty where the list is absent or damaged."""
    try:
        found = read_json(folder / MADE, what="list of mcc")
    except DataError:
        return frozenset()
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()

"""What a command may write over: never a file that it reads, and nobody's file that was not named.

The rule for all outputs that a user names or that mcc names by itself:

* an output is never one of the inputs, whatever the two are called (the same file by device and number);
* a file that the user named as output is overwritten, as compilers do;
* a file whose name mcc chose (the default name of `mcc lower`, the constants beside a graph) is overwritten
  only where the user says so, with `--force`; in a folder of mcc's pages also where mcc made it, as its list
  there says.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from mcc.errors import DataError, UsageError
from mcc.files import write_text
from mcc.ir.json_file import read_json

MADE = ".mcc-made.json"
"""In a folder of pages: the names of what mcc wrote there."""


def files_in(*specs: str | Path | None) -> list[Path]:
    """The files that a command reads for what was given as MODEL, DATA or FILE, as far as they exist.

    Of `net.py:factory` that is `net.py`, of `cifar10:DIR` the folder; beside a graph lie its constants.
    """
    found: list[Path] = []
    for spec in specs:
        if spec is None or not str(spec):
            continue
        first, _, rest = str(spec).partition(":")
        for text in dict.fromkeys((str(spec), first, rest)):
            path = Path(text)
            if not text or "\0" in text or not path.is_file():
                continue
            found.append(path)
            beside = path.with_suffix(".safetensors")
            if path.suffix == ".mcc" and beside.is_file():
                found.append(beside)
    return found


def written_with(path: Path) -> list[Path]:
    """The files that are written for an output: a graph has its constants beside it."""
    return [path, path.with_suffix(".safetensors")] if path.suffix == ".mcc" else [path]


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises UsageError where an output is one of the inputs, or cannot be a file."""
    read = list(inputs)
    for output in outputs:
        try:
            found = output.stat()
        except OSError:  # absent, or not to be looked at: writing will say
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
    """Refuse an output by the rule of this module, before anything is computed for it.

    Args:
        output: the file.
        inputs: the files that the command reads, see `files_in`.
        named: whether the user named the output; else mcc did.
        force: whether the user allows that files not named are overwritten.

    Raises:
        UsageError: it is an input, or it is there and was not named.
    """
    written = written_with(output)
    refuse_inputs(written, inputs)
    own = output if named else None
    if force or (named and os.path.lexists(output) and all(map(os.path.lexists, written))):
        return  # a graph that is named stands for both of its files
    for path in written:
        if path != own and os.path.lexists(path):
            raise UsageError(
                "exists, and nobody named it as output", where=str(path), hint="name one with -o, or --force"
            )


def check_folder(folder: Path, names: Iterable[str], inputs: Iterable[Path], *, force: bool = False) -> None:
    """Refuse a folder for files whose names mcc chose, before anything is computed for them.

    Args:
        names: of the files and folders in it that will be written.

    Raises:
        UsageError: one is an input, or is there and was not made by mcc.
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
    """Remember in a folder what mcc wrote there. Raises DataError where it cannot be written."""
    write_text(folder / MADE, json.dumps(sorted({*names, *_made(folder)})))


def _made(folder: Path) -> frozenset[str]:
    """What mcc wrote into a folder before; nothing where its list is absent or damaged."""
    try:
        found = read_json(folder / MADE, what="list of mcc")
    except DataError:
        return frozenset()
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()

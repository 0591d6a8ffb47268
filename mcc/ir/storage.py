"""Graphs on disk: `x.mcc` holds the text form, `x.safetensors` beside it the constants."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mcc.errors import GraphError
from mcc.ir.graph import Graph
from mcc.ir.text import parse_graph, print_graph, text_constants


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name in the same folder and rename it, so that it is whole or absent.

    Raises GraphError when the disk is full or the folder cannot be written.
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
        raise GraphError(
            f"cannot be written: {reason}", where=str(path), hint="free space or choose another -o"
        ) from error


def save_graph(graph: Graph, path: Path | str) -> None:
    """Write a graph to `path` (.mcc) and its constants to the .safetensors of the same name.

    The constants are renamed into place first, so that a graph never stands without them.
    """
    path = Path(path)
    tensors = {name: value.detach().contiguous().clone() for name, value in text_constants(graph).items()}
    write_beside(path.with_suffix(".safetensors"), lambda p: save_file(tensors, p))
    write_beside(path, lambda p: p.write_text(print_graph(graph), encoding="utf-8"))


def load_graph(path: Path | str) -> Graph:
    """Read a graph written by `save_graph`. Raises GraphError naming the file and line."""
    path = Path(path)
    beside = path.with_suffix(".safetensors")
    try:
        text = path.read_text(encoding="utf-8")
        tensors = load_file(beside) if beside.exists() else {}
    except (OSError, UnicodeDecodeError, SafetensorError, ValueError) as error:
        raise GraphError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
    return parse_graph(text, tensors, where=str(path))

"""Reading and writing of graph files.

`x.mcc` holds the text form of a graph, `x.safetensors` beside it the constants.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mcc.errors import GraphError, UnsupportedError
from mcc.files import readable_file, write_beside, write_text
from mcc.ir.graph import Graph
from mcc.ir.limits import check_count, check_graph
from mcc.ir.text import parse_graph, print_graph, text_constants

# A node takes about 150 bytes of text: the limit is a hundred times the largest networks.
MAX_TEXT_BYTES = 64 << 20

SAID = "# mcc "
"""Prefix of a comment with a key and JSON: data of a network outside its graph."""


def save_graph(graph: Graph, path: Path | str, said: Mapping[str, Any] | None = None) -> None:
    """Write a graph to `path` (.mcc) and its constants to the .safetensors of the same name.

    Args:
        said: JSON values by name that `said_with` reads back, e.g. the preprocessing of the network.

    The constants are renamed into place first, so that a graph never exists without them.
    """
    path = Path(path)
    tensors = {name: value.detach().contiguous().clone() for name, value in text_constants(graph).items()}
    write_beside(path.with_suffix(".safetensors"), lambda p: save_file(tensors, p))
    notes = [f"{SAID}{key} {json.dumps(value)}\n" for key, value in (said or {}).items()]
    text = print_graph(graph) + "".join(notes)
    write_text(path, text)


def said_with(path: Path | str) -> dict[str, Any]:
    """The values that `save_graph` stored with the graph; lines that cannot be parsed are skipped.

    Raises GraphError naming the file if it cannot be read.
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
        GraphError: The file cannot be read; the message names the file and line.
        UnsupportedError: The graph exceeds the limits of `mcc.ir.limits`, or has NaN or infinite weights.
    """
    path = readable_file(path, at_most_bytes=MAX_TEXT_BYTES, raising=GraphError)
    beside = path.with_suffix(".safetensors")
    try:
        text = path.read_text(encoding="utf-8")
        tensors = load_file(readable_file(beside, raising=GraphError)) if beside.exists() else {}
    except (OSError, UnicodeDecodeError, SafetensorError, ValueError) as error:
        raise GraphError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
    try:
        check_count(text.count("\n"), "lines")
        return check_graph(parse_graph(text, tensors, where=str(path)))
    except UnsupportedError as error:
        error.where = f"{path}: {error.where}"
        raise

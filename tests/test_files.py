"""Which files are opened at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mcc.errors import DataError, GraphError, MccError, UsageError
from mcc.files import readable_file
from mcc.ir.storage import load_graph


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _loop(path: Path) -> None:
    path.symlink_to(path)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (_pipe, "is a named pipe, not a file"),
    "folder": (_folder, "is a folder, not a file"),
    "device": (_device, "is a device, not a file"),
    "socket": (_socket, "is a socket, not a file"),
    "loop": (_loop, "cannot be read"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_unopened(kind: str, tmp_path: Path) -> None:
    make, sentence = SPECIAL[kind]
    make(path := tmp_path / "x.mcc")
    for read in (readable_file, load_graph):
        with pytest.raises(MccError, match=sentence) as caught:
            read(path)
        assert caught.value.where == str(path)


def test_the_constants_of_a_graph_must_be_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "x.mcc").write_text("mcc 1\n")
    _pipe(tmp_path / "x.safetensors")
    with pytest.raises(GraphError, match="named pipe"):
        load_graph(tmp_path / "x.mcc")


def test_a_regular_file_passes_through_links_up_to_its_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert readable_file(tmp_path / "link", at_most_bytes=5) == tmp_path / "link"
    with pytest.raises(DataError, match="holds 5 bytes, more than the 4"):
        readable_file(tmp_path / "link", at_most_bytes=4)


def test_an_absent_file_is_an_error_of_the_kind_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; check it"):
        readable_file(tmp_path / "x", hint="check it", raising=UsageError)
    with pytest.raises(DataError, match="cannot be read"):
        readable_file("a\0b")

"""adb's file service: stat, push and pull. Source: SYNC.TXT in the sources of adb."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Protocol

from tests.runtime.stand_in.messages import Stream

CHUNK = 64 * 1024
STAT2 = struct.Struct("<4sIQQIIIIQqqq")  # id, error, device, inode, mode, links, uid, gid, size, three times


class Trouble(Protocol):
    corrupt: bool


class Disk(Protocol):
    """What the service writes to."""

    trouble: Trouble

    def local(self, path: str) -> Path: ...

    def take(self, count: int) -> None:
        """Use that many bytes; OSError when the disk is full."""


def serve(stream: Stream, disk: Disk) -> None:
    """Answer requests until the client quits."""
    while True:
        name, count = struct.unpack("<4sI", stream.read(8))
        if name == b"QUIT":
            return
        argument = stream.read(count).decode()
        if name == b"STAT":
            stream.write(_stat(disk.local(argument)))
        elif name in (b"STA2", b"LST2"):
            stream.write(_stat2(name, disk.local(argument)))
        elif name == b"SEND":
            _receive_file(stream, disk, argument)
        elif name == b"RECV":
            _send_file(stream, disk.local(argument))
        else:
            _fail(stream, f"unknown request {name!r}")
            return


def _stat(path: Path) -> bytes:
    """Mode, size and time; zeros where there is no such file."""
    try:
        found = path.lstat()
    except OSError:
        return struct.pack("<4s3I", b"STAT", 0, 0, 0)
    return struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def _stat2(name: bytes, path: Path) -> bytes:
    """The same with 64-bit sizes and the reason why there is none."""
    try:
        f = path.stat() if name == b"STA2" else path.lstat()
    except OSError as error:
        return STAT2.pack(name, error.errno or 0, *(0,) * 10)
    times = int(f.st_atime), int(f.st_mtime), int(f.st_ctime)
    return STAT2.pack(
        name, 0, f.st_dev, f.st_ino, f.st_mode, f.st_nlink, f.st_uid, f.st_gid, f.st_size, *times
    )


def _receive_file(stream: Stream, disk: Disk, argument: str) -> None:
    """A pushed file: `path,mode`, chunks, and the time of its last change."""
    name, mode = argument.rsplit(",", 1)
    path, trouble = disk.local(name), ""
    parts = bytearray()
    while True:
        kind, count = struct.unpack("<4sI", stream.read(8))
        if kind == b"DONE":
            break
        data = stream.read(count)
        try:
            disk.take(len(data))
        except OSError as error:  # the client is told at the end, as by adbd; what it sends is drained
            trouble = trouble or os.strerror(error.errno or 0)
        parts += data
    if disk.trouble.corrupt:
        parts[-1] ^= 1
    if not trouble:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(parts)
            path.chmod(int(mode) & 0o777)
        except OSError as error:
            trouble = os.strerror(error.errno or 0)
    if trouble:
        _fail(stream, f"couldn't write {name}: {trouble}")
    else:
        stream.write(struct.pack("<4sI", b"OKAY", 0))


def _send_file(stream: Stream, path: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        _fail(stream, f"open failed: {os.strerror(error.errno or 0)}")
        return
    for begin in range(0, len(data), CHUNK):
        part = data[begin : begin + CHUNK]
        stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
    stream.write(struct.pack("<4sI", b"DONE", 0))


def _fail(stream: Stream, why: str) -> None:
    text = why.encode()
    stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)

"""adb's shell service, version 2: standard streams kept apart, and the exit status at the end.

byte kind | uint32 bytes | bytes       kinds: 0 input, 1 output, 2 errors, 3 exit status, 4 end of input
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO

from tests.runtime.stand_in.messages import Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


def serve(stream: Stream, command: Sequence[str], started: Callable[[subprocess.Popen[bytes]], None]) -> None:
    """Run a program on the streams of the client; it dies with the connection.

    Args:
        started: called with the process, which leads a group of its own.
    """
    process = subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    pumps = [
        threading.Thread(target=_pump, args=(stream, kind, source), daemon=True)
        for kind, source in ((STDOUT, process.stdout), (STDERR, process.stderr))
    ]
    for pump in pumps:
        pump.start()
    threading.Thread(target=_feed, args=(stream, process, process.stdin), daemon=True).start()
    started(process)
    for pump in pumps:
        pump.join()
    status = process.wait()
    process.stdout.close()
    process.stderr.close()
    status = status if status >= 0 else 0x80 | -status  # as adbd reports a signal
    if not stream.closed.is_set():
        stream.write(_packet(EXIT, bytes([status])))


def _packet(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


def _pump(stream: Stream, kind: int, source: BinaryIO) -> None:
    while data := os.read(source.fileno(), 32 * 1024):
        try:
            stream.write(_packet(kind, data))
        except EOFError:
            return


def _feed(stream: Stream, process: subprocess.Popen[bytes], sink: BinaryIO) -> None:
    """Hand the client's input to the process; end the process when the connection is gone."""
    try:
        while True:
            kind, count = struct.unpack("<BI", stream.read(5))
            data = stream.read(count)
            if kind == CLOSE_STDIN:
                sink.close()
            elif kind == STDIN:
                sink.write(data)
                sink.flush()
    except (EOFError, OSError, ValueError):
        kill(process)
        with suppress(OSError):  # the process is gone, and what was meant for it with it
            sink.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

"""adb's transport: messages of a 24-byte header and a payload, and the streams that they carry.

    uint32 command | uint32 arg0 | uint32 arg1 | uint32 bytes | uint32 sum of the bytes | uint32 ~command

A stream is opened by the client (OPEN), carries writes (WRTE) that are acknowledged one by one (OKAY), and is
closed by either side (CLSE). Source: the protocol description in the sources of adb (protocol.txt).
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass

HEADER = struct.Struct("<6I")
VERSION = 0x01000001  # from here on neither side checks the sums
MAX_PAYLOAD = 256 * 1024


def code(name: bytes) -> int:
    """A command's name of four letters as the integer on the wire."""
    return int.from_bytes(name, "little")


@dataclass(frozen=True)
class Message:
    name: bytes
    arg0: int = 0
    arg1: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        head = code(self.name)
        return HEADER.pack(
            head, self.arg0, self.arg1, len(self.payload), sum(self.payload) & 0xFFFFFFFF, head ^ 0xFFFFFFFF
        ) + self.payload  # fmt: skip


class Transport:
    """One connection with an adb client."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        with self._sending:
            self._connection.sendall(message.encode())

    def receive(self) -> Message:
        """The next message; EOFError when the client is gone, ValueError for what is no message."""
        command, arg0, arg1, count, _, magic = HEADER.unpack(self._exactly(HEADER.size))
        if command ^ 0xFFFFFFFF != magic or count > MAX_PAYLOAD:
            raise ValueError(f"no message of adb: {command:08x} with {count} bytes")
        return Message(command.to_bytes(4, "little"), arg0, arg1, self._exactly(count))

    def close(self) -> None:
        """Drop the connection, as a pulled cable does."""
        with suppress(OSError):  # the client was faster
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._connection.recv(count - len(parts))
            except OSError as error:
                raise EOFError from error
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)


class Stream:
    """One service that a client has opened: bytes in, bytes out.

    Args:
        mine, theirs: numbers of the stream on both sides.
    """

    def __init__(self, transport: Transport, mine: int, theirs: int) -> None:
        self._transport, self.mine, self.theirs = transport, mine, theirs
        self._incoming: queue.Queue[bytes] = queue.Queue()
        self._buffer = b""
        self._acknowledged = threading.Semaphore(0)
        self.closed = threading.Event()

    def arrived(self, message: Message) -> None:
        """Take a message of this stream from the transport's thread."""
        if message.name == b"WRTE":
            self._incoming.put(message.payload)
        elif message.name == b"OKAY":
            self._acknowledged.release()
        else:
            self.hang_up()

    def hang_up(self) -> None:
        """The other side is gone: wake all readers and writers."""
        self.closed.set()
        self._incoming.put(b"")
        self._acknowledged.release()

    def accept(self) -> None:
        """Tell the client that the service is open."""
        self._transport.send(Message(b"OKAY", self.mine, self.theirs))

    def read(self, count: int) -> bytes:
        """Exactly that many bytes; EOFError at the end of the stream."""
        while len(self._buffer) < count:
            part = self._incoming.get()
            if not part:
                raise EOFError
            self._transport.send(Message(b"OKAY", self.mine, self.theirs))
            self._buffer += part
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def write(self, data: bytes) -> None:
        """Send bytes, waiting for each acknowledgement; EOFError when the client has closed the stream."""
        for begin in range(0, len(data), MAX_PAYLOAD):
            if self.closed.is_set():
                raise EOFError
            part = data[begin : begin + MAX_PAYLOAD]
            self._transport.send(Message(b"WRTE", self.mine, self.theirs, part))
            self._acknowledged.acquire()

    def close(self) -> None:
        """End the stream from this side."""
        if not self.closed.is_set():
            self.closed.set()
            self._transport.send(Message(b"CLSE", self.mine, self.theirs))

"""The phone's side of adb (adbd) on a loopback port."""

from __future__ import annotations

import itertools
import secrets
import socket
import threading
from contextlib import suppress
from typing import Literal

from tests.runtime.stand_in import shell, sync
from tests.runtime.stand_in.messages import MAX_PAYLOAD, VERSION, Message, Stream, Transport
from tests.runtime.stand_in.phone import Phone

Manners = Literal["open", "asks", "refuses", "silent"]
"""Lets everybody in; asks for a key and takes it; asks, and nobody taps Allow; never says a word."""
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_KEY = 1, 2, 3
FEATURES = "shell_v2,cmd,stat_v2"


class AdbServer:
    """Serves one phone until `close()`; its serial for adb is `127.0.0.1:PORT`."""

    def __init__(self, phone: Phone, manners: Manners = "open") -> None:
        self.phone, self._manners = phone, manners
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._transports: list[Transport] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def unplug(self) -> None:
        """Drop every connection and take no more, as a pulled cable does."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()

    close = unplug

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = Transport(connection)
            self._transports.append(transport)
            threading.Thread(target=self._serve, args=(transport,), daemon=True).start()

    def _serve(self, transport: Transport) -> None:
        streams: dict[int, Stream] = {}
        numbers = itertools.count(1)
        try:
            while True:
                message = transport.receive()
                if message.name in (b"CNXN", b"AUTH"):
                    self._greet(transport, message)
                elif message.name == b"OPEN":
                    stream = Stream(transport, next(numbers), message.arg0)
                    streams[stream.mine] = stream
                    service = message.payload.rstrip(b"\0").decode()
                    threading.Thread(target=self._open, args=(stream, service), daemon=True).start()
                elif message.arg1 in streams:
                    streams[message.arg1].arrived(message)
        except (EOFError, OSError, ValueError):
            transport.close()
            for stream in streams.values():
                stream.hang_up()

    def _greet(self, transport: Transport, message: Message) -> None:
        if self._manners == "silent" or (self._manners == "refuses" and message.arg0 == AUTH_KEY):
            return
        welcome = self._manners == "open" or (message.name == b"AUTH" and message.arg0 == AUTH_KEY)
        if not welcome or self._manners == "refuses":
            # A fresh token for each signature that is not trusted; the client then offers its public key.
            transport.send(Message(b"AUTH", AUTH_TOKEN, 0, secrets.token_bytes(20)))
            return
        about = ";".join(f"{key}={self.phone.properties[key]}" for key in self.phone.ANNOUNCED)
        banner = f"device::{about};features={FEATURES}".encode()
        transport.send(Message(b"CNXN", VERSION, MAX_PAYLOAD, banner))

    def _open(self, stream: Stream, service: str) -> None:
        name, _, argument = service.partition(":")
        with suppress(EOFError, OSError):
            if name == "sync":
                stream.accept()
                sync.serve(stream, self.phone)
            elif name.split(",")[0] == "shell" and "v2" in name.split(","):
                stream.accept()
                trouble = self.phone.trouble
                shell.serve(
                    stream,
                    self.phone.command(argument),
                    lambda process: trouble.strike(argument, process, self.unplug),
                )
            stream.close()

"""HTTP server on the loopback interface for one cross-origin isolated page and its messages."""

from __future__ import annotations

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote

WEB = Path(__file__).parent / "web"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",  # required by browsers for compilation while streaming
    ".json": "application/json",
    ".css": "text/css",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer:
    """Serves a folder, allowed files, one request and its answer. Use it in a `with` statement.

    Args:
        folder: Folder that is served.
        secret: First part of every path, to exclude other users of the machine.

    Attributes:
        request: Message returned for `GET request`.
    """

    def __init__(self, folder: Path, secret: str) -> None:
        self.request = b""
        self._folder, self._secret = folder.resolve(), secret
        self._allowed: set[str] = set()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Address of the folder, with a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}/{self._secret}/"

    def allow(self, file: str) -> None:
        """Serve this file for `GET file?PATH`."""
        self._allowed.add(file)

    def take_answer(self) -> bytes:
        """The message last posted to `answer`. Raises RuntimeError if there is none."""
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            raise RuntimeError("the page gave no answer") from None

    def find(self, path: str) -> tuple[bytes, str] | None:
        """Content and media type for the path of a GET request; None if not found."""
        start = f"/{self._secret}/"
        if not path.startswith(start):
            return None
        name, _, query = path.removeprefix(start).partition("?")
        if name == "request":
            return self.request, "application/octet-stream"
        if name == "file":
            wanted = unquote(query)
            if wanted not in self._allowed or not Path(wanted).is_file():
                return None
            return Path(wanted).read_bytes(), "application/octet-stream"
        file = self._folder / unquote(name)
        if ".." in file.parts or not file.is_relative_to(self._folder) or not file.is_file():
            return None
        return file.read_bytes(), KINDS.get(file.suffix, "application/octet-stream")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = server.find(self.path)
                self._send(404, b"nothing here", "text/plain") if found is None else self._send(200, *found)

            def do_POST(self) -> None:
                if self.path != f"/{server._secret}/answer":
                    return self._send(404, b"nothing here", "text/plain")
                server._answers.put(self.rfile.read(int(self.headers["Content-Length"])))
                return self._send(200, b"", "text/plain")

            def _send(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                for key, value in {**ISOLATION, "Content-Type": kind, "Content-Length": len(content)}.items():
                    self.send_header(key, str(value))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing: standard error is for errors."""

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

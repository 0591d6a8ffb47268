"""The runner of `litert-web:chromium`: a headless browser with one page, controlled by messages of `wire.py`.

    python -m mcc.runtime.browser /usr/bin/chromium

Playwright starts the system's browser; the page (`web/browser.html`) comes from a server on the loopback
interface, under an address with a secret. The server sends the two headers that make a page cross-origin
isolated: this is required for a clock resolution of 5 microseconds instead of 100.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from typing import TYPE_CHECKING, BinaryIO

from mcc.runtime.page_server import WEB, PageServer
from mcc.runtime.wire import PREFIX, Header

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Chromium lowers the priority of pages in the background, and may throttle them.
FLAGS = ("--disable-background-timer-throttling", "--disable-renderer-backgrounding")


class BrowserRunner:
    """Answers requests in a page of a running browser.

    Args:
        browser: Running browser.
        server: Server of the page, closed by its creator.
    """

    def __init__(self, browser: Browser, server: PageServer) -> None:
        self._server = server
        self._page: Page = browser.new_page()
        self._page.goto(server.address + "browser.html")
        isolated = self._page.evaluate("globalThis.ready")
        if not isolated:
            raise RuntimeError("the page is not cross-origin isolated, so that its clock is too coarse")

    def answer(self, header: Header, message: bytes) -> bytes:
        """The answer to one request, both as raw messages."""
        if "file" in header:
            self._server.allow(str(header["file"]))
        self._server.request = message
        self._page.evaluate("answerRequest()")  # raises if the page crashes
        return self._server.take_answer()


def header_of(message: bytes) -> Header:
    """The header of a whole message."""
    head_bytes, _ = PREFIX.unpack(message[: PREFIX.size])
    return json.loads(message[PREFIX.size : PREFIX.size + head_bytes])


def read_whole(source: BinaryIO) -> bytes | None:
    """The next raw message; None at the end of the stream."""
    prefix = source.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    rest = source.read(sum(PREFIX.unpack(prefix)))
    return prefix + rest


def serve(program: str, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests in a browser until `source` ends."""
    from playwright.sync_api import sync_playwright

    # No sandbox: root has none, and the page is part of mcc; a file is trusted as by any other target.
    with (
        PageServer(WEB, secrets.token_urlsafe(16)) as server,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=list(FLAGS)) as browser,
    ):
        runner = BrowserRunner(browser, server)
        while (message := read_whole(source)) is not None:
            sink.write(runner.answer(header_of(message), message))
            sink.flush()


def main() -> None:
    """Serve with the browser named on the command line; a failure is one line on standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of a library must not corrupt the messages
    try:
        serve(sys.argv[1], os.fdopen(os.dup(0), "rb"), sink)
    except Exception as error:
        sys.exit((str(error).splitlines() or [type(error).__name__])[0])


if __name__ == "__main__":
    main()

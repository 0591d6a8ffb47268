"""The runner of `litert-web:chromium`: a headless browser with one page, behind the messages of `wire.py`.

    python -m mcc.runtime.browser /usr/bin/chromium

Playwright starts the system's browser; the page (`web/browser.html`) comes from a server on the loopback
interface, under an address that holds a secret. The server sends the two headers that make a page
cross-origin isolated: only there is the browser's clock fine enough (5 microseconds in place of 100).
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

# Chromium lowers the priority of what nobody looks at, and may throttle it.
FLAGS = ("--disable-background-timer-throttling", "--disable-renderer-backgrounding")


class BrowserRunner:
    """Answers requests in a page of a running browser.

    Args:
        browser: running.
        server: serves the page; ends with its creator.
    """

    def __init__(self, browser: Browser, server: PageServer) -> None:
        self._server = server
        self._page: Page = browser.new_page()
        self._page.goto(server.address + "browser.html")
        isolated = self._page.evaluate("globalThis.ready")
        if not isolated:
            raise RuntimeError("the page is not cross-origin isolated, so that its clock is too coarse")

    def answer(self, header: Header, message: bytes) -> bytes:
        """The answer to one request, both as messages."""
        if "file" in header:
            self._server.allow(str(header["file"]))
        self._server.request = message
        self._page.evaluate("answerRequest()")  # raises where the page crashes
        return self._server.take_answer()


def header_of(message: bytes) -> Header:
    """The header of a whole message."""
    head_bytes, _ = PREFIX.unpack(message[: PREFIX.size])
    return json.loads(message[PREFIX.size : PREFIX.size + head_bytes])


def read_whole(source: BinaryIO) -> bytes | None:
    """The next message as it stands; None at the end of the stream."""
    prefix = source.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    rest = source.read(sum(PREFIX.unpack(prefix)))
    return prefix + rest


def serve(program: str, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests in a browser until `source` ends."""
    from playwright.sync_api import sync_playwright

    # No sandbox: as root there is none, and the page is ours; a file is trusted as in any other target.
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
    """Serve with the browser named on the command line; one line on standard error where that fails."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not disturb the messages
    try:
        serve(sys.argv[1], os.fdopen(os.dup(0), "rb"), sink)
    except Exception as error:
        sys.exit((str(error).splitlines() or [type(error).__name__])[0])


if __name__ == "__main__":
    main()

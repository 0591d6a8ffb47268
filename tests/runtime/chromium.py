"""A page in the browser that `litert-web:chromium` uses, for tests that look at what a person would see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mcc.runtime.litert_web import GET_BROWSER, find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page


@contextmanager
def opened(address: str) -> Iterator[Page]:
    """A page at an address; what goes wrong in it fails the test. No browser is a failure, never a skip."""
    from playwright.sync_api import sync_playwright

    program = find_browser()
    assert program is not None, f"Chromium is not installed; {GET_BROWSER}"
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        yield page
        assert errors == []

"""A headless Chromium for the pages that the program writes: the one of the system, by playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


class NoBrowserError(Exception):
    """There is no Chromium, or no playwright; the message says which."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window.

    Raises:
        NoBrowserError: it is not there.
    """
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        raise NoBrowserError("there is no Chromium (Debian: apt install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowserError("the Python package playwright is not installed") from error
    # root may start it without its sandbox only; the pages are our own
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()

"""A headless Chromium for tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Sound may play without a click; in a container, the browser cannot make a sandbox of its own; and
# a GPU that is simulated would take most of the time.
OPTIONS = ["--autoplay-policy=no-user-gesture-required", "--no-sandbox", "--disable-gpu"]


@contextmanager
def open_browser() -> Iterator["Browser"]:
    """Start the browser that CHROMIUM names, else one on PATH or one that Playwright installed.

    Without any, or without Playwright, the test is skipped.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        path = path or playwright.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("needs Chromium: install it, or name it with the variable CHROMIUM")
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        try:
            yield browser
        finally:
            browser.close()

"""Chromium for screenshots of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium. Requires a font with emoji for pages that show them (fonts-noto-color-emoji)."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit(
            "Cannot take screenshots: chromium is not in PATH. Install it (apt install chromium)."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        try:
            yield browser
        finally:
            browser.close()


def part(page: Page, selector: str, edge: int = 14) -> bytes:
    """Take a screenshot of one element with a margin of ``edge`` pixels."""
    box = page.locator(selector).bounding_box()  # relative to the window, which the page may have scrolled
    assert box is not None
    left, top = page.evaluate("[scrollX, scrollY]")
    clip = {"x": box["x"] + left - edge, "y": box["y"] + top - edge}
    clip |= {"width": box["width"] + 2 * edge, "height": box["height"] + 2 * edge}
    return page.screenshot(full_page=True, clip=clip)

"""Screenshots of ``reward-core app``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .browser import chromium, part
from .record import save_png

SIZES = {"app.png": (1280, 900), "app-phone.png": (390, 844)}


@contextmanager
def app_server() -> Iterator[str]:
    """Start the app with the bundled models and return its address."""
    command = [sys.executable, "-m", "reward_core", "app", "--model", "tiny", "--model", "tiny-judge"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        yield next(match[0] for line in server.stderr if (match := re.search(r"http://\S+", line)))
    finally:
        server.terminate()
        server.wait()


def make() -> dict[str, list[str]]:
    """Draw app.png, app-phone.png and ranked.png, five cards of the page."""
    images = []
    with app_server() as address, chromium() as browser:
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.locator("#rc-example").click()
            page.locator("#rc-results .rc-card").nth(7).wait_for()
            page.wait_for_timeout(500)  # the fade-in
            images.append(save_png(page.screenshot(full_page=True), name))
            if name == "app.png":
                last = "document.querySelectorAll('.rc-card').forEach(c => c.dataset.place > 5 && c.remove())"
                page.evaluate(last)
                images.append(save_png(part(page, "#rc-results .rc-prompt"), "ranked.png"))
            page.close()
    return {"images": images}

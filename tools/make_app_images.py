"""Take the screenshots of `reward-core app` for the docs.

python tools/make_app_images.py --out docs      # writes app.png, app-phone.png, ranked.png

Requires the extra `app`, the package playwright and Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="default: chromium in PATH")
    args = parser.parse_args()
    command = [sys.executable, "-m", "reward_core", "app", "--model", "tiny", "--second-model", "tiny-judge"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(match[0] for line in server.stderr if (match := re.search(r"http://\S+", line)))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=FLAGS.split())
            for name, width, height in (("app.png", 1280, 900), ("app-phone.png", 390, 844)):
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(address)
                page.locator("#rc-example").click()
                page.locator("#rc-results .rc-card").nth(7).wait_for()
                page.wait_for_timeout(500)  # wait for the fade-in
                save(page.screenshot(full_page=True), args.out / name)
                if width == 1280:
                    save(first_five(page), args.out / "ranked.png")
                page.close()
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def first_five(page) -> bytes:
    """Take a screenshot of the five best images, without the rest of the page."""
    page.evaluate("document.querySelectorAll('.rc-card').forEach(c => c.dataset.place > 5 && c.remove())")
    box = page.locator("#rc-results .rc-prompt").bounding_box()
    edge = 14
    clip = {"x": box["x"] - edge, "y": box["y"] - edge}
    clip |= {"width": box["width"] + 2 * edge, "height": box["height"] + 2 * edge}
    return page.screenshot(full_page=True, clip=clip)


def save(shot: bytes, path: Path) -> None:
    Image.open(BytesIO(shot)).convert("RGB").save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

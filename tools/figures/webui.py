"""Screenshots of the extension in Stable Diffusion WebUI Forge, which draws ShapesBench images.

Install Forge and the extension. Copy webui_checkpoint.py to extensions/shapes/scripts in its folder, put any
file named shapes.safetensors into models/Stable-diffusion, and start Forge with --always-cpu --no-hashing.
Then: WEBUI=http://127.0.0.1:7860 hatch run figures webui
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page

from .browser import chromium
from .record import save_png

PROMPT = "a purple square below a small yellow circle"
SCRIPT = "#script_txt2img_imagereward__generate_human_preference_scores_"
NUMBERS = {"width": 64, "height": 64, "batch_count": 2, "batch_size": 2}
SIZE = {"width": 1280, "height": 1180}


def make() -> dict[str, Any]:
    """Draw webui_scored.png, webui_filtered.png and webui_pnginfo.png of the WebUI at $WEBUI."""
    address = os.environ.get("WEBUI")
    if not address:
        raise SystemExit(
            "Cannot draw the WebUI: WEBUI is not set. Start a WebUI as tools/figures/webui.py says."
        )
    images = []
    with chromium() as browser:
        page = browser.new_page(viewport=SIZE)
        page.goto(f"{address}/?__theme=light")
        page.wait_for_timeout(10_000)  # until its scripts have set the defaults
        page.locator("#txt2img_prompt textarea").fill(PROMPT)
        for name, value in NUMBERS.items():
            fill(page, f"#txt2img_{name} input[type=number]", value)
        fill(page, "#txt2img_seed input", 1)
        page.locator(f"{SCRIPT}accordion .label-wrap").click()
        page.locator(f"{SCRIPT}enable input").check()
        fill(page, f"{SCRIPT}model input", "tiny")
        text = generate(page, "best of this run")
        line = re.findall(r"ImageReward Score: (.*) \(best of this run", text)[-1]
        scores = [float(score) for score in line.split(",")]
        thumbnails = page.locator("#txt2img_gallery .thumbnails button")
        thumbnails.nth(thumbnails.count() - len(scores) + scores.index(max(scores))).click()
        page.wait_for_timeout(2000)
        images.append(save_png(page.screenshot(full_page=True), "integrations/webui_scored.png"))
        source = page.locator("#txt2img_gallery .preview img, #txt2img_gallery button img").first
        best = page.request.get(source.get_attribute("src") or "").body()
        page.locator(f"{SCRIPT}filter input").check()
        fill(page, f"{SCRIPT}limit input", 99)
        generate(page, "filtered out")
        images.append(save_png(page.screenshot(full_page=True), "integrations/webui_filtered.png"))
        images.append(png_info(page, best))
    return {"images": images, "prompt": PROMPT, "scores": scores}


def fill(page: Page, selector: str, value: object) -> None:
    page.locator(selector).first.fill(str(value))
    page.keyboard.press("Tab")


def generate(page: Page, expected: str) -> str:
    """Press Generate and return the text below the gallery, which must contain ``expected``."""
    page.locator("#txt2img_generate").click()
    page.locator("#txt2img_results", has_text=expected).wait_for(timeout=180_000)
    page.wait_for_timeout(2000)
    return page.locator("#txt2img_results").inner_text()


def png_info(page: Page, image: bytes) -> str:
    """Draw the tab PNG Info with a saved file."""
    page.get_by_role("tab", name="PNG Info").click()
    with TemporaryDirectory() as folder:
        file = Path(folder, "00003.png")
        file.write_bytes(image)
        page.locator("#pnginfo_image input[type=file]").set_input_files(str(file))
        page.get_by_text("ImageReward Score").last.wait_for()
        page.wait_for_timeout(1000)
    return save_png(page.screenshot(full_page=True), "integrations/webui_pnginfo.png")

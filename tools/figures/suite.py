"""ShapesBench as a suite of reward-benchmark: its numbers, and a screenshot of its report."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from .browser import chromium
from .record import run_python, save_png

WIDTH, HEIGHT = 1200, 2480  # of the screenshot; the page is longer


def make() -> dict[str, Any]:
    """Run the suite with all 100 prompts, then draw shapes_report.png."""
    with tempfile.TemporaryDirectory() as folder:
        run = ("-m", "reward_benchmark", "run", "shapes", "--out", folder)
        summary = json.loads(run_python(*run, "--json"))
        run_python("-m", "reward_benchmark", "report", folder, "--html")
        with chromium() as browser:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(next(Path(folder).rglob("report.html")).as_uri())
            page.wait_for_timeout(500)
            images = [save_png(page.screenshot(), "shapes_report.png")]
    renderers, groups = summary["parts"]
    return {
        "images": images,
        "prompts": renderers["prompts"],
        "spearman": {name: list(row["spearman"].values()) for name, row in renderers["scorers"].items()},
        "groups": groups["prompts"],
        "accuracy": {name: row["pooled_accuracy"] for name, row in groups["scorers"].items()},
    }

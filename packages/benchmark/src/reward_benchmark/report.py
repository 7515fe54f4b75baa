"""One self-contained HTML page of a run: tables, charts, and the images where people would rather look."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from reward_core.errors import CheckpointError, ImageError, InputError
from reward_core.files.atomic_write import write_text
from reward_core.files.json_file import read_json
from reward_core.inputs.image_file import open_image
from reward_core.printing.escapes import printable

from .charts import agreement_chart, distribution_chart
from .metrics.preference import pairs_right
from .run import GROUPS_FILE, MARKDOWN_FILE, SCORES_FILE, SUMMARY_FILE, report_markdown
from .score_store import Key, Score, read_store
from .tables import tables_of

HTML_FILE = "report.html"
THUMBNAIL = 128  # pixels
DISAGREEMENTS = 6  # groups shown a scorer


def run_folders(path: Path) -> list[Path]:
    """The folders of runs at or right below ``path``.

    Raises:
        InputError: there is none.
    """
    folders = [p for p in (path, *sorted(path.glob("*"))) if (p / SUMMARY_FILE).is_file()]
    if not folders:
        raise InputError(
            f"{path}: no {SUMMARY_FILE} here or one folder below; `reward-benchmark run` writes it"
        )
    return folders


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a run."""
    try:
        return read_json(folder / SUMMARY_FILE)
    except CheckpointError as error:
        raise InputError(str(error)) from error


def write_reports(folder: Path, html: bool) -> list[Path]:
    """report.md, and report.html if asked for; returns their paths."""
    summary = read_summary(folder)
    write_text(folder / MARKDOWN_FILE, report_markdown(summary))
    written = [folder / MARKDOWN_FILE]
    if html:
        write_text(folder / HTML_FILE, _page(folder, summary))
        written.append(folder / HTML_FILE)
    return written


def _page(folder: Path, summary: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    rows = read_store(folder / SCORES_FILE)
    groups = json.loads((folder / GROUPS_FILE).read_text(encoding="utf-8"))
    parts = []
    for part in summary["parts"]:
        own = [group for group in groups if group["part"] == part["name"]]
        scorers = list(part["scorers"])
        generators = part["kind"] == "generators"
        parts.append(
            {
                "title": part["title"],
                "tables": list(tables_of(part)),
                "distributions": distribution_chart(_distributions(part, own, rows)),
                "agreement": agreement_chart(scorers, part["agreement"]),
                "strips": _strips(part, own, rows) if generators else [],
                "disagreements": [] if generators else _disagreements(scorers, own, rows),
                "revision": part["revision"],
            }
        )
    environment = Environment(loader=PackageLoader("reward_benchmark"), autoescape=True, finalize=_shown_text)
    return environment.get_template("report.html").render(summary=summary, parts=parts)


def _shown_text(value: Any) -> Any:
    """Texts with control characters as escapes; markup and numbers as they are. Jinja escapes the rest."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _score(rows: dict[Key, Score], part: str, scorer: str, name: str) -> float | None:
    row = rows.get((part, scorer, name))
    return None if row is None else row.score


def _distributions(
    part: dict[str, Any], groups: list[dict], rows: dict[Key, Score]
) -> dict[str, dict[str, list]]:
    """scorer -> generator (or "all") -> scores."""
    found: dict[str, dict[str, list]] = {}
    for scorer in part["scorers"]:
        by_label = found.setdefault(scorer, {})
        for group in groups:
            label = group["generator"] or "all"
            scores = (_score(rows, part["name"], scorer, name) for name in group["names"])
            by_label.setdefault(label, []).extend(s for s in scores if s is not None)
    return found


def _strips(part: dict[str, Any], groups: list[dict], rows: dict[Key, Score]) -> list[dict[str, Any]]:
    """Each generator's best and worst images for the first scorer but reference and random."""
    scorers = [name for name in part["scorers"] if name not in (part["judge"], "random")] or list(
        part["scorers"]
    )
    strips = []
    for generator in part["reference"]:
        scored = [
            (score, name, image, group["prompt"])
            for group in groups
            if group["generator"] == generator
            for name, image in zip(group["names"], group["images"])
            if (score := _score(rows, part["name"], scorers[0], name)) is not None
        ]
        scored.sort(key=lambda item: item[:2], reverse=True)
        ends = [("best", scored[:4]), ("worst", scored[-4:])]
        images = [
            (kind, *_shown(image, f"{score:.3f}", prompt))
            for kind, some in ends
            for score, _, image, prompt in some
        ]
        strips.append({"generator": generator, "scorer": scorers[0], "pictures": images})
    return strips


def _disagreements(scorers: list[str], groups: list[dict], rows: dict[Key, Score]) -> list[dict[str, Any]]:
    """For each scorer the groups in which it orders the largest share of people's pairs wrongly."""
    found = []
    for scorer in (name for name in scorers if name != "random"):
        wrong = []
        for group in groups:
            scores = [_score(rows, group["part"], scorer, name) for name in group["names"]]
            right, pairs = pairs_right(group["places"], scores)
            if pairs >= 3 and right < pairs:
                wrong.append((right / pairs, -pairs, group["id"], group, scores))
        for share, pairs, _, group, scores in sorted(wrong, key=lambda item: item[:3])[:DISAGREEMENTS]:
            order = np.argsort(group["places"], kind="stable")
            images = [
                (
                    "",
                    *_shown(
                        group["images"][i], f"{group['places'][i]}. | {_number(scores[i])}", group["prompt"]
                    ),
                )
                for i in order
            ]
            found.append(
                {
                    "scorer": scorer,
                    "prompt": group["prompt"],
                    "told": f"{round(share * -pairs)} of {-pairs} pairs right",
                    "pictures": images,
                }
            )
    return found


def _number(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def _shown(image: str, caption: str, prompt: str) -> tuple[str | None, str, str]:
    """(data address or None, caption, prompt) of an image, made small."""
    try:
        opened_image = open_image(image).convert("RGB")
    except (ImageError, ValueError):
        return None, caption, prompt
    opened_image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = BytesIO()
    opened_image.save(data, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode(), caption, prompt

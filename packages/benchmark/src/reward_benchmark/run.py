"""A whole run: images, scores, tables, files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reward_core.errors import CheckpointError, InputError
from reward_core.files.atomic_write import write_text
from reward_core.files.json_file import read_json
from reward_core.printing.escapes import markdown_text

from .score_store import ScoreStore
from .score_suite import score_suite
from .scorers import load_bundle
from .suites import SUITES, Part, SuiteOptions, build_suite
from .summary import environment, summarize
from .tables import markdown, tables_of

SCORES_FILE, SUMMARY_FILE, SETTINGS_FILE = "scores.jsonl", "summary.json", "run.json"
MARKDOWN_FILE, GROUPS_FILE = "report.md", "groups.json"


@dataclass(frozen=True)
class RunConfig:
    """What to run. out: the folder that gets a folder per suite. devices: comma-separated, None the best."""

    suite: str
    out: Path
    data: Path | None = None
    scorers: tuple[str, ...] | None = None
    generators: tuple[str, ...] = ("default",)
    limit: int | None = None
    device: str | None = None
    precision: str = "exact"
    batch_size: int | None = None
    offline: bool = False


def run(config: RunConfig) -> dict[str, Any]:
    """Do what is not done yet of a run; returns the summary, which lies in ``out/SUITE/summary.json``.

    Raises:
        InputError: an unknown name, nothing that could be scored, or a folder with scores of another kind.
        HubError, CheckpointError: data or a model that cannot be had.
    """
    if config.suite not in SUITES:
        raise InputError(f"unknown suite {config.suite!r}; known are {', '.join(SUITES)}")
    folder = config.out / config.suite
    folder.mkdir(parents=True, exist_ok=True)
    data = (config.data or folder / "data").resolve()
    options = SuiteOptions(data, config.limit, config.generators, config.offline)
    with ScoreStore(folder / SCORES_FILE) as store:
        _check_settings(folder, {"precision": config.precision, "data": str(data)}, bool(store.rows))
        parts = build_suite(config.suite, options)
        scorers = list(dict.fromkeys(config.scorers or SUITES[config.suite]))
        for part in parts:
            if part.reference_scorer and part.reference_scorer not in scorers:
                scorers.insert(0, part.reference_scorer)  # without it there is nothing to compare with
        load = partial(load_bundle, precision=config.precision, offline=config.offline)
        devices = config.device.split(",") if config.device else [None]
        score_suite(parts, scorers, store, load, devices, config.batch_size)
        rows = dict(store.rows)
    try:
        tables = summarize(parts, scorers, rows)
    except ValueError as error:
        raise InputError(f"{config.suite}: {error}") from error
    summary = {
        "suite": config.suite,
        "limit": config.limit,
        "data": str(data),
        "environment": environment(config.device, config.precision),
        "parts": tables,
    }
    write_text(folder / GROUPS_FILE, json.dumps(_groups(parts), ensure_ascii=False))
    write_text(folder / SUMMARY_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / MARKDOWN_FILE, report_markdown(summary))
    return summary


def report_markdown(summary: dict[str, Any]) -> str:
    """The summary as one Markdown document."""
    lines = [f"# {markdown_text(summary['suite'])}", ""]
    for part in summary["parts"]:
        lines += [markdown(table) for table in tables_of(part)]
    lines += ["### Environment", ""]
    lines += [
        f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in summary["environment"].items()
    ]
    lines += [
        f"- data of {markdown_text(part['title'])}: {markdown_text(part['revision'])}"
        for part in summary["parts"]
    ]
    return "\n".join(lines) + "\n"


def _groups(parts: list[Part]) -> list[dict[str, Any]]:
    """What a report needs to know of the images, so that it can be made without the suite."""
    return [
        {
            "part": part.name,
            "id": group.id,
            "prompt": group.prompt,
            "generator": group.generator,
            "places": group.ranks,
            "names": group.names,
            "images": [str(image) for image in group.images],
        }
        for part in parts
        for group in part.groups
    ]


def _check_settings(folder: Path, settings: dict[str, str], has_rows: bool) -> None:
    """Scores of one folder are of one kind: refuse to mix them with others."""
    path = folder / SETTINGS_FILE
    if has_rows and path.is_file():
        try:
            before = read_json(path)
        except CheckpointError as error:
            raise InputError(str(error)) from error
        for key, value in settings.items():
            if before.get(key) != value:
                raise InputError(
                    f"{folder} holds scores with {key} {before.get(key)!r}, now {value!r} is asked for; "
                    "give another --out"
                )
    write_text(path, json.dumps(settings, indent=1) + "\n")

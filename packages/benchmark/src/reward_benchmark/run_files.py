"""The files of a run: summary.json, groups.json, run.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from reward_core.errors import InputError
from reward_core.files.atomic_write import write_text
from reward_core.files.format_version import FORMAT_VERSION
from reward_core.files.json_file import read_json, write_json

from .json_record import CURRENT_FORMAT, JsonObject, JsonRecord, SchemaError, check_format, key
from .results import SuiteSummary
from .suites.base import Part

SCORES_FILE, SUMMARY_FILE, SETTINGS_FILE = "scores.jsonl", "summary.json", "run.json"
MARKDOWN_FILE, GROUPS_FILE, HTML_FILE = "report.md", "groups.json", "report.html"
LOCK_FILE = ".benchmark.lock"
RUN_AGAIN = "Run `reward-benchmark run` with the same options again."

T = TypeVar("T")


@dataclass(frozen=True)
class ReportGroup(JsonRecord):
    """The data of a group that a report needs."""

    part: str
    id: str
    prompt: str
    generator: str | None
    ranks: tuple[int, ...] | None = field(metadata=key("places"))
    names: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class ReportGroups(JsonRecord):
    """The content of groups.json."""

    groups: tuple[ReportGroup, ...]

    def to_json(self) -> JsonObject:
        return {FORMAT_VERSION: CURRENT_FORMAT, **super().to_json()}


@dataclass(frozen=True)
class RunSettings(JsonRecord):
    """Settings that all scores of a folder share."""

    precision: str
    data: str
    judge: str | None = None  # served model, template and server of VLM judges

    def to_json(self) -> JsonObject:
        return {FORMAT_VERSION: CURRENT_FORMAT, **super().to_json()}


def run_folders(path: Path) -> list[Path]:
    """Return the folders of runs: ``path`` itself and its subfolders.

    Raises:
        InputError: none of them has a summary.json.
    """
    folders = [p for p in (path, *sorted(path.glob("*"))) if (p / SUMMARY_FILE).is_file()]
    if not folders:
        raise InputError(
            f"Cannot find a run in '{path}': it has no {SUMMARY_FILE}, nor has any of its subfolders. Create "
            "one with `reward-benchmark run`."
        )
    return folders


def read_summary(folder: Path) -> SuiteSummary:
    """Read summary.json of a run.

    Raises:
        InputError: the file cannot be read, has another format version or an invalid value.
    """
    return _read(folder / SUMMARY_FILE, SuiteSummary.from_json, RUN_AGAIN)


def write_summary(folder: Path, summary: SuiteSummary) -> None:
    """Write summary.json."""
    write_json(folder / SUMMARY_FILE, summary.to_json())


def read_groups(folder: Path) -> tuple[ReportGroup, ...]:
    """Read groups.json of a run. Raises InputError like ``read_summary``."""
    return _read(folder / GROUPS_FILE, ReportGroups.from_json, RUN_AGAIN).groups


def write_groups(folder: Path, parts: Sequence[Part]) -> None:
    """Write groups.json."""
    groups = tuple(
        ReportGroup(
            part=part.name,
            id=group.id,
            prompt=group.prompt,
            generator=group.generator,
            ranks=group.ranks,
            names=group.names,
            images=tuple(str(image) for image in group.images),
        )
        for part in parts
        for group in part.groups
    )
    write_text(folder / GROUPS_FILE, json.dumps(ReportGroups(groups).to_json(), ensure_ascii=False))


def check_settings(folder: Path, settings: RunSettings, has_scores: bool) -> None:
    """Write run.json, unless the folder has scores of other settings.

    Raises:
        InputError: the folder has scores of other settings.
    """
    path = folder / SETTINGS_FILE
    if has_scores and path.is_file():
        advice = f"Remove the folder {str(folder)!r} to score again, or give another --out."
        before = asdict(_read(path, RunSettings.from_json, advice))
        for name, value in asdict(settings).items():
            if before[name] != value:
                raise InputError(
                    f"Cannot resume the run in '{folder}': its scores have {name} {before[name]!r}, not "
                    f"{value!r}. Run it with the same options, or give another --out."
                )
    write_json(path, settings.to_json())


def _read(path: Path, decode: Callable[[object], T], what_to_do: str) -> T:
    document = check_format(read_json(path, error=InputError), path, what_to_do)
    try:
        return decode(document)
    except SchemaError as error:
        raise InputError(f"Cannot read '{path}': {error}. {what_to_do}") from error

"""The prepared folder: one writer at a time, one source, every file whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError
from ..files.atomic_write import sync_disk
from ..files.format_version import FORMAT_VERSION, check_format_version
from ..files.full_disk import raise_if_full
from ..files.json_file import read_json, write_json
from ..rankings import SPLITS, ImageReport, RankedPrompt, untied_pairs, write_rankings

SOURCE_FILE = "source.json"  # where the data comes from; written before any of it
SUMMARY_FILE = "prepared.json"  # figures; written when all the rest is there
SKIPPED_FILE = "skipped.json"
CURRENT_FORMAT = 1


@dataclass(frozen=True)
class SplitFigures:
    """untied_pairs: comparisons. skipped: images that cannot be read. dropped: prompts left with fewer than
    two images; neither is counted among the others.
    """

    prompts: int
    pictures: int
    untied_pairs: int
    skipped: int
    dropped: int


@dataclass(frozen=True)
class Prepared:
    """What a folder was filled with. skipped: the file that lists what was left out."""

    folder: Path
    skipped: Path
    splits: dict[str, SplitFigures]

    def to_dict(self) -> dict[str, Any]:
        splits = {name: asdict(figures) for name, figures in self.splits.items()}
        return {"folder": str(self.folder), "skipped": str(self.skipped), "splits": splits}


@contextmanager
def preparing(out: Path, source: Mapping[str, Any]) -> Iterator[None]:
    """``out`` for this process alone, and for this source alone.

    Raises:
        InputError: another process is at work there, or it holds something else. DiskFullError.
    """
    from filelock import FileLock, Timeout

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is no folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".prepare.lock", timeout=0):
            for leftover in out.glob(".*.tmp"):  # of a killed process
                leftover.unlink()
            _claim(out, source)
            yield
    except Timeout as error:
        raise InputError(f"{out}: another `reward-core prepare` is at work there") from error
    except OSError as error:
        raise_if_full(error, out)
        raise


def _claim(out: Path, source: Mapping[str, Any]) -> None:
    """Note the source in the folder, unless it holds another one's data."""
    file = out / SOURCE_FILE
    if file.is_file():
        try:
            found = read_json(file)
        except CheckpointError as error:
            raise InputError(f"{error}; give another folder") from error
        advice = "Choose another folder, or remove this one."
        check_format_version(found, CURRENT_FORMAT, file, advice, InputError)
        found.pop(FORMAT_VERSION, None)
        if found != source:
            raise InputError(f"{out}: was prepared from another source ({found}); give another folder")
        return
    foreign = [f"{name}.json" for name in SPLITS if (out / f"{name}.json").exists()]
    if foreign:
        raise InputError(f"{out}: holds {', '.join(foreign)} of unknown origin; give another folder")
    write_json(file, {FORMAT_VERSION: CURRENT_FORMAT, **source})


def write_folder(
    out: Path, splits: Mapping[str, tuple[list[RankedPrompt], ImageReport]], details: Mapping[str, Any]
) -> Prepared:
    """Write the lists, then the splits, then the figures; what the splits no longer hold is removed."""
    left_out = {
        "skipped": [
            {"split": name, **entry} for name, (_, r) in splits.items() for entry in r.to_dict()["skipped"]
        ],
        "dropped": [
            {"split": name, **entry} for name, (_, r) in splits.items() for entry in r.to_dict()["dropped"]
        ],
    }
    (out / SUMMARY_FILE).unlink(missing_ok=True)
    sync_disk()  # the images before the rankings that name them
    write_json(out / SKIPPED_FILE, left_out)
    figures = {}
    for name in SPLITS:
        file = out / f"{name}.json"
        if name not in splits or not splits[name][0]:
            file.unlink(missing_ok=True)
            continue
        data, report = splits[name]
        write_rankings(file, data)
        figures[name] = SplitFigures(
            prompts=len(data),
            pictures=sum(len(item.images) for item in data),
            untied_pairs=sum(untied_pairs(item.ranks) for item in data),
            skipped=len(report.skipped),
            dropped=len(report.dropped),
        )
    prepared = Prepared(out, out / SKIPPED_FILE, figures)
    write_json(
        out / SUMMARY_FILE,
        {FORMAT_VERSION: CURRENT_FORMAT, **details, "splits": prepared.to_dict()["splits"]},
    )
    return prepared

"""Write a prepared folder: locked against other writers, from one source, with atomic files."""

from __future__ import annotations

import os
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

SOURCE_FILE = "source.json"  # source of the data; written first
SUMMARY_FILE = "prepared.json"  # counts; written last
SKIPPED_FILE = "skipped.json"
CURRENT_FORMAT = 1


@dataclass(frozen=True)
class SplitFigures:
    """The counts of one split.

    Attributes:
        prompts: groups.
        pictures: images in all groups.
        untied_pairs: comparisons.
        skipped: images that cannot be read; not counted in pictures.
        dropped: groups left with fewer than two images; not counted in prompts.
    """

    prompts: int
    pictures: int
    untied_pairs: int
    skipped: int
    dropped: int


@dataclass(frozen=True)
class Prepared:
    """A prepared folder.

    Attributes:
        folder: the folder.
        skipped: the file that lists the images and groups that were left out.
        splits: counts by split.
    """

    folder: Path
    skipped: Path
    splits: dict[str, SplitFigures]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        splits = {name: asdict(figures) for name, figures in self.splits.items()}
        return {"folder": str(self.folder), "skipped": str(self.skipped), "splits": splits}


@contextmanager
def preparing(out: Path, source: Mapping[str, Any]) -> Iterator[None]:
    """Create and lock a folder for one process and one source.

    A new folder does not keep its source if the work fails before it writes anything.

    Args:
        out: the folder.
        source: description of the source; it must be the same in later runs.

    Raises:
        InputError: another process is using the folder, or it has data of another source.
        DiskFullError: the disk is full.
    """
    from filelock import FileLock, Timeout

    if out.exists() and not out.is_dir():
        raise InputError(f"Cannot write into '{out}': not a folder. Choose another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".prepare.lock", timeout=0):
            for leftover in out.glob(".*.tmp"):  # from a killed process
                leftover.unlink()
            before = set(os.listdir(out))
            _claim(out, source)
            try:
                yield
            except BaseException:
                if set(os.listdir(out)) - before == {SOURCE_FILE}:  # nothing was written from this source
                    (out / SOURCE_FILE).unlink()
                raise
    except Timeout as error:
        raise InputError(
            f"Cannot write into '{out}': another `reward-core prepare` is using it. Wait until it finishes."
        ) from error
    except OSError as error:
        raise_if_full(error, out)
        raise


def _claim(out: Path, source: Mapping[str, Any]) -> None:
    """Write the source into the folder, or check that the folder has the same source."""
    file = out / SOURCE_FILE
    if file.is_file():
        try:
            previous = read_json(file)
        except CheckpointError as error:
            raise InputError(f"{str(error).rstrip('.')}. Choose another folder.") from error
        advice = "Choose another folder, or remove this one."
        check_format_version(previous, CURRENT_FORMAT, file, advice, InputError)
        previous.pop(FORMAT_VERSION, None)
        if previous != source:
            raise InputError(
                f"Cannot write into '{out}': it was prepared from another source ({previous}). Choose "
                "another folder."
            )
        return
    unknown = [f"{name}.json" for name in SPLITS if (out / f"{name}.json").exists()]
    if unknown:
        raise InputError(
            f"Cannot write into '{out}': it has {', '.join(unknown)} from an unknown source. Choose another "
            "folder."
        )
    write_json(file, {FORMAT_VERSION: CURRENT_FORMAT, **source})


def write_folder(
    out: Path, splits: Mapping[str, tuple[list[RankedPrompt], ImageReport]], details: Mapping[str, Any]
) -> Prepared:
    """Write the list of skipped images, then the splits, then the counts; remove files of empty splits.

    Args:
        out: the folder.
        splits: data and report of each split.
        details: values to add to the summary file.
    """
    left_out = {
        "skipped": [
            {"split": name, **entry} for name, (_, r) in splits.items() for entry in r.to_dict()["skipped"]
        ],
        "dropped": [
            {"split": name, **entry} for name, (_, r) in splits.items() for entry in r.to_dict()["dropped"]
        ],
    }
    (out / SUMMARY_FILE).unlink(missing_ok=True)
    sync_disk()  # images must be on disk before the rankings that refer to them
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

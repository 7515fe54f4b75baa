"""Download, verify, unpack and check ImageRewardDB zip by zip.

A killed run resumes with the same command: a zip is downloaded under a temporary name and unpacked to a
temporary folder with a record file, which is renamed when it is complete; only then the zip is removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataWarning, HubError, InputError
from ..files.json_file import read_json, write_json
from ..files.zip_file import remove_leftovers, unzip
from ..hub.dataset_files import RepoFile, RepoListing, fetch_verified, list_dataset
from ..rankings import SPLITS, ImageReport, RankedPrompt
from ..rankings.check import drop_broken, find_broken
from ..rankings.imagerewarddb import METADATA, read_imagerewarddb
from ..runs.caller_warning import warn_caller
from ..runs.progress import unpacking
from .folder import Prepared, preparing, write_folder
from .space import check_space, gigabytes

REPO, FORMER_REPO = "zai-org/ImageRewardDB", "THUDM/ImageRewardDB"
#: Number of training zips of each subset. Inferred from the published sizes, so _check_count verifies it.
SUBSETS = {"1k": 4, "2k": 8, "4k": 16, "8k": 32}
RECORD = ".prepared.json"
_LISTING = ".listing.json"
_TEXTS = {".json", ".txt", ".md"}

Say = Callable[[str], None]


def prepare_imagerewarddb(
    out: Path,
    subset: str,
    *,
    download_root: Path | None = None,
    keep_zips: bool = False,
    revision: str | None = None,
    say: Say = lambda line: None,
) -> Prepared:
    """Prepare a subset of ImageRewardDB's training data and all its validation and test data.

    Args:
        out: the folder to write.
        subset: a key of SUBSETS. A larger subset in the same folder downloads only the additional zips.
        download_root: folder for downloads, with the same tree as on the hub. Intact files in it are reused
            and kept. By default a folder in ``out``, from which zips are removed after unpacking.
        keep_zips: keep the downloaded zips.
        revision: branch, tag or commit (default: main at the time of the first call).
        say: called with progress messages.

    Raises:
        InputError: the subset is unknown, or the folder cannot be used.
        HubError: a download failed.
        DiskFullError: there is too little disk space.

    Warns:
        DataWarning: the number of prompts is not about that of the subset's name.
    """
    if subset not in SUBSETS:
        raise InputError(
            f"Cannot prepare the subset {subset!r}: unknown. Choose one of {', '.join(SUBSETS)}."
        )
    with preparing(out, {"data": "ImageRewardDB", "revision": revision}):
        listing = _pinned_listing(out, revision)
        metadata = {split: _file(listing, METADATA.format(split)) for split in SPLITS}
        zips = {split: _zips(listing, split) for split in SPLITS}
        if len(zips["train"]) < SUBSETS[subset]:
            raise HubError(
                f"Cannot prepare subset {subset}: it needs {SUBSETS[subset]} training zips, but "
                f"{listing.repo_id} has {len(zips['train'])}."
            )
        zips["train"] = zips["train"][: SUBSETS[subset]]
        for split in SPLITS:
            remove_leftovers(out / "images" / split)
        remaining = [file for files in zips.values() for file in files if not _is_done(out, file)]
        root = download_root or out / "downloads"
        remove_zips = not keep_zips and download_root is None
        _check_disk_space(out, root, [*metadata.values()], remaining, remove_zips, say)
        tables = {split: fetch_verified(listing, file, root) for split, file in metadata.items()}
        for n, file in enumerate(remaining, 1):
            say(f"{file.path} ({gigabytes(file.size)}), {n} of {len(remaining)}")
            _unpack(out, file, fetch_verified(listing, file, root))
            if remove_zips:
                (root / file.path).unlink()
        splits = {split: _read(out, split, tables[split], zips[split]) for split in SPLITS}
        _check_count(splits["train"][0], splits["train"][1], subset)
        details = {"data": listing.repo_id, "commit": listing.commit, "subset": subset}
        return write_folder(out, splits, details)


def _pinned_listing(out: Path, revision: str | None) -> RepoListing:
    """Return the hub's list of files, stored at the first call so that all data is from one commit."""
    path = out / _LISTING
    if not path.is_file():
        write_json(path, list_dataset((REPO, FORMER_REPO), revision).to_dict())
    try:
        return RepoListing.from_dict(read_json(path))
    except (CheckpointError, KeyError, TypeError) as error:
        raise InputError(
            f"Cannot read '{path}': invalid content ({error}). Remove it and run again."
        ) from error


def _file(listing: RepoListing, path: str) -> RepoFile:
    if path not in listing.files:
        raise HubError(f"Cannot download '{path}': {listing.repo_id} does not have it.")
    return listing.files[path]


def _zips(listing: RepoListing, split: str) -> list[RepoFile]:
    """Return the zips of a split in order of their numbers."""
    numbered = [
        (int(m[1]), file)
        for path, file in listing.files.items()
        if (m := re.fullmatch(rf"images/{split}/{split}_(\d+)\.zip", path))
    ]
    if not numbered:
        raise HubError(f"Cannot download the {split} images: {listing.repo_id} has no {split}_*.zip.")
    return [file for _, file in sorted(numbered, key=lambda item: item[0])]


def _folder(out: Path, file: RepoFile) -> Path:
    return out / Path(file.path).with_suffix("")


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / RECORD)
    except CheckpointError:
        return None


def _is_done(out: Path, file: RepoFile) -> bool:
    """Return whether a zip is unpacked; a folder of another commit is removed.

    Raises:
        InputError: the folder exists but was not unpacked by ``prepare``.
    """
    folder = _folder(out, file)
    if not folder.exists():
        return False
    record = _record(folder)
    if record is None:
        raise InputError(
            f"Cannot unpack into '{folder}': it exists but was not created by `reward-core prepare`. Move it."
        )
    if record["checksum"] == file.checksum:
        return True
    folder.rename(folder.with_name(f".unpacking-old-{folder.name}"))
    remove_leftovers(folder.parent)
    return False


def _check_disk_space(
    out: Path,
    root: Path,
    metadata: Sequence[RepoFile],
    zips: Sequence[RepoFile],
    remove_zips: bool,
    say: Say,
) -> None:
    """Report the size of the downloads; raise DiskFullError if there is too little disk space."""
    downloads = [file for file in (*metadata, *zips) if not (root / file.path).is_file()]
    size = sum(file.size for file in downloads)
    if not size and not zips:
        return
    # Zipping hardly compresses images; unpacked files also waste part of their last disk block.
    unpacked = int(1.05 * sum(file.size for file in zips))
    peak = max((file.size for file in downloads), default=0) if remove_zips else size
    say(f"to download: {gigabytes(size)} in {len(downloads)} files; to unpack: {len(zips)} zips")
    say(check_space({out: unpacked, root: peak}))


def _unpack(out: Path, file: RepoFile, path: Path) -> None:
    def check_unpacked(folder: Path) -> None:
        images = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix.lower() not in _TEXTS]
        broken = {Path(name).name: reason for name, reason in find_broken(images).items()}
        write_json(folder / RECORD, {"zip": file.path, "checksum": file.checksum, "broken": broken})

    unzip(path, _folder(out, file), check_unpacked, unpacking(path.name))


def _read(
    out: Path, split: str, table: Path, zips: Sequence[RepoFile]
) -> tuple[list[RankedPrompt], ImageReport]:
    folders = [_folder(out, file) for file in zips]
    data = read_imagerewarddb(table, out, split, only={folder.name for folder in folders})
    broken: dict[str, str] = {}
    present: set[str] = set()
    for folder in folders:
        reasons = (_record(folder) or {}).get("broken", {})
        broken |= {str(folder / name): reason for name, reason in reasons.items()}
        present |= {str(folder / name) for name in os.listdir(folder)}
    for item in data:
        for image in item.images:
            if str(image) not in present:
                broken[str(image)] = "no such file in the zip"
    return drop_broken(data, broken)


def _check_count(data: Sequence[RankedPrompt], report: ImageReport, subset: str) -> None:
    count, expected = len(data) + len(report.dropped), 1000 * int(subset[:-1])
    if abs(count - expected) > 0.02 * expected:
        message = (
            f"the first {SUBSETS[subset]} training zips have {count:,} prompts, but subset {subset} should "
            f"have about {expected:,}. The zips of a subset are inferred from their sizes; report the number "
            "of prompts with your results"
        )
        warn_caller(message, DataWarning)

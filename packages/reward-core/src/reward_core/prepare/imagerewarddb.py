"""ImageRewardDB from the hub: fetched, compared, unpacked and looked through, zip by zip.

Killed at any moment, the same command goes on: a zip is fetched under a temporary name, its folder appears
with a record of it inside, and only then the zip goes.
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
#: Training zips of each subset, the first ones. Inferred from the published sizes, hence _check_count.
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
    """Fill ``out`` with a subset of ImageRewardDB's training data and all its validation and test data.

    Args:
        subset: a key of SUBSETS. A larger one later in the same folder fetches only what it adds.
        download_root: where the hub's files go, in the hub's own tree; by default a folder in ``out`` that is
            emptied as they are unpacked. Files there that are whole are used and kept, others fetched anew.
        keep_zips: leave the zips where they were fetched.
        revision: branch, tag or commit; by default main as it is at the first call.
        say: takes lines about what is going on.

    Raises:
        InputError, HubError, DiskFullError.

    Warns:
        DataWarning: the subset holds another number of prompts than its name says.
    """
    if subset not in SUBSETS:
        raise InputError(f"no subset {subset!r}; there are {', '.join(SUBSETS)}")
    with preparing(out, {"data": "ImageRewardDB", "revision": revision}):
        listing = _pinned_listing(out, revision)
        metadata = {split: _file(listing, METADATA.format(split)) for split in SPLITS}
        zips = {split: _zips(listing, split) for split in SPLITS}
        if len(zips["train"]) < SUBSETS[subset]:
            raise HubError(f"{listing.repo_id} holds {len(zips['train'])} training zips; {subset} needs more")
        zips["train"] = zips["train"][: SUBSETS[subset]]
        for split in SPLITS:
            remove_leftovers(out / "images" / split)
        left = [file for some in zips.values() for file in some if not _is_done(out, file)]
        root = download_root or out / "downloads"
        removing = not keep_zips and download_root is None
        _check_room(out, root, [*metadata.values()], left, removing, say)
        tables = {split: fetch_verified(listing, file, root) for split, file in metadata.items()}
        for n, file in enumerate(left, 1):
            say(f"{file.path} ({gigabytes(file.size)}), {n} of {len(left)}")
            _unpack(out, file, fetch_verified(listing, file, root))
            if removing:
                (root / file.path).unlink()
        splits = {split: _read(out, split, tables[split], zips[split]) for split in SPLITS}
        _check_count(splits["train"][0], splits["train"][1], subset)
        details = {"data": listing.repo_id, "commit": listing.commit, "subset": subset}
        return write_folder(out, splits, details)


def _pinned_listing(out: Path, revision: str | None) -> RepoListing:
    """The hub's list of files as it was at the first call, so that a folder holds one commit's data."""
    path = out / _LISTING
    if not path.is_file():
        write_json(path, list_dataset((REPO, FORMER_REPO), revision).to_dict())
    try:
        return RepoListing.from_dict(read_json(path))
    except (CheckpointError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not as expected ({error}); remove it and run again") from error


def _file(listing: RepoListing, path: str) -> RepoFile:
    if path not in listing.files:
        raise HubError(f"{listing.repo_id} holds no {path}")
    return listing.files[path]


def _zips(listing: RepoListing, split: str) -> list[RepoFile]:
    """The zips of a split by their numbers."""
    numbered = [
        (int(m[1]), file)
        for path, file in listing.files.items()
        if (m := re.fullmatch(rf"images/{split}/{split}_(\d+)\.zip", path))
    ]
    if not numbered:
        raise HubError(f"{listing.repo_id} holds no images/{split}/{split}_*.zip")
    return [file for _, file in sorted(numbered, key=lambda item: item[0])]


def _folder(out: Path, file: RepoFile) -> Path:
    return out / Path(file.path).with_suffix("")


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / RECORD)
    except CheckpointError:
        return None


def _is_done(out: Path, file: RepoFile) -> bool:
    """Whether the zip's folder is there; one of another commit is put out of the way.

    Raises:
        InputError: a folder of that name that was not unpacked here.
    """
    folder = _folder(out, file)
    if not folder.exists():
        return False
    record = _record(folder)
    if record is None:
        raise InputError(f"{folder}: was not unpacked by `reward-core prepare`; move it away")
    if record["checksum"] == file.checksum:
        return True
    folder.rename(folder.with_name(f".unpacking-old-{folder.name}"))
    remove_leftovers(folder.parent)
    return False


def _check_room(
    out: Path, root: Path, metadata: Sequence[RepoFile], zips: Sequence[RepoFile], removing: bool, say: Say
) -> None:
    """Say what is to come; raise DiskFullError if there is no room for it."""
    coming = [file for file in (*metadata, *zips) if not (root / file.path).is_file()]
    fetched = sum(file.size for file in coming)
    if not fetched and not zips:
        return
    # Images hardly shrink in a zip; each file also fills its last block.
    unpacked = int(1.05 * sum(file.size for file in zips))
    peak = max((file.size for file in coming), default=0) if removing else fetched
    say(f"to fetch: {gigabytes(fetched)} in {len(coming)} files; to unpack: {len(zips)} zips")
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
    found, named = len(data) + len(report.dropped), 1000 * int(subset[:-1])
    if abs(found - named) > 0.02 * named:
        message = (
            f"the first {SUBSETS[subset]} training zips hold {found:,} prompts, and {subset} should be about "
            f"{named:,}. Which zips make a subset is inferred from their sizes; say how many prompts you used"
        )
        warn_caller(message, DataWarning)

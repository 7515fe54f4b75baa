"""ImageRewardDB as it lies on the hub: a Parquet file a split, images in zips or unpacked.

metadata-train.parquet   image_path, prompt_id, prompt, ..., rank (1 is best): a row an image
images/train/train_1.zip, or the folder images/train/train_1 with its images
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataWarning, InputError
from ..files.zip_file import reading_zip
from ..inputs.image_file import ImageSource
from ..runs.caller_warning import warn_caller
from .forms import group_rows
from .ranked_prompt import RankedPrompt
from .stored_images import ZippedImage
from .table_reader import Rows, read_rows

METADATA = "metadata-{}.parquet"


def read_imagerewarddb(
    metadata: Path,
    folder: Path,
    split: str,
    columns: Mapping[str, str] | None = None,
    only: set[str] | None = None,
) -> list[RankedPrompt]:
    """The prompts of one split. Images whose zip is not there are left out, as a subset has it.

    Args:
        folder: holds ``images/{split}/``.
        only: names of the zips to take, such as "train_1", by default all that are there. With them nothing
            is warned of.

    Raises:
        InputError: no image is there, or the metadata is of another form.

    Warns:
        DataWarning: images were left out.
    """
    index = _ImageIndex(folder, split, only)
    rows = read_rows(metadata)
    numbered = list(rows.rows)
    rank = (columns or {}).get("rank", "rank")
    unranked = [i for i, row in numbered if rank in row and row[rank] is None]
    if unranked:
        numbered = [(i, row) for i, row in numbered if row[rank] is not None]
        message = (
            f"{metadata}: {len(unranked):,} images have no rank and are left out, such as row {unranked[0]}"
        )
        warn_caller(message, DataWarning)
    data = group_rows(Rows(rows.name, rows.unit, rows.columns, numbered), columns, index.find)
    if not data:
        raise InputError(
            f"{metadata}: none of its images is in {folder / 'images' / split}; the zips, or "
            f"folders of their content, were expected there"
        )
    if index.absent and only is None:
        names = sorted(index.absent)
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        message = f"{metadata}: {sum(index.absent.values()):,} of {len(numbered):,} images are left out"
        warn_caller(f"{message}; they are in zips that are not here ({shown})", DataWarning)
    return data


class _ImageIndex:
    """Where the images of a split are. Their file names are unique."""

    def __init__(self, folder: Path, split: str, only: set[str] | None):
        self.folder, self.split = folder, split
        self.absent: Counter[str] = Counter()  # images by the zip that is not here
        self.folders: dict[str, Path] = {}
        self.zips: dict[str, dict[str, ZippedImage]] = {}
        root = folder / "images" / split
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.name.startswith(".") or (only is not None and path.stem not in only):
                continue
            if path.is_dir():
                self.folders[path.name] = path
            elif path.suffix == ".zip" and path.stem not in self.folders:
                self.zips[path.stem] = _members(path)

    def find(self, cell: Any) -> ImageSource | None:
        """The image of a metadata row; one whose zip is here but does not hold it fails when opened."""
        name = PurePosixPath(str(cell).replace("\\", "/"))
        part = name.parent.name
        if part in self.folders:
            return self.folders[part] / name.name
        if part in self.zips:
            missing = ZippedImage(self.folder / "images" / self.split / f"{part}.zip", name.name)
            return self.zips[part].get(name.name, missing)
        if not part.startswith(f"{self.split}_"):
            for members in self.zips.values():
                if name.name in members:
                    return members[name.name]
            for folder in self.folders.values():
                if (folder / name.name).is_file():
                    return folder / name.name
            if not name.is_absolute() and ".." not in name.parts and (self.folder / name).is_file():
                return self.folder / name
        self.absent[part] += 1
        return None


def _members(path: Path) -> dict[str, ZippedImage]:
    with reading_zip(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    return {PurePosixPath(name).name: ZippedImage(path, name) for name in names}

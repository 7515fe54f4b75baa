"""Whether the disks have room for what is to come."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..errors import DiskFullError


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def check_space(needed: Mapping[Path, int]) -> str:
    """A line that tells what is needed and what is free. Folders on one disk are added up.

    Raises:
        DiskFullError: a disk has less than that.
    """
    disks: dict[int, list[Path]] = defaultdict(list)
    for folder in needed:
        disks[os.stat(_existing(folder)).st_dev].append(folder)
    parts = []
    for folders in disks.values():
        size, free = sum(needed[folder] for folder in folders), shutil.disk_usage(_existing(folders[0])).free
        where = " and ".join(map(str, folders))
        if size > free:
            raise DiskFullError(
                f"{where}: about {gigabytes(size)} are needed, {gigabytes(free)} are free. Free some, or "
                f"give a folder on another disk; nothing more was fetched"
            )
        parts.append(f"needed in {where}: about {gigabytes(size)}, free: {gigabytes(free)}")
    return "; ".join(parts)


def _existing(folder: Path) -> Path:
    """The folder, or the closest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder

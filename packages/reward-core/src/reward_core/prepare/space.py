"""Check the free disk space."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..errors import DiskFullError


def gigabytes(size: float) -> str:
    """Format a size in bytes as GB or MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def check_space(needed: Mapping[Path, int]) -> str:
    """Return a message with the needed and the free disk space. Folders on the same disk are summed.

    Args:
        needed: folder -> bytes.

    Raises:
        DiskFullError: a disk has too little space.
    """
    disks: dict[int, list[Path]] = defaultdict(list)
    for folder in needed:
        disks[os.stat(_existing(folder)).st_dev].append(folder)
    parts = []
    for folders in disks.values():
        size, free = sum(needed[folder] for folder in folders), shutil.disk_usage(_existing(folders[0])).free
        names = " and ".join(f"'{folder}'" for folder in folders)
        if size > free:
            raise DiskFullError(
                f"Cannot write into {names}: about {gigabytes(size)} are needed, {gigabytes(free)} are free. "
                "Free some space, or use a folder on another disk."
            )
        parts.append(f"needed in {names}: about {gigabytes(size)}, free: {gigabytes(free)}")
    return "; ".join(parts)


def _existing(folder: Path) -> Path:
    """Return the folder, or its closest parent that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder

"""Zips of images, unpacked safely: whole or not at all, and never outside their folder."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ..errors import InputError

Track: TypeAlias = "Callable[[list[zipfile.ZipInfo]], Generator[zipfile.ZipInfo, None, None]]"

MAX_UNPACKED = 20 * 2**30  # bytes of one zip; the largest published one holds about 1.2 GB
MAX_RATIO = 200  # of a member's size to its packed size; images hardly shrink at all
#: What reading a damaged zip raises.
DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, zlib.error)
_SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".json", ".txt", ".md"}
_UNPACKING = ".unpacking-"


def unzip(
    path: Path, target: Path, finish: Callable[[Path], None] | None = None, track: Track | None = None
) -> None:
    """Unpack images into ``target``, which appears whole or not at all.

    A single folder at the top of the zip is taken for ``target`` itself. Every member's checksum is
    compared.

    Args:
        finish: called with the unpacked folder before it gets its name; what it writes there appears with it.
        track: yields the members it is given and shows progress meanwhile (``runs.progress.unpacking``).

    Raises:
        InputError: damaged (the file is then removed, to be fetched anew), a member that would lie outside
            the folder, a link, or more bytes than images can have.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_UNPACKING}{target.name}-{os.getpid()}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = safe_members(path, archive)
            if sum(m.file_size for m in members) > MAX_UNPACKED:
                raise InputError(f"{path}: would unpack to more than {MAX_UNPACKED:,} bytes; not unpacked")
            with closing((track or _untracked)(members)) as shown:
                for member in shown:
                    destination = temporary / PurePosixPath(member.filename)
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, destination.open("wb") as out:
                        shutil.copyfileobj(source, out)
        entries = list(temporary.iterdir())
        root = entries[0] if len(entries) == 1 and entries[0].name == target.name else temporary
        if finish is not None:
            finish(root)
        os.replace(root, target)
    except DAMAGE as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{path}: damaged ({error}); it was removed, run again to fetch it anew") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _untracked(members: list[zipfile.ZipInfo]) -> Generator[zipfile.ZipInfo, None, None]:
    yield from members


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half unpacked in ``folder``. Only for whoever alone writes there."""
    for leftover in folder.glob(f"{_UNPACKING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def safe_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The images and texts of a zip.

    Raises:
        InputError: there are none, or one of them is not safe to unpack.
    """
    members = [m for m in archive.infolist() if not m.is_dir() and _is_wanted(m)]
    for member in members:
        _check_member(path, member)
    if not members:
        raise InputError(f"{path}: holds no images")
    return members


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    return bool(parts) and "__MACOSX" not in parts and not parts[-1].startswith(".")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise InputError(f"{path}: {member.filename!r} would lie outside the folder; not unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{path}: {member.filename!r} is a link; not unpacked")
    if name.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: {member.filename!r} is no image; not unpacked")
    if member.file_size > 2**20 and member.file_size > MAX_RATIO * max(1, member.compress_size):
        raise InputError(
            f"{path}: {member.filename!r} would unpack to {member.file_size:,} bytes; not unpacked"
        )

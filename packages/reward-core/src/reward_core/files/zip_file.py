"""Zips of images, unpacked safely: whole or not at all, and never outside their folder."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ..errors import InputError, RewardCoreError
from .atomic_write import sync_disk, sync_folder

Track: TypeAlias = "Callable[[list[zipfile.ZipInfo]], Generator[zipfile.ZipInfo, None, None]]"

MAX_UNPACKED = 20 * 2**30  # bytes of one zip; the largest published one holds about 1.2 GB
MAX_RATIO = 200  # of a member's size to its packed size; images hardly shrink at all
MAX_MEMBERS = 1_000_000  # files of one zip; the largest published one has about 16,000
MAX_NAME = 255  # bytes of a file's or folder's name, on every common file system
MAX_PATH = 1024  # bytes of a member's whole path; systems take 4,096 with the target's own path
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
        InputError: the zip is damaged (it is then removed, to be downloaded again), encrypted or packed by an
            unknown method; it has a member that would be outside the folder, a link, a name that cannot be a
            file's, or more bytes than images can have.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_UNPACKING}{target.name}-{os.getpid()}")
    try:
        with reading_zip(path, remove_damaged=True), zipfile.ZipFile(path) as archive:
            members = safe_members(path, archive)
            with closing((track or _untracked)(members)) as shown:
                for member in shown:
                    destination = temporary / PurePosixPath(member.filename)
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, destination.open("wb") as out:
                        shutil.copyfileobj(source, out)
        entries = list(temporary.iterdir())
        nested = len(entries) == 1 and entries[0].name == target.name and entries[0].is_dir()
        root = entries[0] if nested else temporary
        if finish is not None:
            finish(root)
        sync_disk()  # the zip may be removed after this
        os.replace(root, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def reading_zip(path: Path, remove_damaged: bool = False) -> Iterator[None]:
    """Turn whatever reading a zip raises into an InputError that names the zip.

    Errors of the operating system, such as a full disk, stay as they are.

    Args:
        remove_damaged: remove a damaged zip, because it was downloaded and can be downloaded again.
    """
    try:
        yield
    except (RewardCoreError, FileNotFoundError):
        raise
    except (NotImplementedError, RuntimeError, MemoryError) as error:  # a method, a password, a dictionary
        reason = str(error) or "it needs more memory than there is"
        raise InputError(
            f"Cannot unpack '{path}': {reason}. Unpack it with another program, or pack it again with `zip`."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        action = "Get the file again."
        if remove_damaged:
            path.unlink(missing_ok=True)
            action = "It was removed; run the same command to download it again."
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read as a zip, it is damaged: {reason}. {action}") from error


def _untracked(members: list[zipfile.ZipInfo]) -> Generator[zipfile.ZipInfo, None, None]:
    yield from members


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half unpacked in ``folder``. Only for whoever alone writes there."""
    for leftover in folder.glob(f"{_UNPACKING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def safe_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the images and texts of a zip.

    Raises:
        InputError: there are none, or one of them is not safe to unpack.
    """
    members = [m for m in archive.infolist() if not m.is_dir() and _is_wanted(m)]
    if not members:
        raise InputError(f"{path}: holds no images")
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path}: would unpack to {len(members):,} files; not unpacked")
    for member in members:
        _check_member(path, member)
        _check_name(path, member.filename)
    _check_folders(path, [member.filename for member in members])
    if sum(m.file_size for m in members) > MAX_UNPACKED:
        raise InputError(f"{path}: would unpack to more than {MAX_UNPACKED:,} bytes; not unpacked")
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
    if member.flag_bits & 1:
        raise InputError(
            f"Cannot unpack '{path}': {member.filename!r} is encrypted. "
            "Unpack it with its password, or pack it again without one."
        )


def _check_name(path: Path, name: str) -> None:
    """Raise InputError if no file can have this name."""
    try:
        parts = [part.encode() for part in PurePosixPath(name).parts]
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: {name!r} is not a valid name; not unpacked") from error
    if any(len(part) > MAX_NAME for part in parts) or sum(map(len, parts)) + len(parts) > MAX_PATH:
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        raise InputError(
            f"{path}: the name {shown!r} has {len(name.encode()):,} bytes, more than a file's can have "
            f"({MAX_NAME} for each part, {MAX_PATH:,} in all); not unpacked"
        )


def _check_folders(path: Path, names: list[str]) -> None:
    """Raise InputError if a name is a file's and a folder's too, as no file system allows."""
    files = {PurePosixPath(name) for name in names}
    for name in names:
        for parent in PurePosixPath(name).parents:
            if parent in files:
                raise InputError(f"{path}: {str(parent)!r} is a file and a folder at once; not unpacked")

"""Safe and atomic unpacking of zips with images."""

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

MAX_UNPACKED = 20 * 2**30  # bytes of an unpacked zip; the largest published one has about 1.2 GB
MAX_RATIO = 200  # ratio of unpacked to packed size of a member; images hardly shrink
MAX_MEMBERS = 1_000_000  # files in a zip; the largest published one has about 16,000
MAX_NAME = 255  # bytes of a file or folder name, as on every common file system
MAX_PATH = 1024  # bytes of the path of a member; systems allow 4,096 including the path of the target
_SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".json", ".txt", ".md"}
_UNPACKING = ".unpacking-"


def unzip(
    path: Path, target: Path, finish: Callable[[Path], None] | None = None, track: Track | None = None
) -> None:
    """Unpack a zip of images to the folder ``target``, atomically.

    If the zip has a single folder with the name of ``target`` at the top, its content is unpacked. The
    checksum of every member is checked.

    Args:
        path: the zip.
        target: folder to create.
        finish: function that is called with the unpacked folder before it is renamed to ``target``; files
            that it writes there appear together with the images.
        track: function that yields the given members and shows progress (``runs.progress.unpacking``).

    Raises:
        InputError: the zip is damaged (it is then removed, so that it can be downloaded again), encrypted or
            packed by an unknown method; or a member is outside the folder, a link, too large, or has an
            invalid name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_UNPACKING}{target.name}-{os.getpid()}")
    try:
        with reading_zip(path, remove_damaged=True), zipfile.ZipFile(path) as archive:
            members = safe_members(path, archive)
            with closing((track or _untracked)(members)) as tracked:
                for member in tracked:
                    destination = temporary / PurePosixPath(member.filename)
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, destination.open("wb") as out:
                        shutil.copyfileobj(source, out)
        entries = list(temporary.iterdir())
        nested = len(entries) == 1 and entries[0].name == target.name and entries[0].is_dir()
        root = entries[0] if nested else temporary
        if finish is not None:
            finish(root)
        sync_disk()  # the caller may remove the zip after this
        os.replace(root, target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def reading_zip(path: Path, remove_damaged: bool = False) -> Iterator[None]:
    """Convert errors from reading a zip to InputError.

    Errors of the operating system, such as a full disk, are not converted.

    Args:
        path: the zip.
        remove_damaged: remove a damaged zip, because it can be downloaded again.
    """
    try:
        yield
    except (RewardCoreError, FileNotFoundError):
        raise
    except (NotImplementedError, RuntimeError, MemoryError) as error:  # a method, a password, a dictionary
        reason = str(error) or "not enough memory"
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
        raise InputError(
            f"Cannot read '{path}' as a zip: the file is damaged ({reason}). {action}"
        ) from error


def _untracked(members: list[zipfile.ZipInfo]) -> Generator[zipfile.ZipInfo, None, None]:
    yield from members


def remove_leftovers(folder: Path) -> None:
    """Remove partly unpacked folders of killed processes.

    No other process may write to ``folder``.
    """
    for leftover in folder.glob(f"{_UNPACKING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def safe_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the images and text files in a zip.

    Raises:
        InputError: the zip has none, or one of them is not safe to unpack.
    """
    members = [m for m in archive.infolist() if not m.is_dir() and _is_wanted(m)]
    if not members:
        raise InputError(f"Cannot unpack '{path}': it contains no images.")
    if len(members) > MAX_MEMBERS:
        raise InputError(f"Cannot unpack '{path}': it would unpack to {len(members):,} files.")
    for member in members:
        _check_member(path, member)
        _check_name(path, member.filename)
    _check_folders(path, [member.filename for member in members])
    if sum(m.file_size for m in members) > MAX_UNPACKED:
        raise InputError(f"Cannot unpack '{path}': it would unpack to more than {MAX_UNPACKED:,} bytes.")
    return members


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    return bool(parts) and "__MACOSX" not in parts and not parts[-1].startswith(".")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise InputError(f"Cannot unpack '{path}': {member.filename!r} would be outside the folder.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"Cannot unpack '{path}': {member.filename!r} is a link.")
    if name.suffix.lower() not in _SUFFIXES:
        raise InputError(f"Cannot unpack '{path}': {member.filename!r} is not an image.")
    if member.file_size > 2**20 and member.file_size > MAX_RATIO * max(1, member.compress_size):
        raise InputError(
            f"Cannot unpack '{path}': {member.filename!r} would unpack to {member.file_size:,} bytes."
        )
    if member.flag_bits & 1:
        raise InputError(
            f"Cannot unpack '{path}': {member.filename!r} is encrypted. "
            "Unpack it with its password, or pack it again without one."
        )


def _check_name(path: Path, name: str) -> None:
    """Raise InputError if a name is not valid for a file."""
    try:
        parts = [part.encode() for part in PurePosixPath(name).parts]
    except UnicodeEncodeError as error:
        raise InputError(f"Cannot unpack '{path}': {name!r} is not a valid name.") from error
    if any(len(part) > MAX_NAME for part in parts) or sum(map(len, parts)) + len(parts) > MAX_PATH:
        short_name = name if len(name) <= 80 else f"{name[:77]}..."
        raise InputError(
            f"Cannot unpack '{path}': the name {short_name!r} is too long ({len(name.encode()):,} "
            f"bytes; at most {MAX_NAME} for each part and {MAX_PATH:,} in all)."
        )


def _check_folders(path: Path, names: list[str]) -> None:
    """Raise InputError if a file and a folder have the same name."""
    files = {PurePosixPath(name) for name in names}
    for name in names:
        for parent in PurePosixPath(name).parents:
            if parent in files:
                raise InputError(f"Cannot unpack '{path}': {str(parent)!r} is both a file and a folder.")

"""The authors' files: fetched, checked, unpacked safely."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reward_core.errors import HubError, InputError
from reward_core.hub import fetch
from reward_core.registry import HubFile, WebFile

from .progress import bar

REPO, FORMER_REPO = "zai-org/ImageReward", "THUDM/ImageReward"
#: A mirror of raw.githubusercontent.com may be named here.
GITHUB_VARIABLE = "REWARD_BENCHMARK_GITHUB"
GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class TextFile:
    """A JSON file of the authors' source repository. path: in it; sha256: what it must be."""

    path: str
    name: str
    sha256: str

    @property
    def address(self) -> str:
        return f"{os.environ.get(GITHUB_VARIABLE, GITHUB)}/{REPO}/main/{self.path}"


PROMPTS = TextFile(
    "benchmark/benchmark-prompts.json",
    "benchmark-prompts.json",
    "34682e824ebb3ad8e2531b3cde1b362dc72e1e29946ff6fab77bb49e9edb4b21",
)
RANKINGS = TextFile(
    "data/test.json", "test.json", "77cff6c2d0522006f52f0b637ef8302db1782b2b761e378c124a012a3c7fc58e"
)

MAX_UNPACKED = 20 * 2**30  # bytes of one zip; the largest published one holds about 1.2 GB
MAX_RATIO = 200  # of a member's size to its packed size; pictures hardly shrink at all
_SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".json", ".txt", ".md"}


def text_file(file: TextFile, folder: Path, offline: bool) -> Path:
    """The file in ``folder``, fetched and checked if it is not there. One that lies there is the user's own
    choice and is not compared.

    Raises:
        HubError: not there and not to be had, or not what it was.
    """
    path = folder / file.name
    if path.is_file():
        return path
    return fetch(WebFile(file.address, file.name, file.sha256), folder, local_files_only=offline)


def unpacked_zip(name: str, target: Path, downloads: Path, offline: bool) -> Path:
    """The folder ``target`` with the content of the authors' zip ``name``, fetched if it is not there.

    The folder appears whole; the zip is removed once it is unpacked. A broken download goes on where it
    stopped.

    Raises:
        HubError: not there and not to be had. InputError: a zip that is damaged or not safe to unpack.
    """
    if target.is_dir():
        return target
    address = f"https://huggingface.co/{REPO}/resolve/main/{name}"
    try:
        path = fetch(HubFile(REPO, name, fallback_repo_id=FORMER_REPO), downloads, local_files_only=offline)
    except HubError as error:
        raise HubError(f"{target} is missing. It comes from {address}\n{error}") from error
    unzip(path, target)
    path.unlink()
    return target


def unzip(path: Path, target: Path) -> None:
    """Unpack pictures into ``target``, which appears whole or not at all.

    A single folder at the top of the zip is taken for ``target`` itself. Every member's checksum is
    compared.

    Raises:
        InputError: damaged (the file is then removed, to be fetched anew), a member that would lie outside
            the folder, a link, or more bytes than pictures can have.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".unpacking-{target.name}-{os.getpid()}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and _is_wanted(m)]
            for member in members:
                _check_member(path, member)
            if not members:
                raise InputError(f"{path}: holds no pictures")
            if sum(m.file_size for m in members) > MAX_UNPACKED:
                raise InputError(f"{path}: would unpack to more than {MAX_UNPACKED:,} bytes; not unpacked")
            with bar() as shown:
                for member in shown.track(members, description=f"unpacking {path.name}"):
                    place = temporary / PurePosixPath(member.filename)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, place.open("wb") as out:
                        shutil.copyfileobj(source, out)
        entries = list(temporary.iterdir())
        root = entries[0] if len(entries) == 1 and entries[0].name == target.name else temporary
        os.replace(root, target)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, zlib_error()) as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{path}: damaged ({error}); it was removed, run again to fetch it anew") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def zlib_error() -> type[Exception]:
    """What reading a damaged member raises beside zipfile's own errors."""
    import zlib

    return zlib.error


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    return "__MACOSX" not in parts and not parts[-1].startswith(".")


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        raise InputError(f"{path}: {member.filename!r} would lie outside the folder; not unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{path}: {member.filename!r} is a link; not unpacked")
    if name.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: {member.filename!r} is no picture; not unpacked")
    if member.file_size > 2**20 and member.file_size > MAX_RATIO * max(1, member.compress_size):
        raise InputError(
            f"{path}: {member.filename!r} would unpack to {member.file_size:,} bytes; not unpacked"
        )

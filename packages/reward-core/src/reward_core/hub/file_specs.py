"""Specifications of published files: in a repository of the hub, at a URL or in an installed package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub.

    Attributes:
        fallback_repo_id: former name of the repository.
        size: such as "1.79 GB", for messages; empty if unknown.
        sha256: checksum of the content, if known.
        own_folder: put the file into the folder OWNER--NAME of a download folder, because files of other
            repositories have the same name.
    """

    repo_id: str
    filename: str
    revision: str | None = None
    fallback_repo_id: str | None = None
    size: str = ""
    sha256: str | None = None
    own_folder: bool = False

    @property
    def folder(self) -> str:
        """Folder of the file in a download folder; "" for the download folder itself."""
        return self.repo_id.replace("/", "--") if self.own_folder else ""


@dataclass(frozen=True)
class HubPieces(HubFile):
    """Weights that a model repository has as the pieces of one file, and that are converted once.

    Attributes:
        filename: pattern of the pieces, such as "ckpts/split_part_*".
        converted: folder of the converted weights in the folder for downloads.
    """

    converted: str = ""

    def at_revision(self, revision: str | None) -> HubPieces:
        """Return the pieces of a branch, tag or commit, which are converted to a folder of their own."""
        if revision is None:
            return self
        return replace(self, revision=revision, converted=f"{self.converted}@{revision.replace('/', '--')}")


@dataclass(frozen=True)
class WebFile:
    """A file at a URL.

    Attributes:
        max_bytes: largest size to download; None for MAX_DOWNLOAD_BYTES.
        size: such as "1.79 GB", for messages; empty if unknown.
    """

    url: str
    filename: str
    sha256: str | None = None
    max_bytes: int | None = None
    size: str = ""


@dataclass(frozen=True)
class PackageFile:
    """A file that is part of an installed Python package.

    Attributes:
        package: name of the package, such as "reward_core.demo".
        filename: path of the file in the folder of the package.
        size: such as "1.79 GB", for messages; empty if unknown.
    """

    package: str
    filename: str
    size: str = ""


FileSpec: TypeAlias = "HubFile | WebFile | PackageFile"


def is_repo_id(name: str) -> bool:
    """Return whether a name is OWNER/NAME, and not the path of a weights file."""
    is_file_name = name.endswith((".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json"))
    owner, _, rest = name.partition("/")
    return bool(owner and rest) and "/" not in rest and not name.startswith((".", "~")) and not is_file_name

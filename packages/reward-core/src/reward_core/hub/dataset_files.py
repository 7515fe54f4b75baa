"""Files of a dataset on the hub: listing, download and verification."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import HubError
from ..files.full_disk import raise_if_full
from .downloads import as_hub_error
from .reachability import hub_failure


@dataclass(frozen=True)
class RepoFile:
    """A file in a repository of the hub.

    Attributes:
        path: path in the repository.
        size: size in bytes.
        sha256: checksum of a large file (LFS).
        git_sha1: checksum of a small file, stored in git.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def checksum(self) -> str:
        return self.sha256 or self.git_sha1 or ""


@dataclass(frozen=True)
class RepoListing:
    """All files of a dataset at one commit."""

    repo_id: str
    commit: str
    files: Mapping[str, RepoFile]

    def to_dict(self) -> dict[str, Any]:
        files = [asdict(file) for file in self.files.values()]
        return {"repo_id": self.repo_id, "commit": self.commit, "files": files}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RepoListing:
        files = [RepoFile(**file) for file in content["files"]]
        return cls(content["repo_id"], content["commit"], {file.path: file for file in files})


def list_dataset(repo_ids: Sequence[str], revision: str | None = None) -> RepoListing:
    """Return the files of the first repository that exists.

    Args:
        repo_ids: name of the repository, followed by its former names.
        revision: branch, tag or commit (default: main).

    Raises:
        HubError: no repository exists, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile as HubEntry

    if (unreachable := hub_failure()) is not None:
        what_to_do = "Run the same command on a machine with a network and copy the folder."
        raise as_hub_error(repo_ids[0], unreachable, without_network=what_to_do)
    api = HfApi()
    for repo_id in repo_ids:
        try:
            commit = api.dataset_info(repo_id, revision=revision or "main").sha
            tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type="dataset")
            entries = [entry for entry in tree if isinstance(entry, HubEntry)]
        except Exception as error:
            if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
                continue
            raise as_hub_error(
                repo_id, error, without_network="Run the same command with a network connection."
            ) from error
        files = {
            e.path: RepoFile(e.path, e.size, e.lfs.sha256 if e.lfs else None, None if e.lfs else e.blob_id)
            for e in entries
        }
        return RepoListing(repo_id, str(commit), files)
    raise HubError(f"Cannot find dataset {' or '.join(repo_ids)} on the hub: no such repository.")


def fetch_verified(listing: RepoListing, file: RepoFile, root: Path) -> Path:
    """Download a file to ``root / file.path``, verify it and return its path.

    A correct local file is not downloaded again. An interrupted download resumes. A file with a wrong size or
    checksum is removed and downloaded a second time.

    Raises:
        HubError: the download failed, or the file was wrong twice.
        DiskFullError: not enough space on the disk.
    """
    _check_name(listing, file.path)
    path = root / file.path
    if path.is_file() and _difference(file, path) is None:
        return path
    from huggingface_hub import hf_hub_download

    difference: str | None = None
    for attempt in (1, 2):
        try:
            hf_hub_download(
                listing.repo_id,
                file.path,
                repo_type="dataset",
                revision=listing.commit,
                local_dir=root,
                force_download=attempt == 2 or path.is_file(),
            )
        except Exception as error:
            raise_if_full(error, root)
            advice = "Run the same command again: it resumes the download."
            what = f"{file.path} of {listing.repo_id}"
            raise as_hub_error(what, error, without_network=advice) from error
        difference = _difference(file, path)
        if difference is None:
            return path
        path.unlink()
    raise HubError(
        f"Cannot download {file.path} of {listing.repo_id}: the file was wrong twice and was removed "
        f"({difference}). Run the same command again later. If the error stays, check whether a proxy "
        "changes files."
    )


def _check_name(listing: RepoListing, name: str) -> None:
    """Raise HubError for a file that would be outside the download folder."""
    parts = name.replace("\\", "/").split("/")
    if not name or {"", ".", ".."} & set(parts) or ":" in parts[0] or not name.isprintable():
        raise HubError(
            f"Cannot download {name!r:.200} of {listing.repo_id}: the name leads outside the folder or "
            "is not a file name. Ask the owner of the dataset to rename it."
        )


def _difference(file: RepoFile, path: Path) -> str | None:
    """Return how a local file differs from the hub's size and checksum, or None."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    if file.sha256 is not None:
        digest, expected = hashlib.sha256(), file.sha256
    elif file.git_sha1 is not None:
        digest, expected = hashlib.sha1(f"blob {size}\0".encode()), file.git_sha1
    else:
        return None
    with path.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    actual = digest.hexdigest()
    return None if actual == expected else f"checksum {actual} instead of {expected}"

"""Files of a dataset on the hub: listed with checksums at one commit, fetched, verified."""

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
    """size in bytes. sha256: of large files; git_sha1: of the small ones that lie in git itself."""

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
    """What the first of the repositories that exists holds; the others are its former names.

    Raises:
        HubError: none exists, or the hub cannot be reached.
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
                repo_id, error, without_network="Run the same command where the hub is."
            ) from error
        files = {
            e.path: RepoFile(e.path, e.size, e.lfs.sha256 if e.lfs else None, None if e.lfs else e.blob_id)
            for e in entries
        }
        return RepoListing(repo_id, str(commit), files)
    raise HubError(f"no data set {' or '.join(repo_ids)} on the hub")


def fetch_verified(listing: RepoListing, file: RepoFile, root: Path) -> Path:
    """The local path of a file, ``root / file.path``, of the size and checksum that the hub tells.

    One that is there already is compared and not fetched again. A broken download goes on where it stopped.
    A file that came wrong is removed and fetched once more.

    Raises:
        HubError: it cannot be fetched, or came wrong twice. DiskFullError: no room for it.
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
            again = "Run the same command again: it goes on where it stopped."
            what = f"{file.path} of {listing.repo_id}"
            raise as_hub_error(what, error, without_network=again) from error
        difference = _difference(file, path)
        if difference is None:
            return path
        path.unlink()
    raise HubError(
        f"{file.path} of {listing.repo_id} came wrong twice and was removed: {difference}. Run the same "
        f"command again later; if it stays so, something between here and the hub changes files"
    )


def _check_name(listing: RepoListing, name: str) -> None:
    """Raise HubError for a file that would be outside the folder into which it is downloaded."""
    parts = name.replace("\\", "/").split("/")
    if not name or {"", ".", ".."} & set(parts) or ":" in parts[0] or not name.isprintable():
        raise HubError(
            f"Cannot download {name!r:.200} of {listing.repo_id}: the name leads outside the folder or "
            "is not a file's. Ask the owner of the data set to rename it."
        )


def _difference(file: RepoFile, path: Path) -> str | None:
    """How a local file differs from what the hub tells, or None."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    if file.sha256 is not None:
        digest, wanted = hashlib.sha256(), file.sha256
    elif file.git_sha1 is not None:
        digest, wanted = hashlib.sha1(f"blob {size}\0".encode()), file.git_sha1
    else:
        return None
    with path.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    found = digest.hexdigest()
    return None if found == wanted else f"checksum {found} instead of {wanted}"

"""Files from the hub and from plain addresses; the hub client loads when first needed."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from ..errors import HubError, RewardCoreError
from ..files.atomic_write import sync_file, sync_folder
from ..files.foreign_bytes import guarded
from .file_specs import HubFile, WebFile
from .web_download import download

_WITHOUT_NETWORK = (
    "Without a network: `--model tiny` (RM.load('tiny')) comes with the package; or fetch the file "
    "elsewhere, turn it into a folder with `reward-core convert` and load that folder."
)
_FOLDER_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def fetch(
    file: HubFile | WebFile,
    download_root: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local path of a registered file, downloaded with a progress bar if it is not here yet.

    Args:
        download_root: a folder that takes the file under its plain name (as the original does);
            by default the hub's shared cache. A file already there is used.
        revision: branch, tag or commit instead of the registered one.

    Raises:
        HubError: it is not here and could not be fetched.
    """
    if isinstance(file, WebFile):
        return _fetch_web_file(file, download_root, local_files_only)
    if download_root is not None and (Path(download_root) / file.filename).is_file():
        return Path(download_root) / file.filename

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    repo_ids = [file.repo_id] + ([file.fallback_repo_id] if file.fallback_repo_id else [])
    failure: tuple[str, Exception] | None = None
    for repo_id in repo_ids:
        try:
            path = hf_hub_download(
                repo_id,
                file.filename,
                revision=revision or file.revision,
                local_dir=None if download_root is None else Path(download_root),
                local_files_only=local_files_only,
            )
            return Path(path)
        except Exception as error:
            if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
                continue  # the repository may still go by its former name
            failure = failure or (repo_id, error)
            if not isinstance(error, LocalEntryNotFoundError):
                break
            # Without the hub, what was fetched under the former name still lies in the cache.
            local_files_only = True
    if failure is None:
        raise HubError(f"{file.filename}: no repository {' or '.join(repo_ids)} on the hub")
    repo_id, cause = failure
    raise as_hub_error(f"{file.filename} of {repo_id}", cause) from cause


def fetch_folder(
    repo_id: str,
    download_root: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model that was published with push_to_hub."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=None if download_root is None else Path(download_root),
            local_files_only=local_files_only,
            allow_patterns=_FOLDER_FILES,
        )
    except Exception as error:
        raise as_hub_error(repo_id, error) from error
    if not Path(folder, "model.safetensors").is_file():
        raise HubError(f"{repo_id} holds no model.safetensors; was it published with push_to_hub?")
    return Path(folder)


def as_hub_error(
    what: str, error: Exception, uploading: bool = False, without_network: str = _WITHOUT_NETWORK
) -> Exception:
    """Return the hub client's many errors as one that says what to do.

    without_network: what to do where the hub cannot be reached.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what came of asking the hub
    if uploading and isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return HubError(f"{what}: not allowed to write there; log in with `hf auth login` or pass a token")
    if isinstance(error, GatedRepoError):
        return HubError(f"{what}: access must be granted first; log in with `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"{what}: no such repository on the hub (or it is private)")
    if isinstance(error, HFValidationError):
        return HubError(f"{what}: {error}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{what}: no such revision")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return HubError(f"{what}: no such file in the repository")
    if isinstance(error, HfHubHTTPError):
        return HubError(f"{what}: the hub answered with an error: {error}")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0].startswith("http"):
        # LocalEntryNotFoundError, OfflineModeIsEnabled, refused and dropped connections
        reason = str(error).split("\n")[0]
        if uploading:
            return HubError(f"{what} could not be uploaded: {reason}")
        return HubError(
            f"{what} is not on this machine and could not be downloaded: {reason}\n{without_network}"
        )
    if isinstance(error, RewardCoreError):
        return error
    # A name that leads outside the cache, a list where an object belongs: whatever a hostile server sends.
    return HubError(f"{what}: the hub's answer cannot be used: {error or type(error).__name__}")


def _fetch_web_file(
    file: WebFile, download_root: str | os.PathLike[str] | None, local_files_only: bool
) -> Path:
    root = Path(download_root) if download_root is not None else Path(torch_cache()) / "reward-core"
    path = root / file.filename
    if path.is_file():
        _check_sum(file, path)
        return path
    if local_files_only:
        raise HubError(
            f"{path}: not on this machine, and downloading was ruled out. It comes from {file.url}"
        )
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root) as folder:
            with guarded(lambda error: _not_downloaded(file, error)):
                download(file.url, Path(folder, file.filename), file.max_bytes)
            _check_sum(file, Path(folder, file.filename))
            sync_file(Path(folder, file.filename))
            os.replace(Path(folder, file.filename), path)
            sync_folder(root)
    except OSError as error:
        if isinstance(error, HubError):
            raise
        raise _not_downloaded(file, error) from error
    return path


def _not_downloaded(file: WebFile, error: BaseException) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"{file.url} could not be downloaded: no space left for it")
    return HubError(
        f"{file.url} could not be downloaded: {error or type(error).__name__}\n{_WITHOUT_NETWORK}"
    )


def _check_sum(file: WebFile, path: Path) -> None:
    """Raise HubError unless the file is the one that is known, where that is known."""
    if file.sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    found = digest.hexdigest()
    if found != file.sha256:
        raise HubError(f"{file.url} is not the file it was: sha256 {found} instead of {file.sha256}")


def torch_cache() -> str:
    """torch's folder for downloaded files ($TORCH_HOME/hub, by default ~/.cache/torch/hub)."""
    from torch.hub import get_dir

    return get_dir()

"""Download files from the hub and from other addresses; the hub's client is imported when needed."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import HubError, RewardCoreError
from ..files.atomic_write import sync_file, sync_folder
from ..files.foreign_bytes import guarded
from .file_specs import HubFile, HubPieces, WebFile
from .local_files import how_to_copy, how_to_copy_repo, local_path, target_path
from .reachability import hub_failure
from .web_download import download

_FOLDER_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def fetch(
    file: HubFile | WebFile,
    download_root: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    needed_with: Sequence[HubFile | WebFile] = (),
) -> Path:
    """Return the local path of a registered file; download it with a progress bar if it is missing.

    Args:
        file: file to return.
        download_root: folder for the file under its own name, as in the original (default: the hub's
            cache). An existing file in it is used.
        revision: branch, tag or commit instead of the registered one.
        local_files_only: raise HubError instead of downloading.
        needed_with: files that the caller needs next; the error names those that are missing too.

    Returns:
        The path. For a file in pieces it is that of the converted weights, or else of the first piece.

    Raises:
        HubError: the file is missing and the download failed.
    """
    if isinstance(file, HubPieces):
        return _fetch_pieces(file, download_root, revision, local_files_only, needed_with)
    if isinstance(file, WebFile):
        return _fetch_web_file(file, download_root, local_files_only, needed_with)
    folder = None if download_root is None else Path(download_root) / file.folder
    if folder is not None and (folder / file.filename).is_file():
        return folder / file.filename

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    repo_ids = [file.repo_id] + ([file.fallback_repo_id] if file.fallback_repo_id else [])
    failure: tuple[str, Exception] | None = None
    unreachable = None if local_files_only else hub_failure()
    local_files_only = local_files_only or unreachable is not None
    for repo_id in repo_ids:
        try:
            path = hf_hub_download(
                repo_id,
                file.filename,
                revision=revision or file.revision,
                local_dir=folder,
                local_files_only=local_files_only,
            )
            return Path(path)
        except Exception as error:
            if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
                continue  # the repository may still have its former name
            failure = failure or (repo_id, unreachable or error)
            if not isinstance(error, LocalEntryNotFoundError):
                break
            # Without the hub, the cache may still have the file under the repository's former name.
            local_files_only = True
    if failure is None:
        raise HubError(f"Cannot download {file.filename}: no repository {' or '.join(repo_ids)} on the hub.")
    repo_id, cause = failure
    advice = how_to_copy([file, *needed_with], download_root)
    raise as_hub_error(f"{file.filename} of {repo_id}", cause, without_network=advice) from cause


def _fetch_pieces(
    file: HubPieces,
    download_root: str | os.PathLike[str] | None,
    revision: str | None,
    local_files_only: bool,
    needed_with: Sequence[HubFile | WebFile],
) -> Path:
    file = file.at_revision(revision)
    converted = local_path(file, download_root)
    if converted is not None:
        return converted
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    advice = how_to_copy([file, *needed_with], download_root)
    repo_ids = [file.repo_id] + ([file.fallback_repo_id] if file.fallback_repo_id else [])
    failure: HubError | None = None
    for repo_id in repo_ids:
        try:
            folder = fetch_repository(
                repo_id, [file.filename], download_root, file.revision, local_files_only, advice
            )
        except HubError as error:
            failure = failure or error
            if not isinstance(error.__cause__, (RepositoryNotFoundError, LocalEntryNotFoundError)):
                break
            continue  # the repository may still have its former name
        if pieces := sorted(folder.glob(file.filename)):
            return pieces[0]
        failure = failure or HubError(
            f"Cannot download {file.filename} of {repo_id}: the repository has no such files. {advice}"
        )
    assert failure is not None
    raise failure


def fetch_folder(
    repo_id: str,
    download_root: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the local folder of a model published with push_to_hub; download it if it is missing.

    Raises:
        HubError: the folder is missing and the download failed, or it has no weights.
    """
    folder = fetch_repository(repo_id, _FOLDER_FILES, download_root, revision, local_files_only)
    if not (folder / "model.safetensors").is_file():
        raise HubError(
            f"Cannot load {repo_id}: the repository has no model.safetensors. Publish the model with "
            "push_to_hub."
        )
    return folder


def fetch_repository(
    repo_id: str,
    patterns: Sequence[str],
    download_root: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    advice: str | None = None,
) -> Path:
    """Return the local folder of a hub repository; download the files that are missing.

    Args:
        repo_id: the repository.
        patterns: names of the files, with * for any characters.
        download_root, revision, local_files_only: as in ``fetch``.
        advice: what to do without a network (default: how to copy the whole repository).

    Raises:
        HubError: a download failed.
    """
    from huggingface_hub import snapshot_download

    unreachable = None if local_files_only else hub_failure()
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=None if download_root is None else Path(download_root),
            local_files_only=local_files_only or unreachable is not None,
            allow_patterns=list(patterns),
        )
    except Exception as error:
        advice = advice or how_to_copy_repo(repo_id, download_root)
        raise as_hub_error(repo_id, unreachable or error, without_network=advice) from error
    return Path(folder)


def as_hub_error(
    what: str,
    error: Exception,
    uploading: bool = False,
    without_network: str = "Run the same command again when the hub can be reached.",
) -> Exception:
    """Return a HubError that describes an error of the hub's client and what to do.

    Args:
        what: the repository, or the file and its repository.
        error: error of the client.
        uploading: whether the request was an upload.
        without_network: advice if the hub cannot be reached.
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
        error = error.__cause__  # the error of the request
    action = "upload to" if uploading else "download"
    if uploading and isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return HubError(f"Cannot upload to {what}: not allowed. Log in with `hf auth login` or pass a token.")
    if isinstance(error, GatedRepoError):
        return HubError(f"Cannot {action} {what}: access must be granted first. Log in with `hf auth login`.")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"Cannot {action} {what}: no such repository on the hub, or it is private. Check the name."
        )
    if isinstance(error, HFValidationError):
        return HubError(f"Cannot {action} {what}: {error}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"Cannot {action} {what}: no such revision.")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return HubError(f"Cannot {action} {what}: no such file in the repository.")
    if isinstance(error, HfHubHTTPError):
        reason = str(error).split("\n")[0].rstrip(".")
        later = " Run the command again later." if error.response.status_code >= 500 else ""
        return HubError(f"Cannot {action} {what}: the hub answered with an error: {reason}.{later}")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0].startswith("http"):
        # LocalEntryNotFoundError, OfflineModeIsEnabled, refused and dropped connections
        reason = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        if uploading:
            return HubError(f"Cannot upload to {what}: {reason}.")
        return HubError(f"Cannot download {what}, which is not on this machine: {reason}. {without_network}")
    if isinstance(error, RewardCoreError):
        return error
    # A hostile server may cause other errors: a name outside the cache, a list instead of an object.
    return HubError(f"Cannot {action} {what}: the hub's answer is invalid: {error or type(error).__name__}")


def _fetch_web_file(
    file: WebFile,
    download_root: str | os.PathLike[str] | None,
    local_files_only: bool,
    needed_with: Sequence[HubFile | WebFile],
) -> Path:
    path = target_path(file, download_root)
    root = path.parent
    if path.is_file():
        _check_sum(file, path)
        return path
    if local_files_only:
        advice = how_to_copy([file, *needed_with], download_root)
        raise HubError(f"Cannot find {path}: it is not on this machine, and downloads are disabled. {advice}")
    advice = how_to_copy([file, *needed_with], download_root)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root) as folder:
            with guarded(lambda error: _not_downloaded(file, error, advice)):
                download(file.url, Path(folder, file.filename), file.max_bytes)
            _check_sum(file, Path(folder, file.filename))
            sync_file(Path(folder, file.filename))
            os.replace(Path(folder, file.filename), path)
            sync_folder(root)
    except OSError as error:
        if isinstance(error, HubError):
            raise
        raise _not_downloaded(file, error, advice) from error
    return path


def _not_downloaded(file: WebFile, error: BaseException, advice: str) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(
            f"Cannot download {file.url}: no space is left on the disk. Free some and run the command again."
        )
    reason = (str(error) or type(error).__name__).rstrip(".")
    return HubError(f"Cannot download {file.url}: {reason}. {advice}")


def _check_sum(file: WebFile, path: Path) -> None:
    """Raise HubError if the file's sha256 is known and differs."""
    if file.sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != file.sha256:
        raise HubError(
            f"Cannot use {path}: it differs from the published file (sha256 {digest.hexdigest()}, expected "
            f"{file.sha256}). Delete it and download {file.url} again."
        )

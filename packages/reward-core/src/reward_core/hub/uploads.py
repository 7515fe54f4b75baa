"""Uploads of saved models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .downloads import as_hub_error


def upload_folder(
    folder: Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload reward model",
    patterns: Sequence[str] | None = None,
) -> str:
    """Upload a folder to a model repository (created if needed).

    Args:
        folder: the folder.
        repo_id: name of the repository.
        private: whether a new repository is private (default: the hub's default).
        token: access token (default: the one from `hf auth login`).
        revision: branch to commit to.
        commit_message: message of the commit.
        patterns: patterns of the files to upload (default: all files).

    Returns:
        URL of the commit.

    Raises:
        HubError: the hub cannot be reached or refuses the upload.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            allow_patterns=None if patterns is None else list(patterns),
        )
    except Exception as error:
        raise as_hub_error(repo_id, error, uploading=True) from error
    return str(commit.commit_url)

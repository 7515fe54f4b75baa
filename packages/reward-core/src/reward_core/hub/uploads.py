"""Uploads of saved models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .downloads import as_hub_error

if TYPE_CHECKING:
    from ..scoring.scoring_model import ScoringModel


def upload_model(
    model: ScoringModel,
    repo_id: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Save the model to a temporary folder, upload it, and return the commit's address."""
    from huggingface_hub import HfApi

    from ..models.checkpoint import save_folder

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_folder(model, Path(folder))
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
        except Exception as error:
            raise as_hub_error(repo_id, error, uploading=True) from error
    return str(commit.commit_url)

"""Uploads of finished runs to the hub."""

from __future__ import annotations

from pathlib import Path

import yaml

from reward_core.files.atomic_write import write_text
from reward_core.hub.file_specs import is_repo_id
from reward_core.hub.uploads import upload_folder
from reward_core.printing.escapes import python_string

from ..errors import ConfigError, ModelError
from .model_card import PLACEHOLDER
from .result import SETTINGS

CARD = "README.md"
MESSAGE = "Upload a model fine-tuned with refl"


def push(run: Path, repository: str = "", private: bool | None = None) -> str:
    """Upload the model of a finished run with its card.

    The card's usage then names the repository.

    Args:
        run: folder of the run, or the model folder in it.
        repository: OWNER/NAME on the hub; empty: ``run.push_to_hub`` of the run's settings.
        private: whether a new repository is private (default: the hub's default).

    Returns:
        URL of the commit.

    Raises:
        ModelError: the folder contains no finished run.
        ConfigError: no repository is named, or the name is not OWNER/NAME.
        reward_core.errors.HubError: the hub cannot be reached or refuses the upload.
    """
    folder = model_folder(run)
    repository = repository or _repository_of_settings(folder.parent)
    if not repository:
        raise ConfigError(f"Cannot upload '{run}': no repository is named. Set --to OWNER/NAME.")
    if not is_repo_id(repository):
        raise ConfigError(f"Cannot upload '{run}' to {repository!r}: the name must be OWNER/NAME.")
    card = folder / CARD
    text = card.read_text(encoding="utf-8")
    write_text(card, text.replace(python_string(PLACEHOLDER), python_string(repository)))
    try:
        return upload_folder(folder, repository, private, commit_message=MESSAGE)
    except BaseException:
        write_text(card, text)  # nothing is there yet
        raise


def model_folder(run: Path) -> Path:
    """Return the model folder of a run.

    Raises:
        ModelError: neither the folder nor its subfolder ``model`` has a card and weights.
    """
    for folder in (run / "model", run):
        weights = ("pytorch_lora_weights.safetensors", "model_index.json")
        if (folder / CARD).is_file() and any((folder / name).is_file() for name in weights):
            return folder.resolve()
    raise ModelError(
        f"Cannot upload '{run}': it is not the folder of a finished run (no model/{CARD} beside weights). "
        "Finish the run with `refl train`, or name its folder."
    )


def _repository_of_settings(run: Path) -> str:
    path = run / SETTINGS
    if not path.is_file():
        return ""
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["run"]["push_to_hub"])

"""Check that models on the hub are available before importing torch and diffusers, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from reward_core.errors import HubError
from reward_core.files.json_file import read_json
from reward_core.hub.downloads import as_hub_error, fetch, fetch_folder
from reward_core.hub.file_specs import is_repo_id
from reward_core.hub.local_files import how_to_copy_repo
from reward_core.hub.reachability import hub_failure
from reward_core.models.model_spec import ModelSpec
from reward_core.models.registry import find_spec

from ..errors import ModelError, RewardError

INDEX_FILE = "model_index.json"
UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")  # training does not load them


def pipeline_index(name: str, revision: str | None = None) -> Path:
    """Return the local path of a hub pipeline's model_index.json; download it if it is missing.

    Without the hub, the cache must also have all other folders of the pipeline.

    Raises:
        ModelError: the repository is neither on the hub nor in the cache, or is not a pipeline.
    """
    from huggingface_hub import hf_hub_download

    unreachable = hub_failure()
    try:
        path = Path(
            hf_hub_download(name, INDEX_FILE, revision=revision, local_files_only=unreachable is not None)
        )
    except Exception as error:
        if unreachable is not None:
            raise unavailable_model(name, unreachable) from error
        raise ModelError(str(as_hub_error(f"{INDEX_FILE} of {name}", error))) from error
    if unreachable is not None and not all((path.parent / part).is_dir() for part in _parts(path)):
        raise unavailable_model(name, unreachable)
    return path


def check_pipeline_folder(name: str) -> None:
    """Raise ModelError for a folder that is not a diffusers pipeline."""
    if os.path.isdir(name) and not Path(name, INDEX_FILE).is_file():
        result = Path(name, "model")  # of a finished run
        advice = f"{os.fspath(result)!r}" if result.is_dir() else "the folder of a diffusers pipeline"
        raise ModelError(
            f"Cannot load a diffusion model from the folder {name!r}: it has no {INDEX_FILE}. Give {advice}."
        )


def unavailable_model(name: str, unreachable: Exception) -> ModelError:
    """Return the error for a model that is not in the cache while the hub cannot be reached."""
    return ModelError(
        f"Cannot load {name!r}: it is neither a folder or file nor in the hub's cache, and the hub "
        f"cannot be reached ({unreachable}). {how_to_copy_repo(name)}"
    )


def check_reward_downloads(names: Iterable[str]) -> None:
    """Raise RewardError for a reward on the hub that cannot be downloaded and is not in the cache."""
    for name in names:
        known = find_spec(name)
        try:
            if known is not None:
                _check_published(known[1])
            elif not os.path.exists(name) and is_repo_id(name):
                _check_repository(name)
        except HubError as error:
            raise RewardError(f"Cannot load the reward {name!r}: {error}") from error


def missing_files(name: str) -> str | None:
    """Return why a reward cannot be loaded without a download, or None if all its files are local."""
    known = find_spec(name)
    try:
        if known is not None:
            for file in known[1].downloads():
                fetch(file, local_files_only=True)
        elif not os.path.exists(name):
            fetch_folder(name, local_files_only=True)
    except HubError as error:
        return str(error)
    return None


def _parts(index: Path) -> list[str]:
    """Return the folders of a pipeline that training loads."""
    return [
        name
        for name, value in read_json(index).items()
        if isinstance(value, list) and value and value[0] is not None and name not in UNUSED_PARTS
    ]


def _check_published(spec: ModelSpec) -> None:
    if hub_failure() is None:
        return  # the files are downloaded when they are loaded
    files = spec.downloads()
    for i, file in enumerate(files):
        fetch(file, local_files_only=True, needed_with=files[i + 1 :])


def _check_repository(name: str) -> None:
    """Raise HubError if a repository has no weights on the hub or, without the hub, in the cache."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if hub_failure() is not None:
        fetch_folder(name)
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "model.safetensors"))
    except Exception as error:
        raise as_hub_error(f"model.safetensors of {name}", error) from error

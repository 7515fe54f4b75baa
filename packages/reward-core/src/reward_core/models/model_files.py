"""Names, folders and hub repositories -> the files of a model on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..hub.downloads import fetch, fetch_folder
from ..hub.file_specs import HubFile, WebFile, is_repo_id
from ..inputs.tokenizer import PromptTokenizer
from .checkpoint import WEIGHTS_FILE
from .load_options import LoadOptions, PathLike
from .model_spec import VOCABULARY, ModelConfig, ModelSpec


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        weights: its configuration and tokenizer are looked for beside it.
        config: of a published model; None if it has to be read.
        vocabulary: where the tokenizer comes from if it is not beside the weights.
    """

    weights: Path
    config: ModelConfig | None = None
    vocabulary: HubFile = VOCABULARY


def find_files(
    name_or_path: PathLike,
    published: Mapping[str, ModelSpec],
    bundled: Mapping[str, str],
    options: LoadOptions,
) -> ModelFiles:
    """Return the files of a model, downloaded if need be.

    Args:
        name_or_path: a name of ``published`` or ``bundled``, a folder, a weights file, or a hub repository.
        published: models with files on the hub or the web.
        bundled: models that come with the package.
        options: where to download to, and whether to.

    Raises:
        InputError: none of these. HubError: a download failed.
    """
    name = os.fsdecode(name_or_path)
    if name in published:
        spec = published[name]
        vocabulary = spec.vocabulary or VOCABULARY
        others: list[HubFile | WebFile] = [vocabulary]
        if spec.head is not None:
            others.append(spec.head)
        weights = fetch(
            spec.weights, options.download_root, options.revision, options.local_files_only, others
        )
        return ModelFiles(weights, spec.config, vocabulary)
    if name in bundled:
        return ModelFiles(bundled_folder(name) / WEIGHTS_FILE)
    if os.path.exists(name):
        return ModelFiles(Path(name, WEIGHTS_FILE) if os.path.isdir(name) else Path(name))
    if is_repo_id(name):
        folder = fetch_folder(name, options.download_root, options.revision, options.local_files_only)
        return ModelFiles(folder / WEIGHTS_FILE)
    known = ", ".join([*published, *bundled])
    raise InputError(
        f"{name!r} is neither a known name ({known}), nor a folder or file on this machine, "
        "nor the id of a hub repository"
    )


def bundled_folder(name: str) -> Path:
    """Return the folder of a model that comes with the package."""
    return Path(__file__).parents[1] / "demo" / name


def tokenizer_beside(
    weights: Path, max_length: int, download_root: PathLike | None = None, local_files_only: bool = False
) -> PromptTokenizer:
    """Return the tokenizer in the weights' folder; without one, BERT's vocabulary from the hub."""
    folder = weights.parent
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        folder = fetch(VOCABULARY, download_root, local_files_only=local_files_only).parent
    return PromptTokenizer.from_folder(folder, max_length)

"""Find or download the files of a model by name, folder or hub repository."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..hub.downloads import fetch, fetch_folder
from ..hub.file_specs import HubFile, WebFile, is_repo_id
from ..inputs.tokenizer import PromptTokenizer
from .checkpoint import CONFIG_FILE, WEIGHTS_FILE
from .load_options import LoadOptions, PathLike
from .model_spec import VOCABULARY, ModelConfig, ModelSpec


@dataclass(frozen=True)
class ModelFiles:
    """Files of a model on this machine.

    Attributes:
        weights: weights file. Its folder may have a config.json and a tokenizer.
        config: configuration of a published model; None to read it from config.json.
        vocabulary: tokenizer file on the hub, for weights without a tokenizer in their folder.
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
    """Return the files of a model and download them if needed.

    Args:
        name_or_path: a name in ``published`` or ``bundled``, a folder, a weights file, or a hub repository.
        published: models with files on the hub or the web.
        bundled: models that are part of the package.
        options: download folder, revision and whether to use local files only.

    Raises:
        InputError: an unknown name, or a path that does not exist.
        HubError: a failed download.
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
        f"Cannot find the model: {name!r} is neither a known name ({known}), nor a folder or file on this "
        "machine, nor the id of a hub repository."
    )


def files_digest(files: ModelFiles, tokenizer: str) -> str:
    """Return the SHA-256 of a model's files without loading it.

    Args:
        files: the files; a config.json in the folder of the weights is included.
        tokenizer: the tokenizer as text.
    """
    digest = hashlib.sha256(repr(files.config).encode())
    config = files.weights.parent / CONFIG_FILE
    for path in [files.weights, *([config] if files.config is None and config.is_file() else [])]:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    digest.update(tokenizer.encode())
    return digest.hexdigest()


def bundled_folder(name: str) -> Path:
    """Return the folder of a model that is part of the package."""
    return Path(__file__).parents[1] / "demo" / name


def tokenizer_beside(
    weights: Path, max_length: int, download_root: PathLike | None = None, local_files_only: bool = False
) -> PromptTokenizer:
    """Return the tokenizer in the folder of the weights, or else BERT's from the hub."""
    folder = weights.parent
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        folder = fetch(VOCABULARY, download_root, local_files_only=local_files_only).parent
    return PromptTokenizer.from_folder(folder, max_length)

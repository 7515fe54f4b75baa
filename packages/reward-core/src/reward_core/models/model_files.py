"""Find or download the files of a model by name, folder or hub repository."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CheckpointError, HubError, InputError
from ..hub.downloads import fetch, fetch_folder
from ..hub.file_specs import FileSpec, HubFile, HubPieces, PackageFile, WebFile
from ..hub.local_files import local_path, package_path, target_path
from ..inputs.tokenizer import PromptTokenizer
from ..scoring.model_source import ModelSource
from .load_options import LoadOptions, PathLike
from .model_spec import SAVED_PARTS, VOCABULARY, WEIGHTS_FILE, ModelConfig, ModelSpec, Part
from .shard_index import is_index, shard_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """Files of a model on this machine.

    Attributes:
        parts: files by role, such as "weights", "config" and "tokenizer".
        config: configuration of a published model; None to read it from the part "config". If there are
            both, sizes are read from the part, and all else from this configuration.
        source: name and origin, for messages, results and cards.
        converted: index of the converted weights, if the weights were downloaded in pieces; None if they are
            used as they are.
    """

    parts: Mapping[str, Path]
    config: ModelConfig | None
    source: ModelSource
    converted: Path | None = None

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.parts["weights"]


def published_files(name: str, spec: ModelSpec, options: LoadOptions) -> ModelFiles:
    """Return the files of a scorer with a name: those of ``options.files``, or else downloaded ones.

    Raises:
        CheckpointError: ``options.files`` does not have a part.
        HubError: a failed download.
    """
    converted = None
    if options.files is not None:
        paths = find_parts(name, spec.parts, Path(options.files))
        for part, file in spec.parts.items():
            if part not in paths and file.fetched_if_missing and file.source is not None:
                try:
                    paths[part] = fetch_file(file.source, options)
                except HubError as error:
                    source = file.source
                    if isinstance(source, PackageFile) or local_path(source, options.download_root):
                        raise  # a damaged copy
                    logger.warning("the %s of %s is missing: %s", part, name, error)
    else:
        paths = _fetch_parts(name, spec, options)
        weights = spec.parts["weights"].source if "weights" in spec.parts else None
        if isinstance(weights, HubPieces):
            converted = target_path(weights.at_revision(options.revision), options.download_root)
    return ModelFiles(paths, spec.config, ModelSource(name, _weights_of(paths)), converted)


def path_files(name_or_path: PathLike, options: LoadOptions) -> ModelFiles:
    """Return the files of a saved folder, a weights file, or a hub repository with a saved folder.

    Raises:
        InputError: ``options.files`` is given, but it is for scorers with a name.
        HubError: a failed download.
    """
    name = os.fsdecode(name_or_path)
    if options.files is not None:
        raise InputError(
            f"Cannot use files='{os.fsdecode(options.files)}' with {name!r}: these are copies of the files "
            "of a scorer with a name. Choose one of `reward-core models`."
        )
    if os.path.exists(name):
        weights = Path(name, WEIGHTS_FILE) if os.path.isdir(name) else Path(name)
    else:
        folder = fetch_folder(name, options.download_root, options.revision, options.local_files_only)
        weights = folder / WEIGHTS_FILE
    beside = {part: _file_beside(weights, part) for part in SAVED_PARTS}
    paths = {part: path for part, path in beside.items() if path is not None} | {"weights": weights}
    return ModelFiles(paths, None, ModelSource(name, (weights,)))


def find_parts(name: str, parts: Mapping[str, Part], folder: Path) -> dict[str, Path]:
    """Return the parts of a scorer in a folder of local files.

    Raises:
        CheckpointError: the folder does not exist, or a required part is missing. The message names every
            missing part, its accepted file names and where they were searched.
    """
    if not folder.is_dir():
        raise CheckpointError(f"Cannot load {name!r} from '{folder}': no such folder.")
    found: dict[str, Path] = {}
    missing: list[str] = []
    for part, spec in parts.items():
        path, searched = find_part(part, spec, folder)
        if path is not None:
            found[part] = path
        elif isinstance(spec.source, PackageFile):
            found[part] = package_path(spec.source)
        elif spec.required and not spec.fetched_if_missing:
            places = ", ".join(f"'{place}'" for place in searched)
            missing.append(f"the {part} ({' or '.join(spec.names)}; searched in {places})")
    if missing:
        raise CheckpointError(
            f"Cannot load {name!r} from '{folder}': missing {'; '.join(missing)}. Copy the files there, or "
            "leave files out to download them."
        )
    return found


def find_part(part: str, spec: Part, folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the file of a part in a folder or its subfolders, or None; and the folders searched."""
    places = [folder / subfolder for subfolder in spec.subfolders(part)]
    for place in places:
        for name in spec.names:
            paths = sorted(place.glob(name)) if "*" in name else [place / name]
            if path := next(filter(Path.is_file, paths), None):
                return path, places
    return None, [place for place in places if place.is_dir()]


def _fetch_parts(scorer: str, spec: ModelSpec, options: LoadOptions) -> dict[str, Path]:
    needed = {name: part.source for name, part in spec.parts.items() if part.required and part.source}
    paths: dict[str, Path] = {}
    missing = [file for file in spec.downloads() if local_path(file, options.download_root) is None]
    for name, source in needed.items():
        others = [s for n, s in needed.items() if n not in paths and n != name and not _is_bundled(s)]
        # A revision is one of the repository with the weights.
        same = isinstance(source, HubFile) and source.repo_id == _repository(needed["weights"])
        revision = options.revision if same else None
        paths[name] = fetch_file(source, options, revision, others)
        if isinstance(source, HubFile) and is_index(source.filename):
            for shard in shard_names(paths[name]):
                fetch_file(replace(source, filename=shard, size="", sha256=None), options, revision)
    if missing:
        logger.info("downloaded %s: %s", scorer, spec.facts.weights_license.in_words())
    return paths


def fetch_file(
    source: FileSpec,
    options: LoadOptions,
    revision: str | None = None,
    needed_with: list[FileSpec] | None = None,
) -> Path:
    """Return the path of a published file, downloaded if it is missing.

    Raises:
        HubError: the download failed.
        InputError: the package with the file is not installed.
    """
    if isinstance(source, PackageFile):
        return package_path(source)
    others = [file for file in needed_with or [] if isinstance(file, (HubFile, WebFile))]
    return fetch(source, options.download_root, revision, options.local_files_only, others)


def _repository(source: FileSpec) -> str:
    return source.repo_id if isinstance(source, HubFile) else ""


def _is_bundled(source: FileSpec) -> bool:
    return isinstance(source, PackageFile)


def _weights_of(paths: Mapping[str, Path]) -> tuple[Path, ...]:
    """Return the files that change scores: all but the configuration and the tokenizer."""
    return tuple(path for part, path in paths.items() if part not in ("config", "tokenizer"))


def files_digest(files: ModelFiles, tokenizer: str) -> str:
    """Return the SHA-256 of a model's files without loading it.

    Args:
        files: the files.
        tokenizer: the tokenizer as text; "" for a model without one.
    """
    digest = hashlib.sha256(repr(files.config).encode())
    for part, path in sorted(files.parts.items()):
        if part == "tokenizer":
            continue
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    digest.update(tokenizer.encode())
    return digest.hexdigest()


def tokenizer_beside(
    weights: Path, max_length: int, download_root: PathLike | None = None, local_files_only: bool = False
) -> PromptTokenizer:
    """Return the BERT tokenizer in the folder of the weights, or else BERT's from the hub."""
    path = _file_beside(weights, "tokenizer") or fetch(
        VOCABULARY, download_root, local_files_only=local_files_only
    )
    return PromptTokenizer.from_file(path, max_length)


def _file_beside(weights: Path, part: str) -> Path | None:
    """Return the file of a part of a saved model in the folder of the weights, or None."""
    paths = (weights.parent / name for name in SAVED_PARTS[part].names)
    return next((path for path in paths if path.is_file()), None)

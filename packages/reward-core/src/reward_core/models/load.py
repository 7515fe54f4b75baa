"""Load models by name, folder or file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..files.json_file import read_json
from ..hub.downloads import fetch
from ..hub.file_specs import HubFile
from ..scoring.device import Device
from ..scoring.scoring_model import ScoringModel
from .blip.scorer import BlipScorer
from .checkpoint import CONFIG_FILE, MAX_CONFIG_BYTES, read_state_dict
from .clip.config import ClipConfig
from .clip.scorer import ClipScorer
from .imagereward.reward_model import RewardModel
from .load_options import LoadOptions, PathLike
from .model_files import ModelFiles, files_digest, find_files
from .registry import BUNDLED_MODELS, REWARD_MODELS, SCORES


def available_models() -> list[str]:
    """Return the names that ``load`` knows, besides folders, files and hub ids."""
    return [*REWARD_MODELS, *BUNDLED_MODELS]


def available_scores() -> list[str]:
    """Return the names that ``load_score`` knows."""
    return list(SCORES)


def load(
    name_or_path: PathLike = "ImageReward-v1.0",
    device: Device = None,
    download_root: PathLike | None = None,
    med_config: PathLike | dict[str, Any] | None = None,
    *,
    precision: str = "exact",
    revision: str | None = None,
    local_files_only: bool = False,
) -> RewardModel:
    """Load a reward model in evaluation mode with frozen parameters.

    Args:
        name_or_path: one of ``available_models()``, a saved folder, a .safetensors file, the original's .pt
            (with config.json and vocab.txt or tokenizer.json in the same folder), or the id of a hub
            repository with a saved folder.
        device: device to compute on (default: "cuda" if available, else "mps", else "cpu").
        download_root: folder for downloads (default: the cache of the hub).
        med_config: BERT's configuration (a dict or a JSON file) to use instead of the model's.
        precision: "exact" computes in float32 and reproduces the original's scores. "fast" computes the
            encoders in 16 bits where that is faster (a GPU, a CPU with AMX or AVX512-BF16) and compiles steps
            that take much time (or call `ScoringModel.warm_up`). Rewards change by at most a few hundredths
            of their standard deviation (docs/performance.md). "int8" computes the encoders of reward models
            in 8 bits on a CPU with AMX-INT8, AVX512-VNNI or AVX-VNNI, which is faster and less exact. "auto"
            is "fast" on a GPU, else "exact".
        revision: branch, tag or commit of the hub repository.
        local_files_only: use local files only, never the network.

    Raises:
        InputError: an unknown name, device or precision, or "int8" where it is not supported.
        CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
        HubError: a failed download.
    """
    options = LoadOptions(device, download_root, med_config, precision, revision, local_files_only)
    files = find_files(name_or_path, RewardModel.published, RewardModel.bundled, options)
    return RewardModel.load_files(files, options)


def model_digest(name_or_path: PathLike) -> str:
    """Return a SHA-256 of the files of a reward model: weights, configuration and tokenizer.

    The files are downloaded if needed. The errors are as in ``load``.
    """
    options = LoadOptions()
    files = find_files(name_or_path, RewardModel.published, RewardModel.bundled, options)
    config = files.config or RewardModel.config_beside(files.weights)
    tokenizer = RewardModel.find_tokenizer(files, config, options)
    return files_digest(files, tokenizer.fast_tokenizer.to_str())


def load_score(
    name_or_path: PathLike = "BLIP",
    device: Device = None,
    download_root: PathLike | None = None,
    *,
    precision: str = "exact",
    revision: str | None = None,
    local_files_only: bool = False,
) -> ScoringModel:
    """Load a baseline scorer, which has the same methods as a reward model.

    Args:
        name_or_path: one of ``available_scores()``, or a folder or file with its weights.

    The other arguments and the errors are as in ``load``.
    """
    spec = SCORES.get(os.fsdecode(name_or_path))
    folder = download_root
    weights = spec.weights if spec is not None and isinstance(spec.config, ClipConfig) else None
    if isinstance(weights, HubFile) and folder is not None:
        # Several of these files are named model.safetensors.
        folder = Path(folder) / weights.repo_id.replace("/", "--")
    options = LoadOptions(device, folder, None, precision, revision, local_files_only)
    files = find_files(name_or_path, SCORES, {}, options)
    family: type[ClipScorer] | type[BlipScorer] = ClipScorer if _is_clip(files) else BlipScorer
    model = family.load_files(files, options)
    if spec is None or spec.head is None:
        return model
    assert isinstance(model, ClipScorer)  # heads exist for CLIP only
    head = fetch(spec.head, download_root, local_files_only=local_files_only)
    return with_aesthetic_head(model, head, spec.head_widths)


def with_aesthetic_head(model: ClipScorer, weights: Path, widths: tuple[int, ...]) -> ClipScorer:
    """Return an Aesthetic scorer that shares the weights of a loaded CLIP.

    Raises:
        CheckpointError: a damaged file; KeyMismatchError if the weights do not match the head.
    """
    return model.with_head(widths, read_state_dict(weights), str(weights))


def _is_clip(files: ModelFiles) -> bool:
    """Return whether these are the files of a CLIP model (rather than BLIP)."""
    config = files.weights.parent / CONFIG_FILE
    if files.config is None and config.is_file():
        content = read_json(config, MAX_CONFIG_BYTES)
        return isinstance(content, dict) and content.get("model_type") == ClipConfig.model_type
    return isinstance(files.config, ClipConfig)

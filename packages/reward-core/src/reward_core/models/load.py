"""Names, folders and files -> ready models."""

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
from .model_files import ModelFiles, find_files
from .registry import BUNDLED_MODELS, REWARD_MODELS, SCORES


def available_models() -> list[str]:
    """Names that ``load`` knows; it takes folders, files and hub repositories as well."""
    return [*REWARD_MODELS, *BUNDLED_MODELS]


def available_scores() -> list[str]:
    """Names that ``load_score`` knows."""
    return list(SCORES)


def load(
    name_or_path: PathLike = "ImageReward-v1.0",
    device: Device = None,
    download_root: PathLike | None = None,
    med_config: PathLike | dict[str, Any] | None = None,
    *,
    precision: str = "exact",
    exact_resize: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
) -> RewardModel:
    """Load a reward model, ready to score: in evaluation mode, parameters frozen.

    Args:
        name_or_path: a name of ``available_models()``, a saved folder, a .safetensors file or the
            original's .pt (config.json and vocab.txt or tokenizer.json are looked for beside it),
            or the id of a hub repository that holds a saved folder.
        device: default cuda, else mps, else cpu.
        download_root: folder for downloads instead of the hub's cache.
        med_config: BERT's configuration (a dict or a JSON file) in place of the model's own.
        precision: "exact" is float32, the original's numbers. "fast" computes the encoders in 16 bits
            where the device gains by it (a GPU, a CPU with AMX or AVX512-BF16): rewards move by a few
            hundredths of their spread at most (docs/performance.md). "auto" is "fast" on a GPU, else
            "exact". "fast" also compiles what much time is spent in (`ScoringModel.warm_up` does it at
            once), and lets a GPU resize images.
        exact_resize: "fast" on a GPU leaves resizing to PIL all the same; else pixels may differ by 1/255.
        revision: branch, tag or commit of the hub repository.
        local_files_only: never touch the network.

    Raises:
        InputError: unknown name, device or precision. CheckpointError (KeyMismatchError): files that are
        damaged or do not fit. HubError: a download that failed.
    """
    options = LoadOptions(
        device, download_root, med_config, precision, exact_resize, revision, local_files_only
    )
    files = find_files(name_or_path, RewardModel.published, RewardModel.bundled, options)
    return RewardModel.load_files(files, options)


def load_score(
    name_or_path: PathLike = "BLIP",
    device: Device = None,
    download_root: PathLike | None = None,
    *,
    precision: str = "exact",
    exact_resize: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
) -> ScoringModel:
    """Load a baseline scorer: a name of ``available_scores()``, or a folder or file of its weights.

    Arguments and errors are those of ``load``. The result has the same methods as a reward model.
    """
    spec = SCORES.get(os.fsdecode(name_or_path))
    folder = download_root
    weights = spec.weights if spec is not None and isinstance(spec.config, ClipConfig) else None
    if isinstance(weights, HubFile) and folder is not None:
        # Several of these files are called model.safetensors.
        folder = Path(folder) / weights.repo_id.replace("/", "--")
    options = LoadOptions(device, folder, None, precision, exact_resize, revision, local_files_only)
    files = find_files(name_or_path, SCORES, {}, options)
    family: type[ClipScorer] | type[BlipScorer] = ClipScorer if _is_clip(files) else BlipScorer
    model = family.load_files(files, options)
    if spec is None or spec.head is None:
        return model
    assert isinstance(model, ClipScorer)  # a head stands on a CLIP
    head = fetch(spec.head, download_root, local_files_only=local_files_only)
    return with_aesthetic_head(model, head, spec.head_widths)


def with_aesthetic_head(model: ClipScorer, weights: Path, widths: tuple[int, ...]) -> ClipScorer:
    """The Aesthetic scorer on a CLIP that is loaded already; both share its weights.

    Raises:
        CheckpointError (KeyMismatchError): a damaged file, or one that does not fit.
    """
    return model.with_head(widths, read_state_dict(weights), str(weights))


def _is_clip(files: ModelFiles) -> bool:
    """Return whether these are the files of a CLIP, and not of a BLIP."""
    config = files.weights.parent / CONFIG_FILE
    if files.config is None and config.is_file():
        content = read_json(config, MAX_CONFIG_BYTES)
        return isinstance(content, dict) and content.get("model_type") == ClipConfig.model_type
    return isinstance(files.config, ClipConfig)

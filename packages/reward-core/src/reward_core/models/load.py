"""Names, folders and files -> ready models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import CheckpointError, InputError
from ..files.json_file import read_json
from ..hub.downloads import fetch, fetch_folder
from ..inputs.tokenizer import PromptTokenizer
from ..network.config import BlipConfig, RewardConfig, text_config_from_med_config
from ..scoring.device import Device, usable_device
from ..scoring.precision import check_precision, encoder_dtype
from ..scoring.scoring_model import ScoringModel
from .blip.scorer import BlipScorer
from .checkpoint import CONFIG_FILE, WEIGHTS_FILE, build_model, read_state_dict
from .clip.config import ClipConfig
from .clip.key_map import to_clip_keys
from .clip.scorer import ClipScorer, ClipTokenizer
from .imagereward.reward_model import RewardModel
from .registry import BUNDLED_MODELS, REWARD_MODELS, SCORES, VOCABULARY, ModelSpec

PathLike: TypeAlias = "str | os.PathLike[str]"


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
    return _load(
        RewardModel,
        REWARD_MODELS,
        name_or_path,
        device,
        download_root,
        med_config,
        precision,
        exact_resize,
        revision,
        local_files_only,
    )


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
    folder = Path(download_root) if download_root is not None else None
    if spec is not None and isinstance(spec.config, ClipConfig) and folder is not None:
        # Several of these files go by the name of model.safetensors.
        folder = folder / spec.weights.repo_id.replace("/", "--")
    model = _load(
        BlipScorer,
        SCORES,
        name_or_path,
        device,
        folder,
        None,
        precision,
        exact_resize,
        revision,
        local_files_only,
    )
    if spec is None or spec.head is None:
        return model
    head = fetch(spec.head, download_root, local_files_only=local_files_only)
    return with_aesthetic_head(model, head, spec.head_widths)


def with_aesthetic_head(model: ClipScorer, weights: Path, widths: tuple[int, ...]) -> ClipScorer:
    """The Aesthetic scorer on a CLIP that is loaded already; both share its weights.

    Raises:
        CheckpointError (KeyMismatchError): a damaged file, or one that does not fit.
    """
    return model.with_head(widths, read_state_dict(weights), str(weights))


def _load(
    model_class: type,
    specs: dict[str, ModelSpec],
    name_or_path: PathLike,
    device: Device,
    download_root: PathLike | None,
    med_config: PathLike | dict[str, Any] | None,
    precision: str,
    exact_resize: bool,
    revision: str | None,
    local_files_only: bool,
) -> Any:
    check_precision(precision)
    name = os.fsdecode(name_or_path)
    config: BlipConfig | ClipConfig | None = None
    vocabulary = VOCABULARY
    if name in specs:
        spec = specs[name]
        weights, config = fetch(spec.weights, download_root, revision, local_files_only), spec.config
        vocabulary = spec.vocabulary or VOCABULARY
    elif name in BUNDLED_MODELS and model_class is RewardModel:
        weights = bundled_folder(name) / WEIGHTS_FILE
    elif os.path.exists(name):
        weights = Path(name, WEIGHTS_FILE) if os.path.isdir(name) else Path(name)
    elif _is_repo_id(name):
        weights = fetch_folder(name, download_root, revision, local_files_only) / WEIGHTS_FILE
    else:
        names = ", ".join([*specs, *(BUNDLED_MODELS if model_class is RewardModel else ())])
        raise InputError(
            f"{name!r} is neither a known name ({names}), nor a folder or file on this machine, "
            "nor the id of a hub repository"
        )
    device = usable_device(device)
    state = read_state_dict(weights)
    if config is None:
        config = config_beside(weights, model_class)
    if isinstance(config, ClipConfig):
        model_class, state = ClipScorer, to_clip_keys(state)
    if med_config is not None:
        config = _replace_text(config, med_config)

    def find_tokenizer() -> PromptTokenizer:
        if isinstance(config, ClipConfig):
            beside = weights.parent / "tokenizer.json"
            file = beside if beside.is_file() else fetch(vocabulary, download_root, None, local_files_only)
            return ClipTokenizer.from_folder(file.parent, config.max_length)
        return tokenizer_beside(weights, config.max_length, download_root, local_files_only)

    model = build_model(model_class, config, state, str(weights), find_tokenizer)
    model.set_encoder_dtype(encoder_dtype(precision, device))
    model.fast = precision == "fast" or (precision == "auto" and device.type == "cuda")
    model.resize_on_device = model.fast and not exact_resize
    return model.to(device)


def bundled_folder(name: str) -> Path:
    """The folder of a model that comes with the package."""
    return Path(__file__).parents[1] / "demo" / name


def config_beside(weights: Path, model_class: type) -> BlipConfig:
    """config.json in the weights' folder; without one, the published model's sizes."""
    path = weights.parent / CONFIG_FILE
    if path.is_file():
        if model_class is BlipScorer and read_json(path).get("model_type") == ClipConfig.model_type:
            return ClipConfig.from_dict(read_json(path), str(path))
        return model_class.config_class.from_dict(read_json(path), str(path))
    return RewardConfig.imagereward_v1() if model_class is RewardModel else model_class.config_class()


def tokenizer_beside(
    weights: Path, max_length: int, download_root: PathLike | None = None, local_files_only: bool = False
) -> PromptTokenizer:
    """The tokenizer in the weights' folder; without one, BERT's vocabulary from the hub."""
    folder = weights.parent
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.txt").is_file():
        folder = fetch(VOCABULARY, download_root, local_files_only=local_files_only).parent
    return PromptTokenizer.from_folder(folder, max_length)


def _is_repo_id(name: str) -> bool:
    """owner/name, and not the path of a weights file that is not there."""
    is_file_name = name.endswith((".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json"))
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not is_file_name


def _replace_text(config: BlipConfig, med_config: PathLike | dict[str, Any]) -> BlipConfig:
    if not isinstance(med_config, dict) and not os.path.isfile(med_config):
        raise CheckpointError(f"{os.fsdecode(med_config)}: no such file (med_config)")
    return replace(config, text=text_config_from_med_config(med_config))

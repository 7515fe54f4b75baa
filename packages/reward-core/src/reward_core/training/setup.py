"""Build the parts of a run from its settings and data: accelerator, splits, model, readers, caches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..errors import InputError, MissingExtraError
from ..inputs.image_file import ImageSource, image_name, image_state
from ..models.imagereward.reward_model import RewardModel
from ..rankings import RankedPrompt
from ..rankings.splits import available_splits
from .config import TrainingConfig, check_precision
from .float32_attention import use_float32_attention
from .freezing import freeze
from .group_reader import GroupReader, Reword, Usable, usable_groups
from .group_rewards import GroupRewards
from .held_out import with_validation
from .optimizers import build_optimizers
from .starting_model import starting_model
from .token_cache import TokenCache, cache_key

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def load_extra() -> Any:
    """Return the module accelerate; raise MissingExtraError if a package of the extra is missing."""
    for module, name in (("accelerate", "accelerate"), ("yaml", "PyYAML"), ("matplotlib", "matplotlib")):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtraError("train", name) from error
    import accelerate

    return accelerate


def make_accelerator(settings: TrainingConfig) -> Accelerator:
    """Return the accelerator: devices, processes, precision and trackers from settings and launcher.

    Raises:
        InputError: the device or the optimizer does not support the precision, or the launcher shards the
            model.
    """
    accelerate = load_extra()
    out = Path(settings.out)
    precision = mixed_precision(settings)
    check_precision(settings.optimizer, precision)
    try:
        accelerator = accelerate.Accelerator(
            mixed_precision=precision,
            # The step accumulates gradients. Without this plugin, accelerate would divide them again by
            # ACCELERATE_GRADIENT_ACCUMULATION_STEPS.
            gradient_accumulation_plugin=accelerate.utils.GradientAccumulationPlugin(num_steps=1),
            log_with=list(settings.trackers) or None,
            project_config=accelerate.utils.ProjectConfiguration(str(out), str(out / "logs")),
            cpu=settings.cpu,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"Cannot start accelerate: {error}") from error
    check_distribution(accelerator)
    return accelerator


def mixed_precision(settings: TrainingConfig) -> str:
    """Return "no", "bf16" or "fp16", resolving "auto".

    ``accelerate launch`` passes its precision in a variable. It also passes "no" if none was chosen.
    """
    if settings.mixed_precision != "auto":
        return settings.mixed_precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if launched not in ("", "no"):
        return launched
    on_gpu = torch.cuda.is_available() and not settings.cpu
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def check_distribution(accelerator: Accelerator) -> None:
    """Raise InputError if the launcher shards the model, which is not supported."""
    from accelerate.utils import DistributedType

    if accelerator.distributed_type in (
        DistributedType.FSDP,
        DistributedType.DEEPSPEED,
        DistributedType.MEGATRON_LM,
    ):
        raise InputError(
            f"Cannot train with {accelerator.distributed_type.value}: sharding the model is not supported "
            "(with freeze=0.7, BLIP large and its optimizer take 3.5 GB). Use torchrun or accelerate's "
            "multi-GPU launcher; to save memory set batch_size=1, gradient_checkpointing=true or "
            "mixed_precision=bf16."
        )


def prepare_splits(
    settings: TrainingConfig,
    given: Mapping[str, Sequence[RankedPrompt]] | None,
    main: bool,
) -> dict[str, Usable]:
    """Return the usable groups of each split and log what was left out.

    Args:
        settings: the run's settings.
        given: the caller's splits, used instead of ``settings.data``.
        main: whether this is the first rank, the one that logs.

    Raises:
        InputError: there is no data to train on.
    """
    info, warn = (logger.info, logger.warning) if main else (logger.debug, logger.debug)
    if given is None:
        if not settings.data:
            raise InputError(
                "Cannot train: no data given. Set --data to a folder with train.json or to a rankings file."
            )
        given = available_splits(settings.data, settings.images or None)
    if not given.get("train"):
        raise InputError("Cannot train: the training data has no groups.")
    has_validation = bool(given.get("validation"))
    splits = with_validation(given, settings.validation_share, settings.seed)
    if not has_validation and splits.get("validation"):
        info(f"no validation set: holding out {len(splits['validation']):,} groups of the training data")
    usable = {name: usable_groups(groups, f"{name} data") for name, groups in splits.items() if groups}
    for name, split in usable.items():
        parts = [f"{len(split.groups):,} groups"]
        if split.missing:
            parts.append(f"{len(split.missing):,} images missing or empty (skipped.json)")
        if split.dropped:
            parts.append(f"{split.dropped:,} groups dropped with fewer than two readable images")
        if split.tied:
            parts.append(f"{split.tied:,} dropped because all their images are tied")
        info(f"{name}: {', '.join(parts)}")
    for name in ("validation", "test"):
        if name in usable and (leaked := seen_in_training(usable["train"].groups, usable[name].groups)):
            warn(
                f"{leaked:,} of {len(usable[name].groups):,} groups of the {name} data compare images that "
                f"the training data compares for the same prompt; the {name} accuracy will be too high"
            )
    return usable


def seen_in_training(train: Sequence[RankedPrompt], other: Sequence[RankedPrompt]) -> int:
    """Count the other groups that share two or more images with a training group of the same prompt."""

    def image_names(group: RankedPrompt) -> set[str]:
        return {
            f"{id(image)}" if isinstance(image, Image.Image) else os.path.abspath(image_name(image))
            for image in group.images
        }

    keys = {(group.prompt, name) for group in other for name in image_names(group)}
    prompts = {prompt for prompt, _ in keys}
    train_groups: dict[tuple[str, str], list[int]] = {}  # (prompt, image) -> indices of training groups
    for index, group in enumerate(train):
        if group.prompt in prompts:
            for name in image_names(group):
                if (group.prompt, name) in keys:
                    train_groups.setdefault((group.prompt, name), []).append(index)
    leaked = 0
    for group in other:
        shared = Counter(
            index for name in image_names(group) for index in train_groups.get((group.prompt, name), ())
        )
        leaked += max(shared.values(), default=0) > 1
    return leaked


def prepare_model(
    settings: TrainingConfig, model: RewardModel | None, accelerator: Accelerator
) -> RewardModel:
    """Return the model to train, on its device, partly frozen, with rewards that are not standardized.

    Args:
        settings: the run's settings.
        model: the caller's model; None loads ``settings.init``.
        accelerator: the run's device and precision.

    Raises:
        InputError: the model's weights are in 16 bits.
        Other errors: see ``starting_model``.
    """
    if model is None:
        with accelerator.main_process_first():  # one rank downloads, the others use its files
            model = starting_model(settings)
    else:
        if rounded := {p.dtype for p in model.parameters()} & {torch.bfloat16, torch.float16}:
            raise InputError(
                f"Cannot train a model whose weights are rounded to {', '.join(map(str, rounded))}: small "
                'updates would be lost. Load it with precision="exact" (mixed_precision sets the dtype of '
                "the computation)."
            )
        model.config = dataclasses.replace(
            model.config, reward_mean=0.0, reward_std=1.0, score_quantiles=None
        )
    freeze(model, settings)
    if accelerator.mixed_precision != "no":
        use_float32_attention(model)
    return model.to(accelerator.device)


def make_optimizers(settings: TrainingConfig, rewards: GroupRewards) -> list[torch.optim.Optimizer]:
    """Return the optimizers that the settings name; see ``build_optimizers``."""
    try:
        return build_optimizers(
            rewards,
            settings.lr,
            settings.muon_lr if settings.optimizer == "muon" else 0.0,
            (settings.beta1, settings.beta2),
            settings.epsilon,
            settings.weight_decay,
            torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def make_readers(
    settings: TrainingConfig,
    rewards: GroupRewards,
    splits: Mapping[str, Usable],
    accelerator: Accelerator,
    reword: Reword | None,
) -> dict[str, GroupReader]:
    """Return a reader for each split; if ``settings.cache`` is set, train and validation have a cache."""
    readers = {}
    for name, split in splits.items():
        split_reword = reword if name == "train" else None
        reader = GroupReader(split.groups, rewards.model.transform, split_reword, settings.workers, name)
        if name != "test":
            reader.cache = make_cache(settings, rewards, reader, accelerator)
        readers[name] = reader
    return readers


def make_cache(
    settings: TrainingConfig, rewards: GroupRewards, reader: GroupReader, accelerator: Accelerator
) -> TokenCache | None:
    """Return the token cache of a split, or None if ``settings.cache`` is empty or nothing is frozen."""
    if not settings.cache or not rewards.has_frozen:
        return None
    model, images = rewards.model, reader.images
    with torch.no_grad():
        _, count, width = rewards.dummy_inputs()[0].shape  # (1, N, E)
    dtype = f"{settings.cache_dtype} {accelerator.mixed_precision}"
    key = cache_key(rewards.frozen_parameters(), model.transform, rewards.block, dtype, images)
    with accelerator.main_process_first():
        return TokenCache(
            Path(settings.cache),
            key,
            len(images),
            (count, width),
            settings.cache_dtype,
            settings.cache_gb * 1e9,
            accelerator.is_main_process,
        )


def fingerprint(settings: TrainingConfig, splits: Mapping[str, Usable]) -> str:
    """Return a hash of the data and of the settings that affect the weights; a resumed run must match it."""
    digest = hashlib.sha256(json.dumps(settings.decisive(), sort_keys=True).encode())
    for name, split in sorted(splits.items()):
        for group in split.groups:
            digest.update(_group_bytes(name, group))
    return digest.hexdigest()[:16]


def decisive_facts(
    settings: TrainingConfig, splits: Mapping[str, Usable], model: RewardModel, given: bool
) -> dict[str, Any]:
    """Return what affects the weights, by the name that the error of a refused resume shows.

    Besides the parts of ``fingerprint`` these are hashes of the images (by their file sizes, as reading
    all of them would take long) and of the initial weights.

    Args:
        settings: the run's settings.
        splits: the usable groups of each split.
        model: the model, with its frozen parameters frozen.
        given: whether the caller passed the model and may have trained it already; then only its frozen
            weights count, since checkpoints hold the others.
    """
    facts = settings.decisive()
    for name, split in sorted(splits.items()):
        rankings, images = hashlib.sha256(), hashlib.sha256()
        for group in split.groups:
            rankings.update(_group_bytes(name, group))
            states = [image_state(image)[:1] for image in group.images]
            images.update(json.dumps([list(map(_file_name, group.images)), states]).encode())
        facts[f"the rankings of {name}"] = rankings.hexdigest()[:16]
        facts[f"the images of {name}"] = images.hexdigest()[:16]
    frozen, rest = hashlib.sha256(), hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name.startswith(("blip.vision_proj.", "blip.text_proj.")):  # unused by rewards
            continue
        digest = rest if parameter.requires_grad else frozen
        digest.update(f"{name} {list(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    facts["the frozen weights to start from"] = frozen.hexdigest()[:16]
    if not given:
        facts["the weights to start from"] = rest.hexdigest()[:16]
    return facts


def _group_bytes(split: str, group: RankedPrompt) -> bytes:
    names = list(map(_file_name, group.images))
    return json.dumps([split, group.id, group.prompt, names, group.ranks]).encode()


def _file_name(image: ImageSource) -> str:
    """Return an image's name without its folder, since data may move before a run is resumed."""
    return Path(image_name(image)).name

"""What a run is put together from, decided by its settings and data alone."""

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
from .config import TrainingConfig
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
    """Import accelerate; MissingExtraError names the extra where something of it is missing."""
    for module, name in (("accelerate", "accelerate"), ("yaml", "PyYAML"), ("matplotlib", "matplotlib")):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtraError("train", name) from error
    import accelerate

    return accelerate


def make_accelerator(settings: TrainingConfig) -> Accelerator:
    """Devices, processes, precision and trackers, as far as settings and launcher say.

    Raises:
        InputError: a precision or a way of sharing out that cannot be had.
    """
    accelerate = load_extra()
    out = Path(settings.out)
    try:
        accelerator = accelerate.Accelerator(
            mixed_precision=mixed_precision(settings),
            log_with=list(settings.trackers) or None,
            project_config=accelerate.utils.ProjectConfiguration(str(out), str(out / "logs")),
            cpu=settings.cpu,
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"accelerate: {error}") from error
    check_distribution(accelerator)
    return accelerator


def mixed_precision(settings: TrainingConfig) -> str:
    if settings.mixed_precision != "auto":
        return settings.mixed_precision
    if launched := os.environ.get("ACCELERATE_MIXED_PRECISION"):
        return launched
    on_gpu = torch.cuda.is_available() and not settings.cpu
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def check_distribution(accelerator: Accelerator) -> None:
    """Raises InputError for ways of sharing the work out that are not supported."""
    from accelerate.utils import DistributedType

    if accelerator.distributed_type in (
        DistributedType.FSDP,
        DistributedType.DEEPSPEED,
        DistributedType.MEGATRON_LM,
    ):
        raise InputError(
            f"{accelerator.distributed_type.value} shards the model, which is not supported: at 0.7 frozen "
            "the whole state of BLIP large takes 3.5 GB. Take processes that each hold it (torchrun, or "
            "accelerate's multi-GPU); where memory is short, batch_size=1, gradient_checkpointing=true or "
            "mixed_precision=bf16"
        )


def prepare_splits(
    settings: TrainingConfig,
    given: Mapping[str, Sequence[RankedPrompt]] | None,
    main: bool,
) -> dict[str, Usable]:
    """Return the groups of each split that can be used; what cannot be is logged.

    Args:
        main: whether this is the first rank, which logs.
    """
    info, warn = (logger.info, logger.warning) if main else (logger.debug, logger.debug)
    if given is None:
        if not settings.data:
            raise InputError("no data given: --data takes a folder with train.json, or a file of rankings")
        given = available_splits(settings.data, settings.images or None)  # one without validation is reported
    if not given.get("train"):
        raise InputError("no groups to train on")
    had = bool(given.get("validation"))
    splits = with_validation(given, settings.validation_share, settings.seed)
    if not had and splits.get("validation"):
        info(f"no validation set: {len(splits['validation']):,} groups of the training data are held out")
    usable = {name: usable_groups(groups, f"{name} data") for name, groups in splits.items() if groups}
    for name, split in usable.items():
        parts = [f"{len(split.groups):,} groups"]
        if split.missing:
            parts.append(f"{len(split.missing):,} images missing or empty (skipped.json)")
        if split.dropped:
            parts.append(f"{split.dropped:,} groups dropped that are left with fewer than two")
        if split.tied:
            parts.append(f"{split.tied:,} in which all is tied")
        info(f"{name}: {', '.join(parts)}")
    for name in ("validation", "test"):
        if name in usable and (leaked := seen_in_training(usable["train"].groups, usable[name].groups)):
            warn(
                f"{leaked:,} of {len(usable[name].groups):,} groups of the {name} data compare "
                "images that the training data compares for the same prompt: its accuracy is flattered"
            )
    return usable


def seen_in_training(train: Sequence[RankedPrompt], other: Sequence[RankedPrompt]) -> int:
    """How many of the other groups share two images or more with a training group of their prompt."""

    def image_names(group: RankedPrompt) -> set[str]:
        return {
            f"{id(image)}" if isinstance(image, Image.Image) else os.path.abspath(image_name(image))
            for image in group.images
        }

    wanted = {(group.prompt, name) for group in other for name in image_names(group)}
    prompts = {prompt for prompt, _ in wanted}
    holders: dict[tuple[str, str], list[int]] = {}  # numbers of the training groups that hold an image
    for number, group in enumerate(train):
        if group.prompt in prompts:
            for name in image_names(group):
                if (group.prompt, name) in wanted:
                    holders.setdefault((group.prompt, name), []).append(number)
    leaked = 0
    for group in other:
        shared = Counter(n for name in image_names(group) for n in holders.get((group.prompt, name), ()))
        leaked += max(shared.values(), default=0) > 1
    return leaked


def prepare_model(
    settings: TrainingConfig, model: RewardModel | None, accelerator: Accelerator
) -> RewardModel:
    """The model to start from, on its device, frozen as it is to be; rewards are the head's own output.

    Raises:
        InputError: a model whose weights are rounded to 16 bits; besides, as ``starting_model``.
    """
    if model is None:
        with accelerator.main_process_first():  # one downloads, the others find it
            model = starting_model(settings)
    else:
        if rounded := {p.dtype for p in model.parameters()} & {torch.bfloat16, torch.float16}:
            raise InputError(
                f"the model's weights are rounded to {', '.join(map(str, rounded))}, in which small steps "
                'are lost; load it with precision="exact" (mixed_precision says in what training computes)'
            )
        model.config = dataclasses.replace(
            model.config, reward_mean=0.0, reward_std=1.0, score_quantiles=None
        )
    freeze(model, settings)
    if accelerator.mixed_precision != "no":
        use_float32_attention(model)
    return model.to(accelerator.device)


def make_optimizers(settings: TrainingConfig, rewards: GroupRewards) -> list[torch.optim.Optimizer]:
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


def long_prompts(model: RewardModel, splits: Mapping[str, Usable]) -> int:
    """How many different prompts are cut off at the tokenizer's length."""
    prompts = sorted({group.prompt for split in splits.values() for group in split.groups})
    encoded = model.tokenizer.fast_tokenizer.encode_batch(prompts)
    return sum(len(one.ids) > model.tokenizer.max_length for one in encoded)


def make_readers(
    settings: TrainingConfig,
    rewards: GroupRewards,
    splits: Mapping[str, Usable],
    accelerator: Accelerator,
    reword: Reword | None,
) -> dict[str, GroupReader]:
    """Return a reader for each split, those of training and validation with a cache where one is wanted."""
    readers = {}
    for name, split in splits.items():
        words = reword if name == "train" else None
        reader = GroupReader(split.groups, rewards.model.transform, words, settings.workers, name)
        if name != "test":
            reader.cache = make_cache(settings, rewards, reader, accelerator)
        readers[name] = reader
    return readers


def make_cache(
    settings: TrainingConfig, rewards: GroupRewards, reader: GroupReader, accelerator: Accelerator
) -> TokenCache | None:
    """The cache of a split's images, or None where none is wanted or nothing is frozen."""
    if not settings.cache or not rewards.has_frozen:
        return None
    model, images = rewards.model, reader.images
    with torch.no_grad():
        _, count, width = rewards.nothing()[0].shape  # (1, N, E)
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
    """Of every setting that decides what is trained, and of the data; the rest may change on the way."""
    digest = hashlib.sha256(json.dumps(settings.decisive(), sort_keys=True).encode())
    for name, split in sorted(splits.items()):
        for group in split.groups:
            digest.update(_described(name, group))
    return digest.hexdigest()[:16]


def decisive_facts(
    settings: TrainingConfig, splits: Mapping[str, Usable], model: RewardModel, given: bool
) -> dict[str, Any]:
    """The same in parts, each under the name by which a run that may not go on tells what changed; beside
    it the images, by their sizes (reading all would take long), and the weights to start from.

    Args:
        model: frozen as it is to be. given: by the caller, who may have trained it already; then only what
            is frozen counts, since checkpoints hold the rest.
    """
    facts = settings.decisive()
    for name, split in sorted(splits.items()):
        rankings, images = hashlib.sha256(), hashlib.sha256()
        for group in split.groups:
            rankings.update(_described(name, group))
            states = [image_state(image)[:1] for image in group.images]
            images.update(json.dumps([list(map(_key, group.images)), states]).encode())
        facts[f"the rankings of {name}"] = rankings.hexdigest()[:16]
        facts[f"the images of {name}"] = images.hexdigest()[:16]
    frozen, rest = hashlib.sha256(), hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name.startswith(("blip.vision_proj.", "blip.text_proj.")):  # rewards do not use them
            continue
        digest = rest if parameter.requires_grad else frozen
        digest.update(f"{name} {list(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    facts["the frozen weights to start from"] = frozen.hexdigest()[:16]
    if not given:
        facts["the weights to start from"] = rest.hexdigest()[:16]
    return facts


def _described(split: str, group: RankedPrompt) -> bytes:
    return json.dumps([split, group.id, group.prompt, list(map(_key, group.images)), group.ranks]).encode()


def _key(image: ImageSource) -> str:
    """Without its folder: data may lie elsewhere when a run goes on."""
    return Path(image_name(image)).name

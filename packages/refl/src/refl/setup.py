"""Create the parts of a run from its settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_core.runs.checkpoint_folder import Trained
from reward_core.runs.cuda import fused_option

from .captioned_images import CaptionedImages, open_captioned
from .config import TrainConfig
from .dtypes import DTYPES
from .errors import ConfigError
from .families import Family, load_family
from .input_checks import check_downloads, check_model, check_out
from .no_grad_copy import NoGradCopy
from .objective import image_size
from .prompts import read_prompts
from .rewards import RewardFunction, Rewards, check_reward_names, load_rewards
from .trainable import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def find_prompts(config: TrainConfig, prompts: str | os.PathLike[str] | Sequence[str] | None) -> list[str]:
    """Return the prompts of a list, of a file, or of the file that the settings name."""
    prompts = prompts if prompts is not None else config.prompts
    if not isinstance(prompts, (str, os.PathLike)):
        return list(prompts)
    if not os.fspath(prompts):
        raise ConfigError("Cannot train: no prompts are given. Set prompts to a file or pass a list.")
    return read_prompts(prompts)


def check_inputs(config: TrainConfig, rewards: Mapping[str, RewardFunction]) -> None:
    """Raise ReflError for invalid names and paths and missing models before anything is loaded."""
    check_reward_names(config.rewards, rewards)
    check_model(config.model.id)
    check_out(config.run.out)
    check_downloads(config, rewards)


def split_prompts(prompts: list[str], count: int) -> tuple[list[str], list[str]]:
    """Return (training prompts, validation prompts), without overlap if there are enough."""
    validation = prompts[-count:] if count else []
    return (prompts[:-count] if count and len(prompts) >= 4 * count else prompts), validation


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of the settings; environment variables do not change its accumulation.

    Raises:
        ConfigError: the launcher shards the model, or a tracker is not installed.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, GradientAccumulationPlugin, ProjectConfiguration

    _check_trackers(config.run.trackers)
    out = Path(config.run.out)
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        # The training loop accumulates gradients. Without this plugin, accelerate would divide them again
        # by ACCELERATE_GRADIENT_ACCUMULATION_STEPS.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=list(config.run.trackers) or None,
        project_config=ProjectConfiguration(str(out), str(out / "logs")),
        cpu=config.run.cpu,
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ConfigError(
            f"Cannot train with {accelerator.distributed_type.value}: a model sharded over processes is not "
            "supported. Start processes with a whole model each (torchrun, or accelerate's multi-GPU)."
        )
    return accelerator


def _check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for unknown trackers and those not installed, which accelerate would ignore."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known, available = [
        [str(kind) for kind in kinds] for kinds in (LOGGER_TYPE_TO_CLASS, get_available_trackers())
    ]
    for name in names:
        if name not in known and name != "all":
            raise ConfigError(
                f"Cannot use run.trackers={name!r}: unknown. Use any of {', '.join(known)}, all, or "
                "[] for none."
            )
        if name in known and name not in available:
            raise ConfigError(
                f"Cannot use run.trackers={name!r}: it is not installed. Install it, or set run.trackers=[]."
            )


def make_family(config: TrainConfig, accelerator: Accelerator) -> Family:
    """Load the diffusion model with a fixed seed, so that adapters start equal on every rank.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: the model does not support the image size, the steps or the sampler.
    """
    import diffusers
    from accelerate.utils import set_seed

    diffusers.utils.logging.set_verbosity_error()  # it warns about every truncated prompt
    set_seed(config.run.seed)
    model = config.model
    logger.info("loading %s", model.id)
    dtype = frozen_dtype(config, accelerator.device)
    family = load_family(model.id, revision=model.revision, variant=model.variant, dtype=dtype)
    check_schedules(config, family)
    if model.vae_tiling:
        family.pipeline.vae.enable_tiling()
    if model.channels_last:
        family.denoiser.to(memory_format=torch.channels_last)
    return family


def check_schedules(config: TrainConfig, family: Family) -> None:
    """Raise ConfigError if the model does not support the image size, the steps or the sampler."""
    height, width = image_size(config, family)
    for steps in (config.rollout.steps, config.validation.steps or config.rollout.steps):
        family.schedule(steps, config.rollout.sampler, height, width)


def make_rewards(
    config: TrainConfig,
    family: Family,
    accelerator: Accelerator,
    functions: Mapping[str, RewardFunction] | None,
) -> Rewards:
    """Load the rewards and try each on two images; raise RewardError if one fails."""
    rewards = load_rewards(config.rewards, accelerator.device, functions)
    logger.info("checking the rewards on two images")
    rewards.check(*image_size(config, family), accelerator.device)
    return rewards


def open_captions(config: TrainConfig) -> CaptionedImages | None:
    """Open the captioned images of the pretraining loss, or return None if the settings name none."""
    if not config.loss.pretraining_data:
        return None
    logger.info("listing the captioned images of %s", config.loss.pretraining_data)
    return open_captioned(config.loss)


def make_no_grad_copy(config: TrainConfig, family: Family, device: torch.device) -> NoGradCopy | None:
    """Return the copy of ``rollout.no_grad_dtype``, or None. Call it before adapters are added."""
    rollout = config.rollout
    if not rollout.no_grad_dtype:
        return None
    return NoGradCopy(family, rollout.no_grad_dtype, device, rollout.no_grad_compile, rollout.no_grad_graphs)


def prepare_denoiser(config: TrainConfig, family: Family) -> None:
    """Enable gradient checkpointing and compilation according to the settings."""
    if config.model.gradient_checkpointing:
        family.denoiser.enable_gradient_checkpointing()
        family.denoiser.train()  # diffusers checkpoints in training mode only
    if config.model.compile:
        family.denoiser.compile()


def frozen_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of frozen weights; trained weights are float32."""
    return torch.float32 if config.model.lora_rank == 0 else DTYPES[config.run.mixed_precision]


def make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    settings = config.optimizer
    fused: dict[str, Any] = fused_option(parameters)
    kind: Any = partial(torch.optim.AdamW, **fused)
    if settings.eight_bit:
        try:
            from bitsandbytes.optim import AdamW8bit

            kind = AdamW8bit
        except ImportError as error:
            raise ConfigError(
                "Cannot use optimizer.eight_bit: bitsandbytes is not installed. Run "
                "`pip install bitsandbytes`."
            ) from error

    return kind(
        parameters,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )


def make_lr_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer) -> Any:
    from diffusers.optimization import get_scheduler

    settings = config.optimizer
    name = settings.schedule
    if name == "constant" and settings.warmup_steps:  # diffusers' "constant" ignores the warm-up
        name = "constant_with_warmup"
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=config.run.steps,
    )


def what_is_trained(
    accelerator: Accelerator, trainable: Trainable, optimizer: Any, lr_schedule: Any
) -> Trained:
    """Return the parts of a checkpoint: weights and their average, optimizer, learning-rate schedule."""

    def numbers() -> dict[str, Any]:
        schedule = lr_schedule.state_dict()
        schedule.pop("lr_lambdas", None)  # functions, recreated from the settings
        return {"schedule": schedule, "ema": trainable.numbers()}

    def load_numbers(saved: dict[str, Any]) -> None:
        lr_schedule.load_state_dict({**lr_schedule.state_dict(), **saved["schedule"]})
        trainable.load_numbers(saved["ema"])

    return Trained(accelerator, trainable.tensors, trainable.load_tensors, [optimizer], numbers, load_numbers)


def fingerprint(
    config: TrainConfig,
    prompts: Sequence[str],
    validation: Sequence[str],
    captioned: CaptionedImages | None,
) -> str:
    """Return a hash of the settings and data that a resumed run must share with the interrupted one.

    Args:
        prompts: training prompts.
        validation: validation prompts.
        captioned: captioned images; only names and sizes are hashed, since reading them would take long.
    """
    document = config.to_dict()
    for name in ("out", "checkpoint_every", "checkpoints", "trackers", "push_to_hub", "cpu"):
        document["run"].pop(name)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    digest.update(json.dumps([list(prompts), list(validation)]).encode())
    for entry in captioned.entries if captioned is not None else ():
        digest.update(json.dumps([entry.name, entry.size]).encode())
    return digest.hexdigest()[:16]

"""Create the parts of a run from its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .checks.input_checks import check_downloads, check_model, check_out, check_reward_names, is_import_path
from .config import TrainConfig
from .data.captioned_images import CaptionedImages, open_captioned
from .data.prompts import Batches
from .dtypes import DTYPES
from .families import Family, load_family
from .families.decoding import recompute_in_backward
from .fast_steps.gradient_graphs import copy_is_recorded, no_fixed_shapes, recorded_parts
from .fast_steps.no_grad_copy import NoGradCopy
from .objectives.gradient_objective import GradientObjective
from .objectives.grpo_objective import GRPOObjective
from .objectives.nft_objective import NFTObjective
from .objectives.objective import Objective
from .objectives.srpo_objective import SRPOObjective
from .rewards import AnyReward, Rewards, load_rewards
from .rewards.image_rewards import import_function

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


def check_inputs(config: TrainConfig, rewards: Mapping[str, AnyReward]) -> None:
    """Raise ReflError for invalid names and paths and missing models before anything is loaded."""
    check_reward_names(config, rewards)
    for reward in config.rewards:
        if reward.name not in rewards and is_import_path(reward.name):
            import_function(reward.name)
    check_model(config.model.id)
    check_out(config.run.out)
    check_downloads(config, rewards)


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
        family.enable_tiling()
    if model.channels_last:
        family.denoiser.to(memory_format=torch.channels_last)
    return family


def check_schedules(config: TrainConfig, family: Family) -> None:
    """Raise ConfigError if the model does not support the image size, the steps or the sampler."""
    height, width = family.image_size(config.rollout.height, config.rollout.width)
    for steps in (config.rollout.steps, config.validation.steps or config.rollout.steps):
        family.schedule(steps, config.rollout.sampler, height, width)


def make_rewards(
    config: TrainConfig,
    family: Family,
    accelerator: Accelerator,
    functions: Mapping[str, AnyReward] | None,
    prompts: Sequence[str],
    names: Collection[str] | None = None,
) -> Rewards:
    """Load the rewards and try each on two images; raise RewardError if one fails.

    Rewards of images may know the run's prompts only, so they are tried with two of these.

    Args:
        config: settings of the run.
        family: the diffusion model.
        accelerator: names the device.
        functions: functions of the caller, by name of the reward.
        prompts: training prompts.
        names: load only these rewards; None: all.
    """
    loss, needs_gradient = config.loss, config.strategy.needs_reward_gradient
    rewards = load_rewards(
        [reward for reward in config.rewards if names is None or reward.name in names],
        accelerator.device,
        functions,
        needs_gradient,
        loss.ensemble,
        loss.ensemble_k,
    )
    logger.info("checking the rewards on two images")
    known = [prompts[0], prompts[-1]]
    size = family.image_size(config.rollout.height, config.rollout.width)
    rewards.check(*size, accelerator.device, known, needs_gradient)
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
    if rollout.no_grad_graphs and not family.fixed_shapes:
        raise no_fixed_shapes("no_grad_graphs", family)
    graphs = copy_is_recorded(config, family)
    return NoGradCopy(family, rollout.no_grad_dtype, device, rollout.no_grad_compile, graphs)


def make_batches(config: TrainConfig, accelerator: Accelerator, prompts: Sequence[str]) -> Batches:
    """Return which samples each microstep uses; raise ConfigError if groups do not fit into a step."""
    run, ranks, rank = config.run, accelerator.num_processes, accelerator.process_index
    group = 1 if config.strategy.needs_reward_gradient else config.strategy.group
    return Batches(prompts, run.seed, run.batch_size, run.accumulation, ranks, rank, group)


def make_objective(config: TrainConfig, *parts: Any) -> Objective:
    """Return the objective of the strategy from the parts that Objective takes."""
    kinds: dict[str, Callable[..., Objective]]
    kinds = {"nft": NFTObjective, "grpo": GRPOObjective, "srpo": SRPOObjective}
    return kinds.get(config.strategy.name, GradientObjective)(config, *parts)


def prepare_denoiser(config: TrainConfig, family: Family) -> None:
    """Enable gradient checkpointing and compilation according to the settings."""
    if config.model.gradient_checkpointing:
        # diffusers' own function saves the state of random numbers, which CUDA graphs cannot.
        recompute = recompute_in_backward if "denoiser" in recorded_parts(config, family) else None
        family.denoiser.enable_gradient_checkpointing(recompute)
        family.denoiser.train()  # diffusers checkpoints in training mode only
    if config.model.compile:
        family.denoiser.compile()


def frozen_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of frozen weights; trained weights are float32."""
    return torch.float32 if config.model.lora_rank == 0 else DTYPES[config.run.mixed_precision]

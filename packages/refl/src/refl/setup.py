"""Create the parts of a run from its settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_core.runs.checkpoint_folder import Trained

from .captioned_images import CaptionedImages, open_captioned
from .config import TrainConfig
from .dtypes import DTYPES
from .errors import ConfigError
from .families import Family, load_family
from .families.decoding import recompute_in_backward
from .gradient_graphs import is_small, no_fixed_shapes, recorded_parts
from .gradient_objective import GradientObjective
from .grpo_objective import GRPOObjective
from .image_rewards import import_function
from .input_checks import check_downloads, check_model, check_out, check_reward_names, is_import_path
from .nft_objective import NFTObjective
from .no_grad_copy import NoGradCopy
from .objective import Objective
from .prompts import Batches, read_prompts
from .rewards import AnyReward, Rewards, load_rewards
from .srpo_objective import SRPOObjective
from .strategies import SRPO_SETTINGS

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


def find_validation_prompts(
    config: TrainConfig, prompts: str | os.PathLike[str] | Sequence[str] | None
) -> list[str] | None:
    """Return the validation prompts of a list or file, or None if neither is given."""
    prompts = prompts if prompts is not None else config.validation.prompts_file
    if not isinstance(prompts, (str, os.PathLike)):
        return list(prompts)
    return read_prompts(prompts) if os.fspath(prompts) else None


def check_inputs(config: TrainConfig, rewards: Mapping[str, AnyReward]) -> None:
    """Raise ReflError for invalid names and paths and missing models before anything is loaded."""
    check_reward_names(config, rewards)
    for reward in config.rewards:
        if reward.name not in rewards and is_import_path(reward.name):
            import_function(reward.name)
    check_model(config.model.id)
    check_out(config.run.out)
    check_downloads(config, rewards)


def split_prompts(
    prompts: list[str], validation: list[str] | None, count: int
) -> tuple[list[str], list[str]]:
    """Return (training prompts, validation prompts).

    Without given validation prompts the last ``count`` prompts are used. They are left out of training if
    there are at least four times as many prompts; otherwise the overlap is reported.
    """
    if validation is not None:
        return prompts, validation
    if not count:
        return prompts, []
    if len(prompts) >= 4 * count:
        return prompts[:-count], prompts[-count:]
    logger.warning(
        "validating on %d prompts that are trained on too: there are only %d. Set validation.prompts_file, "
        "or validation.prompts=%d",
        min(count, len(prompts)),
        len(prompts),
        len(prompts) // 4,
    )
    return prompts, prompts[-count:]


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
    graphs = rollout.no_grad_graphs
    if graphs and not family.fixed_shapes:
        raise no_fixed_shapes("no_grad_graphs", family)
    if graphs is None:
        graphs = family.fixed_shapes and is_small(family) and not rollout.no_grad_compile
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


def what_is_trained(objective: Objective, optimizer: Any, lr_schedule: Any) -> Trained:
    """Return the parts of a checkpoint: weights and their average, optimizer, learning-rate schedule."""
    trainable = objective.trainable

    def numbers() -> dict[str, Any]:
        schedule = lr_schedule.state_dict()
        schedule.pop("lr_lambdas", None)  # functions, recreated from the settings
        return {"schedule": schedule, "ema": trainable.numbers(), "objective": objective.numbers()}

    def load_numbers(saved: dict[str, Any]) -> None:
        lr_schedule.load_state_dict({**lr_schedule.state_dict(), **saved["schedule"]})
        trainable.load_numbers(saved["ema"])
        objective.load_numbers(saved["objective"])

    accelerator = objective.accelerator
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
    for name in ("no_grad_graphs", "gradient_graphs"):  # the results are the same
        document["rollout"].pop(name)
    if config.strategy.name != "srpo":  # runs from before this strategy resume
        for name in SRPO_SETTINGS:
            document["strategy"].pop(name)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    digest.update(json.dumps([list(prompts), list(validation)]).encode())
    for entry in captioned.entries if captioned is not None else ():
        digest.update(json.dumps([entry.name, entry.size]).encode())
    return digest.hexdigest()[:16]

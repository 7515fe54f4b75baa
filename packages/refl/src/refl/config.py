"""Every setting of a run, in nested frozen dataclasses; what they mean, and what cannot be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError
from .strategies import StrategyConfig


@dataclass(frozen=True)
class ModelConfig:
    """The diffusion model.

    Attributes:
        id: hub id, folder of a pipeline, or single file.
        revision: branch, tag or commit on the hub.
        variant: of the weight files ("fp16").
        lora_rank: of the adapters; 0 trains all weights of the denoiser.
        lora_alpha: adapters are scaled by alpha / rank; None: the rank.
        lora_targets: names of the layers that get adapters; empty: the attentions' projections.
        gradient_checkpointing: recompute inside the denoiser too (less memory, slower).
        compile: torch.compile the denoiser.
        vae_tiling: decode in tiles (large images on small GPUs).
        channels_last: memory layout of convolutions, faster on GPUs.
    """

    id: str = "CompVis/stable-diffusion-v1-4"
    revision: str | None = None
    variant: str | None = None
    lora_rank: int = 16
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ()
    gradient_checkpointing: bool = False
    compile: bool = False
    vae_tiling: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class RolloutConfig:
    """How images are made during training and validation.

    Attributes:
        height: pixels; 0: the side that the model was made for.
        width: pixels; 0: as height.
        steps: denoising steps.
        sampler: ddim, ddpm, euler, or flow for models of a flow; empty: the model's first.
        guidance_scale: classifier-free guidance; 1: none, as in the paper (FLUX: its own input).
        negative_prompt: for guidance.
        negative_gradient: whether gradient also passes through the negative prompt's branch.
        gradient_checkpointing: keep no activations of a gradient step and of the decoder, compute them again.
    """

    height: int = 0
    width: int = 0
    steps: int = 40
    sampler: str = ""
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    negative_gradient: bool = True
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class RewardConfig:
    """One reward.

    Attributes:
        name: whatever reward_core.load or load_score takes: "ImageReward-v1.0", "CLIP", a folder, ...
        weight: its share of the loss; 0: only watched, no gradient (held out).
        phi: relu (``relu(target - r)``, the original's), linear (``-r``) or clipped (``-min(r, target)``).
        target: for relu and clipped: beyond it, more reward is worth nothing.
    """

    name: str = "ImageReward-v1.0"
    weight: float = 1.0
    phi: str = "relu"
    target: float = 2.0


@dataclass(frozen=True)
class LossConfig:
    """What is added up.

    Attributes:
        reward_scale: lambda, by which the rewards' loss is multiplied; inert under Adam when it is the
            only loss, decisive beside others.
        distance: x0 or epsilon: the space in which the tuned model is held near the one it came from.
        distance_weight: of the mean squared distance over the steps with gradient; 0: none.
        pretraining_data: folder, .tar pattern or datasets id of images with captions; empty: none.
        pretraining_weight: of the ordinary denoising loss on them.
        pretraining_batch_size: images per process and microstep.
        image_column: of a datasets id.
        caption_column: of a datasets id.
    """

    reward_scale: float = 1e-3
    distance: str = "x0"
    distance_weight: float = 0.0
    pretraining_data: str = ""
    pretraining_weight: float = 1.0
    pretraining_batch_size: int = 2
    image_column: str = "image"
    caption_column: str = "text"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule.

    Attributes:
        lr: learning rate.
        schedule: constant, constant_with_warmup (the same), linear or cosine.
        warmup_steps: steps until ``lr`` is reached, whatever the schedule.
        beta1: decay of the gradient's mean.
        beta2: decay of the gradient's square.
        epsilon: of Adam.
        weight_decay: decoupled.
        max_grad_norm: gradients are scaled down to this norm; 0: never.
        eight_bit: optimizer state in 8 bits (needs bitsandbytes and a GPU).
        ema_decay: decay of the weights' moving average, which is then what is validated and saved; 0: none.
    """

    lr: float = 1e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    eight_bit: bool = False
    ema_decay: float = 0.0


@dataclass(frozen=True)
class ValidationConfig:
    """Images of fixed prompts and seeds, before, during and after.

    Attributes:
        every: steps between validations; 0: only before and after.
        prompts: how many of the prompts, from the end of the file; those are not trained on when the
            file has at least four times as many.
        seeds: images per prompt.
        batch_size: images made at once; 0: the training batch.
        steps: denoising steps; 0: as in training.
        stop_reward: name of the held-out reward that stops the run when it falls; empty: none does.
        stop_patience: validations in a row below its best that stop the run.
        stop_diversity: the run stops when images of one prompt differ less than this share of what they
            differed before training; 0: never.
        keep_best: what is saved in the end are the weights of the validation at which ``stop_reward`` was
            best (and diversity no less than ``stop_diversity``), not the last ones.
    """

    every: int = 50
    prompts: int = 8
    seeds: int = 2
    batch_size: int = 0
    steps: int = 0
    stop_reward: str = ""
    stop_patience: int = 2
    stop_diversity: float = 0.0
    keep_best: bool = False


@dataclass(frozen=True)
class RunConfig:
    """The run itself.

    Attributes:
        out: folder of everything the run writes.
        steps: optimizer steps.
        batch_size: samples per process and microstep.
        accumulation: microsteps per optimizer step.
        seed: of data order, noise and plans.
        mixed_precision: no, bf16 or fp16.
        tf32: allow TF32 products on a GPU.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        checkpoints: how many are kept.
        trackers: tensorboard, wandb, ...; names that accelerate knows.
        cpu: train on the CPU though there is a GPU.
        push_to_hub: repository to which the result is pushed; empty: none.
    """

    out: str = "runs/refl"
    steps: int = 100
    batch_size: int = 2
    accumulation: int = 1
    seed: int = 42
    mixed_precision: str = "no"
    tf32: bool = True
    checkpoint_every: int = 50
    checkpoints: int = 2
    trackers: tuple[str, ...] = ("tensorboard",)
    cpu: bool = False
    push_to_hub: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """A training run. ``load_config`` makes one from a preset, a YAML file and single settings."""

    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    rewards: tuple[RewardConfig, ...] = (RewardConfig(),)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    prompts: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as YAML and JSON take them."""
        return _plain(dataclasses.asdict(self))

    def check(self) -> TrainConfig:
        """Raise ConfigError for values that cannot be; returns itself."""
        self.strategy.check(self.rollout.steps)
        for path, value, least in (
            ("rollout.steps", self.rollout.steps, 1),
            ("rollout.height", self.rollout.height, 0),
            ("rollout.width", self.rollout.width, 0),
            ("model.lora_rank", self.model.lora_rank, 0),
            ("run.steps", self.run.steps, 0),
            ("run.batch_size", self.run.batch_size, 1),
            ("run.accumulation", self.run.accumulation, 1),
            ("run.checkpoints", self.run.checkpoints, 1),
            ("run.checkpoint_every", self.run.checkpoint_every, 0),
            ("validation.every", self.validation.every, 0),
            ("validation.batch_size", self.validation.batch_size, 0),
            ("validation.steps", self.validation.steps, 0),
            ("validation.stop_diversity", self.validation.stop_diversity, 0),
            ("validation.prompts", self.validation.prompts, 0),
            ("validation.seeds", self.validation.seeds, 1),
            ("validation.stop_patience", self.validation.stop_patience, 1),
            ("optimizer.lr", self.optimizer.lr, 0),
            ("optimizer.warmup_steps", self.optimizer.warmup_steps, 0),
            ("optimizer.max_grad_norm", self.optimizer.max_grad_norm, 0),
            ("loss.distance_weight", self.loss.distance_weight, 0),
            ("loss.pretraining_batch_size", self.loss.pretraining_batch_size, 1),
        ):
            if not value >= least:
                raise ConfigError(f"{path}: must be at least {least}, got {value}")
        for path, choice, allowed in (
            ("run.mixed_precision", self.run.mixed_precision, ("no", "bf16", "fp16")),
            ("loss.distance", self.loss.distance, ("x0", "epsilon")),
            ("optimizer.schedule", self.optimizer.schedule, SCHEDULES),
            *(("rewards.phi", reward.phi, PHIS) for reward in self.rewards),
        ):
            if choice not in allowed:
                raise ConfigError(f"{path}: must be one of {', '.join(allowed)}, got {choice!r}")
        if not 0 <= self.optimizer.ema_decay < 1:
            raise ConfigError(f"optimizer.ema_decay: must lie in [0, 1), got {self.optimizer.ema_decay}")
        names = [reward.name for reward in self.rewards]
        if not any(reward.weight for reward in self.rewards):
            raise ConfigError("rewards: none has a weight, so there is nothing to train for")
        if len(set(names)) < len(names):
            raise ConfigError(f"rewards: a name twice in {', '.join(names)}")
        stop = self.validation.stop_reward
        if stop and stop not in names:
            raise ConfigError(f"validation.stop_reward: {stop!r} is none of the rewards ({', '.join(names)})")
        if self.validation.keep_best and not stop:
            raise ConfigError("validation.keep_best: by which reward? validation.stop_reward names none")
        judging = "stop_diversity" if self.validation.stop_diversity else "stop_reward" if stop else ""
        if judging and not self.validation.prompts:
            raise ConfigError(f"validation.{judging}: never acts with validation.prompts=0; set at least 1")
        if self.validation.stop_diversity and self.validation.seeds < 2:
            raise ConfigError("validation.stop_diversity: never acts with validation.seeds=1; set at least 2")
        return self


SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")
PHIS = ("relu", "linear", "clipped")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value

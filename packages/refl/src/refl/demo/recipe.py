"""The demo's runs: settings of the trainer, prompts and captioned images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reward_core.files.atomic_write import atomic_write
from reward_core.shapes import parse

from ..config import (
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
    ValidationConfig,
)
from ..trainer import Trainer
from .scenes import captioned_images, sample_prompts
from .truth import read_truths

PIPELINE = Path(__file__).parent / "tiny"
REWARD, HELD_OUT_REWARD, TRUTH = "tiny", "tiny-judge", "truth"
DENOISING_STEPS, GUIDANCE = 20, 2.5
PAIR_SHARE = 0.5  # probability that a sampled validation prompt has two things
# Reward of clean, correct images by `tiny` (1.38 with one thing, 1.35 with two). More is not better.
CLEAN_REWARD = 1.35
# Weights of the policy losses beside the denoising loss. At 1 for nft and 10 for grpo, the gradients of both
# losses have similar norms.
NFT_REWARD_SCALE, GRPO_REWARD_SCALE = 0.3, 5.0


@dataclass(frozen=True)
class DemoSize:
    """Size of the demo.

    Attributes:
        steps: optimizer steps of each run.
        batch_size: generated images per step; the ordinary denoising loss uses twice as many captioned
            images.
        validate_every: optimizer steps between validations.
        validation_prompts: number of validation prompts, which are not trained on.
        validation_seeds: images per validation prompt.
        unseen_prompts: number of prompts for the final comparison, with one image each.
        train_prompts: number of training prompts.
        images: number of captioned images for the ordinary denoising loss.
        learning_rate: peak learning rate of AdamW.
        schedule: learning rate after the warm-up (see ``OptimizerConfig``).
        rollout_steps: denoising steps of the images generated for training. Validation and the final
            comparison use ``DENOISING_STEPS``.
        pair_share: probability that a sampled training prompt or captioned image has two things.
    """

    steps: int = 150
    batch_size: int = 16
    validate_every: int = 30
    validation_prompts: int = 32
    validation_seeds: int = 2
    unseen_prompts: int = 240
    train_prompts: int = 800
    images: int = 2000
    learning_rate: float = 2e-4
    schedule: str = "constant_with_warmup"
    rollout_steps: int = DENOISING_STEPS
    pair_share: float = PAIR_SHARE


SMALL = DemoSize(
    steps=4,
    batch_size=4,
    validate_every=2,
    validation_prompts=2,
    unseen_prompts=4,
    train_prompts=64,
    images=50,
    rollout_steps=DENOISING_STEPS // 2,
)

# As many denoiser passes as DemoSize(), in more steps that each cost less.
SHORT_ROLLOUTS = DemoSize(
    steps=214, learning_rate=5e-4, schedule="cosine", rollout_steps=DENOISING_STEPS // 2, pair_share=0.9
)


def demo_config(out: Path, data: Path, size: DemoSize, seed: int) -> TrainConfig:
    """Return the settings of ReFL on all weights of the tiny pipeline.

    The ordinary denoising loss regularizes the run.

    The reward's loss has no gradient above the reward of clean images. The held-out reward and the
    diversity of the images stop the run and select the saved weights. The truth is only logged.
    """
    return TrainConfig(
        model=ModelConfig(id=str(PIPELINE), lora_rank=0),
        rollout=RolloutConfig(
            steps=size.rollout_steps, sampler="ddim", guidance_scale=GUIDANCE, gradient_checkpointing=False
        ),
        strategy=StrategyConfig(
            name="refl", first=3 * size.rollout_steps // 10, last=-(-3 * size.rollout_steps // 4)
        ),
        rewards=(
            RewardConfig(REWARD, 1.0, "relu", CLEAN_REWARD),
            RewardConfig(HELD_OUT_REWARD, 0.0),
            RewardConfig(TRUTH, 0.0, input="images"),
        ),
        loss=LossConfig(
            reward_scale=0.3,
            pretraining_data=str(data),
            pretraining_weight=1.0,
            pretraining_batch_size=2 * size.batch_size,
        ),
        optimizer=OptimizerConfig(
            lr=size.learning_rate,
            schedule=size.schedule,
            warmup_steps=10,
            weight_decay=0.0,
            ema_decay=0.95,  # without it, validations vary by as much as the run improves
        ),
        validation=ValidationConfig(
            every=size.validate_every,
            prompts=size.validation_prompts,
            seeds=size.validation_seeds,
            batch_size=32,
            steps=DENOISING_STEPS,
            stop_reward=HELD_OUT_REWARD,
            stop_patience=3,
            stop_diversity=0.7,
            keep_best=True,
        ),
        run=RunConfig(
            out=str(out),
            steps=size.steps,
            batch_size=size.batch_size,
            seed=seed,
            checkpoint_every=20,
            checkpoints=1,
            trackers=(),
            cpu=True,
        ),
    )


def nft_config(out: Path, data: Path, size: DemoSize, seed: int) -> TrainConfig:
    """Return the settings of nft with the oracle as a reward without gradient.

    The ordinary denoising loss regularizes the run. Images are generated in half as many steps as in
    ``demo_config``, since their true quality is the same, and trained on without guidance, at half the cost.
    """
    config = demo_config(out, data, size, seed)
    return replace(
        config,
        rollout=replace(config.rollout, steps=DENOISING_STEPS // 2),
        strategy=StrategyConfig("nft", group=8, levels=1, updates=2, guided_loss=False),
        rewards=(RewardConfig(TRUTH, input="images"), RewardConfig(HELD_OUT_REWARD, 0.0)),
        loss=replace(config.loss, reward_scale=NFT_REWARD_SCALE, pretraining_batch_size=2 * size.batch_size),
        optimizer=replace(config.optimizer, lr=1e-4),
        validation=replace(config.validation, steps=DENOISING_STEPS),
        run=replace(config.run, batch_size=2 * size.batch_size, accumulation=2),
    )


def grpo_config(out: Path, data: Path, size: DemoSize, seed: int) -> TrainConfig:
    """Return the settings of grpo with the oracle as a reward without gradient.

    They are those of ``nft_config``, but for the strategy, whose loss needs the guidance of the images.
    Without guidance, it improves fewer images, as they are compared with guidance.
    """
    config = nft_config(out, data, size, seed)
    return replace(
        config,
        strategy=StrategyConfig("grpo", group=8, updates=2),
        loss=replace(config.loss, reward_scale=GRPO_REWARD_SCALE),
    )


def control_config(config: TrainConfig) -> TrainConfig:
    """Return the settings of the control run: ``config`` without reward loss.

    It saves the last weights, because no reward may select them.
    """
    return replace(
        config,
        loss=replace(config.loss, reward_scale=0.0),
        validation=replace(config.validation, stop_reward="", stop_diversity=0.0, keep_best=False),
    )


def make_trainer(config: TrainConfig, size: DemoSize, seed: int) -> Trainer:
    """Build a trainer with the demo's prompts and the oracle as a held-out reward."""
    return Trainer(prompts=known_prompts(size, seed), args=config, rewards={TRUTH: truth_reward})


def known_prompts(size: DemoSize, seed: int) -> list[str]:
    """Return the training prompts, followed by the validation prompts.

    The validation prompts do not depend on ``size.pair_share``.
    """
    known = sample_prompts(size.train_prompts + size.validation_prompts, seed)
    train, validation = known[: size.train_prompts], known[size.train_prompts :]
    if size.pair_share != PAIR_SHARE:
        train = sample_prompts(size.train_prompts, seed, "train", size.pair_share, frozenset(validation))
    return [*train, *validation]


def unseen_prompts(count: int, seed: int) -> list[str]:
    """Return prompts with combinations that no training has seen."""
    return sample_prompts(count, 10_000 + seed, "held_out")


def truth_reward(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """Return the oracle's utility of N images, a reward without gradient.

    Prompts that are not ShapesBench's get 0.
    """
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    utility = np.zeros(len(prompts))
    known = [i for i, prompt in enumerate(prompts) if _is_known(prompt)]
    if known:
        utility[known] = read_truths(pixels[known], [prompts[i] for i in known]).utility
    return utility.tolist()


def _is_known(prompt: str) -> bool:
    try:
        parse(prompt)
    except ValueError:
        return False
    return True


def write_images(file: Path, count: int, seed: int, pair_share: float = PAIR_SHARE) -> None:
    """Write ``count`` clean images and prompts to a .tar, unless it exists."""
    if file.is_file():
        return
    captions = captioned_images(count, 20_000 + seed, pair_share=pair_share)
    with atomic_write(file) as temporary, tarfile.open(temporary, "w") as archive:
        for number, (pixels, prompt) in enumerate(captions):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            for suffix, content in ((".png", buffer.getvalue()), (".txt", prompt.encode())):
                member = tarfile.TarInfo(f"{number:05d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

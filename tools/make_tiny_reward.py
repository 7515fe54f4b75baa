"""Train the tiny reward model that comes with reward-core, from nothing, on ShapesBench.

    python tools/make_tiny_reward.py --out packages/reward-core/src/reward_core/demo/tiny

Everything is seeded: the weights, the groups, their order. The result is a folder that
`reward_core.load` reads, with a card (README.md) that says how it was made and how good it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

import reward_core
from reward_core import shapes
from reward_core.checkpoint import save_folder
from reward_core.config import RewardConfig
from reward_core.percentile import ScoreQuantiles
from reward_core.text_encoder import TextConfig
from reward_core.tokenizer import SPECIAL_TOKENS, PromptTokenizer
from reward_core.training import (
    CaptionedPicture,
    RankedGroup,
    TrainingConfig,
    accuracy,
    group_rewards,
    initialise_from_scratch,
    pretraining_loss,
    train,
)

PICTURES_PER_STEP, GROUPS_PER_STEP = 96, 16
COLUMNS = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()]


def tiny_config(vocab_lines: int) -> RewardConfig:
    """ImageReward's architecture at a size that trains on a CPU in minutes."""
    text = TextConfig(
        vocab_size=vocab_lines + 2,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=40,
        encoder_width=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return RewardConfig(
        image_size=64,
        patch_size=8,
        vision_width=128,
        vision_depth=4,
        vision_heads=4,
        vision_mlp_ratio=2,
        vision_drop_path=0.0,
        proj_dim=32,
        vocab_lines=vocab_lines,
        dec_token_id=vocab_lines,
        enc_token_id=vocab_lines + 1,
        text=text,
        reward_mlp=(96, 64, 16, 1),
        head_dropout=(),
        reward_mean=0.0,
        reward_std=1.0,
    )


class ShapesGroups(Dataset):
    """Group number i of ShapesBench, made on demand."""

    def __init__(self, count: int, config: shapes.GroupConfig, split: str):
        self.count, self.config, self.split = count, config, split

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RankedGroup:
        group = next(shapes.make_groups(1, self.config, self.split, start=index))
        return RankedGroup(group.prompt, group.pictures, group.ranking)


class ShapesCaptions(Dataset):
    """Clean picture number i with its prompt and near misses; the first half shows single things."""

    NEAR_MISSES = 2

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CaptionedPicture:
        rng = np.random.default_rng([self.seed, index])
        scene = shapes.sample_scene(rng, "train", pair_share=0.0 if index < self.count / 2 else 0.8)
        near = tuple(shapes.phrase(shapes.near_miss(scene, rng), rng) for _ in range(self.NEAR_MISSES))
        return CaptionedPicture(shapes.render_scene(scene, rng), shapes.phrase(scene, rng), near)


def batches(items: Dataset, size: int) -> Iterator[list]:
    # A worker draws the next pictures while this process trains; their order is that of the index.
    return iter(DataLoader(items, size, num_workers=1, collate_fn=list, prefetch_factor=8))


def groups_of(config: shapes.GroupConfig, split: str, count: int) -> list[RankedGroup]:
    groups = ShapesGroups(count, config, split)
    return [groups[i] for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the training groups")
    parser.add_argument("--pretraining-steps", type=int, default=500, help="of 96 captioned pictures")
    parser.add_argument("--steps", type=int, default=2000, help="of ranking, 16 groups each")
    parser.add_argument("--held-out-groups", type=int, default=1000, help="for the accuracy on the card")
    args = parser.parse_args()
    console = Console()

    vocabulary = [*SPECIAL_TOKENS, *shapes.VOCABULARY]
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder, "vocab.txt")
        vocab.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = PromptTokenizer.from_vocab(vocab)
    model = reward_core.RewardModel(tiny_config(len(vocabulary)), tokenizer)
    initialise_from_scratch(model, args.seed)
    torch.manual_seed(args.seed)  # of the words that are masked

    world = replace(shapes.TRAIN, seed=shapes.TRAIN.seed + args.seed)
    validation = groups_of(replace(world, seed=world.seed + 10_000), "train", 400)
    started = time.perf_counter()
    with Progress(*COLUMNS, console=console) as progress:

        def run(name: str, items: Dataset, size: int, config: TrainingConfig, loss=None) -> None:
            task = progress.add_task(name, total=config.steps)
            recent: deque[float] = deque(maxlen=100)

            def on_step(step: int, value: float) -> None:
                recent.append(value)
                progress.update(task, completed=step)
                if step % 100 == 0:
                    seconds = time.perf_counter() - started
                    console.print(f"{name}, step {step}: loss {fmean(recent):.3f}, {seconds:.0f} s")

            train(model, batches(items, size), config, on_step, loss)

        captions = ShapesCaptions(args.pretraining_steps * PICTURES_PER_STEP, world.seed)
        config = TrainingConfig(args.pretraining_steps, muon_rate=0.02)
        run("pictures and prompts", captions, PICTURES_PER_STEP, config, pretraining_loss)
        groups = ShapesGroups(args.steps * GROUPS_PER_STEP, world, "train")
        run("rankings", groups, GROUPS_PER_STEP, TrainingConfig(args.steps, 7e-4, muon_rate=0.004))
    minutes = (time.perf_counter() - started) / 60

    model.config = calibrated(model, validation)
    save_folder(model.half(), args.out)  # half the size; what is published is what is measured below
    model = reward_core.load(args.out, device="cpu")
    held_out = groups_of(shapes.HELD_OUT, "held_out", args.held_out_groups)
    figures = {"validation": accuracy(model, validation), "held-out": accuracy(model, held_out)}
    card = model_card(model, args, minutes, figures)
    (args.out / "README.md").write_text(card, encoding="utf-8")
    console.print(card, markup=False)


def calibrated(model: reward_core.RewardModel, validation: list[RankedGroup]) -> RewardConfig:
    """The model's configuration with mean, std and quantiles of its rewards on the validation groups."""
    raw = torch.cat([group_rewards(model, [group]) for group in validation]).double()
    mean, std = raw.mean().item(), raw.std().item()
    quantiles = ScoreQuantiles.of(
        ((raw - mean) / std).tolist(), f"{len(raw)} ShapesBench validation pictures"
    )
    return replace(model.config, reward_mean=mean, reward_std=std, score_quantiles=quantiles)


def model_card(
    model: reward_core.RewardModel, args: argparse.Namespace, minutes: float, figures: dict[str, float]
) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    size = (args.out / "model.safetensors").stat().st_size
    groups, captions = args.steps * GROUPS_PER_STEP, args.pretraining_steps * PICTURES_PER_STEP
    validation, held_out = figures["validation"], figures["held-out"]
    fewest, most = shapes.TRAIN.pictures
    return f"""---
license: apache-2.0
tags: [reward-model, text-to-image, shapesbench]
---
# Tiny ImageReward for ShapesBench

ImageReward's architecture (BLIP encoder, cross-attention, reward head) at {parameters:,} parameters
({size / 1e6:.2f} MB, float16), trained from nothing on the procedural world in `reward_core.shapes`.
It scores 64 px pictures of one or two coloured shapes. It knows nothing of other pictures.

| | pairwise accuracy |
|---|---|
| validation prompts (same combinations as in training) | {validation:.1%} |
| held-out prompts (new combinations, other faults; {args.held_out_groups:,} groups) | {held_out:.1%} |

All untied comparisons count; chance is 50%. Scores are about N(0, 1) on the validation pictures.

- Data: {captions:,} captioned pictures, each with {ShapesCaptions.NEAR_MISSES} near-miss prompts, then
  {groups:,} ranked groups of {fewest}-{most} pictures; made on the spot, each seen once, seed {args.seed}.
- Training: {args.pretraining_steps} steps of contrast, matching and masked words (as BLIP and ALBEF), then
  {args.steps} of ranking; Muon and AdamW; {minutes:.1f} minutes on {os.cpu_count()} cores
  ({platform.machine()}, torch {torch.__version__}).
- Command: `python tools/make_tiny_reward.py --out FOLDER --seed {args.seed}
  --pretraining-steps {args.pretraining_steps} --steps {args.steps}`
"""


if __name__ == "__main__":
    main()

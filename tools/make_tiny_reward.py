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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from reward_core.tokenizer import PromptTokenizer
from reward_core.training import (
    RankedGroup,
    TrainingConfig,
    accuracy,
    group_rewards,
    initialise_from_scratch,
    train,
)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


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


def batches(groups: ShapesGroups, size: int) -> Iterator[list[RankedGroup]]:
    # A worker draws the next pictures while this process trains; its order is fixed by the index.
    return iter(DataLoader(groups, size, num_workers=1, collate_fn=list, prefetch_factor=8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the training groups")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--groups-per-step", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=7e-4)
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

    world = replace(shapes.TRAIN, seed=shapes.TRAIN.seed + args.seed)
    groups = ShapesGroups(args.steps * args.groups_per_step, world, "train")
    validation = list(batches(ShapesGroups(400, replace(world, seed=world.seed + 10_000), "train"), 400))[0]
    config = TrainingConfig(args.steps, args.learning_rate)
    started = time.perf_counter()
    columns = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=args.steps)
        mean = 0.7

        def on_step(step: int, loss: float) -> None:
            nonlocal mean
            mean += (loss - mean) * 0.02
            progress.update(task, completed=step, description=f"training, loss {mean:.3f}")
            if step % 250 == 0:
                console.print(f"step {step}: loss {mean:.3f}, {time.perf_counter() - started:.0f} s")

        train(model, batches(groups, args.groups_per_step), config, on_step)
    minutes = (time.perf_counter() - started) / 60

    model.config = calibrated(model, validation)
    save_folder(model.half(), args.out)  # half the size; what is published is what is measured below
    model = reward_core.load(args.out, device="cpu")
    held_out = [g for b in batches(ShapesGroups(args.held_out_groups, shapes.HELD_OUT, "held_out"), 64) for g in b]
    figures = {"validation": accuracy(model, validation), "held-out": accuracy(model, held_out)}
    card = model_card(model, args, minutes, figures)
    (args.out / "README.md").write_text(card, encoding="utf-8")
    console.print(card, markup=False)


def calibrated(model: reward_core.RewardModel, validation: list[RankedGroup]) -> RewardConfig:
    """The model's configuration with mean, std and quantiles of its rewards on the validation groups."""
    raw = torch.cat([group_rewards(model, [group]) for group in validation]).double()
    mean, std = raw.mean().item(), raw.std().item()
    quantiles = ScoreQuantiles.of(((raw - mean) / std).tolist(), f"{len(raw)} ShapesBench validation pictures")
    return replace(model.config, reward_mean=mean, reward_std=std, score_quantiles=quantiles)


def model_card(
    model: reward_core.RewardModel, args: argparse.Namespace, minutes: float, figures: dict[str, float]
) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    size = (args.out / "model.safetensors").stat().st_size
    groups = args.steps * args.groups_per_step
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
| validation prompts (same combinations as in training) | {figures["validation"]:.1%} |
| held-out prompts (combinations never seen, other fault mix, {args.held_out_groups:,} groups) | {figures["held-out"]:.1%} |

All untied comparisons count; chance is 50%. Scores are about N(0, 1) on the validation pictures.

- Data: {groups:,} ranked groups of {shapes.TRAIN.pictures[0]}-{shapes.TRAIN.pictures[1]} pictures, each seen once, seed {args.seed}.
- Training: {args.steps} steps of {args.groups_per_step} groups, AdamW {args.learning_rate:g}, {minutes:.1f} minutes on
  {os.cpu_count()} cores ({platform.machine()}, torch {torch.__version__}).
- Command: `python tools/make_tiny_reward.py --out FOLDER --seed {args.seed} --steps {args.steps}`
"""


if __name__ == "__main__":
    main()

"""Train the tiny reward model that comes with reward-core, from nothing, on ShapesBench.

    python tools/make_tiny_reward.py --out tiny
    python tools/make_tiny_reward.py --out tiny-judge --architecture tiny-judge --seed 1000

The package carries both in `reward_core/demo`; their cards name the exact commands.

Three stages. The vision encoder learns what is where and how damaged, from annotated pictures; it is
then frozen. The text encoder learns to read prompts beside pictures, from captions. Last, both it and
the reward head learn to order pictures, from rankings; the frozen encoder looks at their pictures once,
and every further epoch words their prompts anew.

Everything is seeded: the weights, the pictures, their order. The result is a folder that
`reward_core.load` reads, with a card (README.md) that says how it was made and how good it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader, Dataset

import reward_core
from reward_core import shapes
from reward_core.checkpoint import save_folder
from reward_core.config import RewardConfig
from reward_core.errors import EmptyPromptWarning
from reward_core.evaluation import Evaluation, evaluate
from reward_core.percentile import ScoreQuantiles
from reward_core.precision import cpu_features
from reward_core.rankings import RankedPrompt
from reward_core.text_encoder import TextConfig
from reward_core.tokenizer import SPECIAL_TOKENS, PromptTokenizer
from reward_core.training import (
    AnnotatedPicture,
    CaptionedPicture,
    PatchReader,
    RankedGroup,
    TrainingConfig,
    accuracy,
    caption_loss,
    group_rewards,
    initialise_from_scratch,
    patch_loss,
    ranking_loss,
    train,
)

PICTURES_PER_STEP, GROUPS_PER_STEP = 96, 16
LOOKS = 512  # pictures that the frozen encoder looks at at a time
COLUMNS = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()]


@dataclass(frozen=True)
class Architecture:
    """ImageReward's architecture at a size that trains on a CPU in minutes.

    Two of them differ enough for one to judge what was tuned to the other.
    """

    vision_width: int = 128
    vision_depth: int = 4
    vision_heads: int = 4
    text_width: int = 96
    text_layers: int = 3
    text_heads: int = 4
    head: tuple[int, ...] = (64, 16, 1)

    def config(self, vocab_lines: int) -> RewardConfig:
        text = TextConfig(
            vocab_size=vocab_lines + 2,
            hidden_size=self.text_width,
            num_hidden_layers=self.text_layers,
            num_attention_heads=self.text_heads,
            intermediate_size=2 * self.text_width,
            max_position_embeddings=40,
            encoder_width=self.vision_width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return RewardConfig(
            image_size=64,
            patch_size=8,
            vision_width=self.vision_width,
            vision_depth=self.vision_depth,
            vision_heads=self.vision_heads,
            vision_mlp_ratio=2,
            vision_drop_path=0.0,
            proj_dim=32,
            vocab_lines=vocab_lines,
            dec_token_id=vocab_lines,
            enc_token_id=vocab_lines + 1,
            text=text,
            reward_mlp=(self.text_width, *self.head),
            head_dropout=(),
            reward_mean=0.0,
            reward_std=1.0,
        )


ARCHITECTURES = {
    "tiny": Architecture(),
    "tiny-judge": Architecture(
        vision_width=96, vision_depth=6, vision_heads=3, text_width=128, text_layers=2, head=(32, 1)
    ),
}


class ShapesGroups(Dataset):
    """Group number i of ShapesBench, made on demand."""

    def __init__(self, count: int, config: shapes.GroupConfig, split: str):
        self.count, self.config, self.split = count, config, split

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RankedGroup:
        group = next(shapes.make_groups(1, self.config, self.split, start=index))
        return RankedGroup(group.prompt, group.pictures, group.ranking)


class ShapesAnnotations(Dataset):
    """Picture number i, mostly with faults and in any colours, and what is where in it."""

    CLEAN, RECOLOURED = 0.2, 0.7  # shares

    def __init__(self, count: int, config: shapes.GroupConfig, grid: int):
        self.count, self.config, self.grid = count, config, grid

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> AnnotatedPicture:
        rng = np.random.default_rng([self.config.seed, index, 1])
        scene = shapes.sample_scene(rng, "train", self.config.pair_share)
        clean, recoloured = rng.random(2) < (self.CLEAN, self.RECOLOURED)
        faults = () if clean else shapes.sample_faults(scene, rng, self.config, "train")
        drawing = shapes.draw_scene(scene, rng, faults)
        if recoloured:
            drawing = shapes.recolour(drawing, rng)
        annotation = shapes.annotate(drawing, faults, self.grid)
        picture = shapes.paint(drawing, faults, rng)
        return AnnotatedPicture(picture, annotation.patches, annotation.strengths)


class ShapesCaptions(Dataset):
    """Clean picture number i with its prompt and near misses."""

    NEAR_MISSES = 2

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CaptionedPicture:
        rng = np.random.default_rng([self.seed, index, 2])
        scene = shapes.sample_scene(rng, "train", pair_share=0.8)
        near = tuple(shapes.phrase(shapes.near_miss(scene, rng), rng) for _ in range(self.NEAR_MISSES))
        return CaptionedPicture(shapes.render_scene(scene, rng), shapes.phrase(scene, rng), near)


@dataclass(frozen=True, eq=False)
class SeenGroup:
    """A ranked group as the frozen vision encoder sees it: image tokens (K, N, E)."""

    tokens: torch.Tensor
    prompt: str
    places: tuple[int, ...]


class SeenGroups:
    """The image tokens of many groups, in a file that is mapped into memory."""

    def __init__(self, model: reward_core.RewardModel, groups: ShapesGroups, file: Path, on_group) -> None:
        vision = model.blip.visual_encoder.config
        most = len(groups) * groups.config.pictures[1]
        shape = (most, (vision.image_size // vision.patch_size) ** 2 + 1, vision.width)
        size = most * shape[1] * shape[2]  # what is not written takes no room
        self.tokens = torch.from_file(str(file), True, size, dtype=torch.bfloat16).view(shape)
        self.scenes: list[shapes.Scene] = []
        self.places: list[tuple[int, ...]] = []
        self.starts = [0]
        waiting: list[np.ndarray] = []
        for number, (group,) in enumerate(batches(groups, 1), start=1):
            waiting.append(group.pictures)
            self.scenes.append(shapes.parse(group.prompt))
            self.places.append(group.places)
            self.starts.append(self.starts[-1] + len(group.places))
            if sum(map(len, waiting)) >= LOOKS or number == len(groups):
                pixels = model.transform.from_uint8(torch.from_numpy(np.concatenate(waiting)))
                with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                    self.tokens[self.starts[-1] - len(pixels) : self.starts[-1]] = model.encode_images(pixels)
                waiting.clear()
                on_group(number)

    def batches(self, epochs: int, seed: int) -> Iterator[list[SeenGroup]]:
        """Every group once an epoch, in an order and in wordings of the epoch's own."""
        rng = np.random.default_rng([seed, 3])
        for _ in range(epochs):
            order = rng.permutation(len(self.places)).tolist()
            for first in range(0, len(order), GROUPS_PER_STEP):
                yield [
                    SeenGroup(
                        self.tokens[self.starts[i] : self.starts[i + 1]],
                        shapes.phrase(self.scenes[i], rng),
                        self.places[i],
                    )
                    for i in order[first : first + GROUPS_PER_STEP]
                ]


def seen_loss(model: reward_core.RewardModel, groups: list[SeenGroup]) -> torch.Tensor:
    """The ranking loss of some groups, from their image tokens."""
    token_ids, mask = model.tokenizer([group.prompt for group in groups])
    longest = int(mask.sum(1).max())
    counts = torch.tensor([len(group.places) for group in groups])
    token_ids, mask = (t[:, :longest].repeat_interleave(counts, 0) for t in (token_ids, mask))
    tokens = torch.cat([group.tokens for group in groups]).float()
    return ranking_loss(
        model.rewards_from_features(tokens, token_ids, mask), [group.places for group in groups]
    )


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
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default="tiny", help="sizes (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the training groups")
    parser.add_argument("--patch-steps", type=int, default=1200, help="of 96 annotated pictures each")
    parser.add_argument("--caption-steps", type=int, default=600, help="of 96 captioned pictures each")
    parser.add_argument("--groups", type=int, default=32000, help="ranked groups, 16 a step")
    parser.add_argument("--epochs", type=int, default=2, help="over the groups")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="bfloat16" if "avx512_bf16" in cpu_features() else "float32",
        help="of the training's arithmetic (default: bfloat16 where the processor has it)",
    )
    parser.add_argument("--held-out-groups", type=int, default=1000, help="for the accuracy on the card")
    args = parser.parse_args()
    console = Console()

    vocabulary = [*SPECIAL_TOKENS, *shapes.VOCABULARY]
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder, "vocab.txt")
        vocab.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = PromptTokenizer.from_vocab(vocab)
    model = reward_core.RewardModel(ARCHITECTURES[args.architecture].config(len(vocabulary)), tokenizer)
    initialise_from_scratch(model, args.seed)
    torch.manual_seed(args.seed)  # of the reader and of the words that are masked

    world = replace(shapes.TRAIN, seed=shapes.TRAIN.seed + args.seed)
    validation = groups_of(replace(world, seed=world.seed + 10_000), "train", 400)
    started = time.perf_counter()
    with Progress(*COLUMNS, console=console) as progress:

        def run(
            name: str, trained: nn.Module, items: Iterator[list], steps: int, rates: tuple[float, float], loss
        ) -> None:
            config = TrainingConfig(steps, *rates, precision=args.precision)
            task = progress.add_task(name, total=steps)
            recent: deque[float] = deque(maxlen=100)

            def on_step(step: int, value: float) -> None:
                recent.append(value)
                progress.update(task, completed=step)
                if step % 100 == 0:
                    seconds = time.perf_counter() - started
                    console.print(f"{name}, step {step}: loss {fmean(recent):.3f}, {seconds:.0f} s")

            train(trained, items, config, on_step, loss)

        vision = model.blip.visual_encoder
        grid = vision.config.image_size // vision.config.patch_size
        annotations = ShapesAnnotations(args.patch_steps * PICTURES_PER_STEP, world, grid)
        reader = PatchReader(vision, model.transform, len(shapes.PATCH_COLUMNS), len(shapes.CLEANLINESS))
        size = PICTURES_PER_STEP
        run("patches", reader, batches(annotations, size), args.patch_steps, (1e-3, 0.02), patch_loss)
        vision.requires_grad_(False)
        captions = ShapesCaptions(args.caption_steps * size, world.seed)
        run("captions", model, batches(captions, size), args.caption_steps, (1e-3, 0.02), caption_loss)
        groups = ShapesGroups(args.groups, world, "train")
        task = progress.add_task("looking", total=len(groups))
        with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
            seen = SeenGroups(
                model, groups, Path(folder, "tokens"), lambda n: progress.update(task, completed=n)
            )
            steps = args.epochs * len(groups) // GROUPS_PER_STEP
            run("rankings", model, seen.batches(args.epochs, world.seed), steps, (7e-4, 0.002), seen_loss)
    minutes = (time.perf_counter() - started) / 60

    model.config = calibrated(model, validation)
    save_folder(model.half(), args.out)  # half the size; what is published is what is measured below
    model = reward_core.load(args.out, device="cpu")
    card = model_card(model, args, minutes, accuracy(model, validation))
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


def evaluation_of(model: reward_core.RewardModel, count: int, blank: bool = False) -> Evaluation:
    """The standard held-out groups, in full; ``blank``: with empty prompts."""
    groups = list(shapes.make_groups(count, shapes.HELD_OUT, "held_out"))
    data = [
        RankedPrompt(
            id=str(number),
            prompt="" if blank else group.prompt,
            images=tuple(Image.fromarray(pixels) for pixels in group.pictures),
            places=group.ranking,
            utilities=tuple(truth.utility for truth in group.truths),
            faults=tuple(tuple(fault.kind for fault in faults) for faults in group.faults),
            objects=len(group.scene.things),
        )
        for number, group in enumerate(groups)
    ]
    prompts = [item.prompt for item in data for _ in item.images]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyPromptWarning)
        images = [image for item in data for image in item.images]
        return evaluate(data, model.score_rows(prompts, images, batch_size=64))


def model_card(
    model: reward_core.RewardModel, args: argparse.Namespace, minutes: float, validation: float
) -> str:
    held_out = evaluation_of(model, args.held_out_groups)
    blank = evaluation_of(model, args.held_out_groups, blank=True)
    reached = f"{held_out.pooled_accuracy:.1%}"
    parts = [
        (f"{title} {key.replace('_', ' ')}", share)
        for title, shares in (
            ("utilities apart by", held_out.by_gap),
            ("things in the prompt:", held_out.by_objects),
            ("faultless against", held_out.by_fault),
        )
        for key, share in shares.items()
    ]
    rows = "\n".join(f"| {title} | {share.pairs:,} | {share.accuracy:.1%} |" for title, share in parts)
    parameters = sum(p.numel() for p in model.parameters())
    size = (args.out / "model.safetensors").stat().st_size
    annotations, captions = (n * PICTURES_PER_STEP for n in (args.patch_steps, args.caption_steps))
    fewest, most = shapes.TRAIN.pictures
    return f"""---
license: apache-2.0
tags: [reward-model, text-to-image, shapesbench]
---
# Tiny ImageReward for ShapesBench

ImageReward's architecture (BLIP encoder, cross-attention, reward head) at {parameters:,} parameters
({size / 1e6:.2f} MB, float16), trained from nothing on the procedural world in `reward_core.shapes`.
It scores 64 px pictures of one or two coloured shapes. It knows nothing of other pictures.

| | pairs | ordered right |
|---|---|---|
| validation prompts (same combinations as in training) | | {validation:.1%} |
| **held-out prompts** (new combinations, other faults) | {held_out.pairs:,} | **{reached}** |
| the same, prompts blanked | {blank.pairs:,} | {blank.pooled_accuracy:.1%} |
{rows}

The rows below the first three are of the held-out prompts ({args.held_out_groups:,} groups). All untied
comparisons count; chance is 50%. Scores are about N(0, 1) on the validation pictures.

- Data: {annotations:,} pictures annotated patch by patch for the vision encoder (then frozen); {captions:,}
  captioned pictures, each with {ShapesCaptions.NEAR_MISSES} near-miss prompts; {args.groups:,} ranked groups
  of {fewest}-{most} pictures, {args.epochs} times, each in new words. Made on the spot, seed {args.seed}.
- Training: {args.patch_steps} steps of patches, {args.caption_steps} of captions (contrast, matching, masked
  words, as BLIP and ALBEF), {args.epochs * args.groups // GROUPS_PER_STEP} of ranking; Muon and AdamW,
  {args.precision}; {minutes:.1f} minutes on {os.cpu_count()} cores ({platform.machine()}, torch
  {torch.__version__}).
- Command: `python tools/make_tiny_reward.py --out FOLDER --architecture {args.architecture}
  --seed {args.seed} --patch-steps {args.patch_steps} --caption-steps {args.caption_steps}
  --groups {args.groups} --epochs {args.epochs} --precision {args.precision}`
"""


if __name__ == "__main__":
    main()

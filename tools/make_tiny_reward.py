"""Train the tiny rewards bundled with reward-core from scratch.

    python tools/make_tiny_reward.py --out tiny
    python tools/make_tiny_reward.py --out tiny-judge --architecture tiny-judge --seed 1000

The package includes both in `reward_core/demo`; their model cards give the exact commands.

There are three stages. First the vision encoder learns shapes, positions and damage from annotated images,
and is then frozen. Then the text encoder learns to read prompts from captioned images. Finally the text
encoder and the reward head learn to order images from rankings, with the trainer of `reward-core train`: the
frozen vision encoder encodes each image once, its outputs are cached on disk, and later epochs read them
with new wordings of the prompts.

Weights, images and their order are seeded. The result is a folder for `reward_core.load`, with a model card
(README.md) that describes the training and the accuracy.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
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
from reward_core.errors import EmptyPromptWarning
from reward_core.inputs.tokenizer import SPECIAL_TOKENS, PromptTokenizer
from reward_core.models.checkpoint import save_folder
from reward_core.network.config import RewardConfig
from reward_core.network.encoder_sizes import TextConfig
from reward_core.rankings import RankedPrompt
from reward_core.rankings.evaluation import Evaluation, evaluate
from reward_core.runs.cpus import usable_cpus
from reward_core.scoring.precision import cpu_features
from reward_core.training import (
    AnnotatedImage,
    CaptionedImage,
    PatchReader,
    PretrainingConfig,
    Trainer,
    TrainingConfig,
    caption_loss,
    initialize_from_scratch,
    patch_loss,
    pretrain,
)

IMAGES_PER_STEP, GROUPS_PER_STEP = 96, 16
COLUMNS = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()]


@dataclass(frozen=True)
class Architecture:
    """Sizes of ImageReward's architecture that train on a CPU in minutes.

    The two differ enough for one to be a held-out reward for models tuned to the other.
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
    """Groups of ShapesBench, generated on demand."""

    def __init__(self, count: int, config: shapes.GroupConfig, split: str):
        self.count, self.config, self.split = count, config, split

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> shapes.Group:
        return next(shapes.make_groups(1, self.config, self.split, start=index))


class ShapesAnnotations(Dataset):
    """Images, mostly with faults and random colors, annotated per patch."""

    CLEAN, RECOLORED = 0.2, 0.7  # shares

    def __init__(self, count: int, config: shapes.GroupConfig, grid: int):
        self.count, self.config, self.grid = count, config, grid

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> AnnotatedImage:
        rng = np.random.default_rng([self.config.seed, index, 1])
        scene = shapes.sample_scene(rng, "train", self.config.pair_share)
        clean, recolored = rng.random(2) < (self.CLEAN, self.RECOLORED)
        faults = () if clean else shapes.sample_faults(scene, rng, self.config, "train")
        drawing = shapes.draw_scene(scene, rng, faults)
        if recolored:
            drawing = shapes.recolor(drawing, rng)
        annotation = shapes.annotate(drawing, faults, self.grid)
        image = shapes.paint(drawing, faults, rng)
        return AnnotatedImage(image, annotation.patches, annotation.strengths)


class ShapesCaptions(Dataset):
    """Clean images, each with its prompt and near-miss prompts."""

    NEAR_MISSES = 2

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CaptionedImage:
        rng = np.random.default_rng([self.seed, index, 2])
        scene = shapes.sample_scene(rng, "train", pair_share=0.8)
        near = tuple(shapes.phrase(shapes.near_miss(scene, rng), rng) for _ in range(self.NEAR_MISSES))
        return CaptionedImage(shapes.render_scene(scene, rng), shapes.phrase(scene, rng), near)


def batches(items: Dataset, size: int) -> Iterator[list]:
    # A worker draws the next images while this process trains; they stay in the order of the index.
    return iter(DataLoader(items, size, num_workers=1, collate_fn=list, prefetch_factor=8))


def ranked_prompt(number: int, group: shapes.Group, blank: bool = False) -> RankedPrompt:
    return RankedPrompt(
        id=str(number),
        prompt="" if blank else group.prompt,
        images=tuple(Image.fromarray(pixels) for pixels in group.images),
        ranks=tuple(group.ranking),
        utilities=tuple(truth.utility for truth in group.truths),
        faults=tuple(tuple(fault.kind for fault in faults) for faults in group.faults),
        objects=len(group.scene.things),
    )


def train_on_rankings(
    model: reward_core.RewardModel,
    group_config: shapes.GroupConfig,
    validation: list[RankedPrompt],
    args: argparse.Namespace,
    folder: Path,
    progress: Progress,
) -> reward_core.RewardModel:
    """Run the ranking stage: train text encoder and head on ranked groups."""
    scenes, groups = [], []
    task = progress.add_task("making groups", total=args.groups)
    for batch in batches(ShapesGroups(args.groups, group_config, "train"), GROUPS_PER_STEP):
        for group in batch:
            groups.append(ranked_prompt(len(groups), group))
            scenes.append(group.scene)
        progress.update(task, completed=len(groups))
    progress.stop()  # the trainer shows its own bar

    def reword(record: RankedPrompt, epoch: int) -> str:
        if epoch == 0:
            return record.prompt
        number = int(record.id)
        return shapes.phrase(scenes[number], np.random.default_rng([group_config.seed, number, epoch, 3]))

    settings = TrainingConfig(
        init=args.architecture,
        data="ShapesBench",
        out=str(folder / "run"),
        cache=str(folder / "cache"),
        freeze_vision=1.0,
        freeze_text=0.0,
        batch_size=GROUPS_PER_STEP,
        accumulation=1,
        epochs=args.epochs,
        steps=args.ranking_steps,
        optimizer="muon",
        lr=7e-4,
        muon_lr=0.002,
        beta2=0.98,
        warmup_steps=30,
        clip=5.0,
        mixed_precision="bf16" if args.precision == "bfloat16" else "no",
        validations=2,
        seed=args.seed,
        trackers=(),
        cpu=True,
    )
    trainer = Trainer(settings, model, {"train": groups, "validation": validation}, reword)
    return reward_core.load(trainer.train(), device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default="tiny", help="sizes (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training groups")
    parser.add_argument("--patch-steps", type=int, default=1200, help="steps of 96 annotated images")
    parser.add_argument("--caption-steps", type=int, default=600, help="steps of 96 captioned images")
    parser.add_argument("--groups", type=int, default=24_000, help="ranked groups (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the groups (default: %(default)s)")
    parser.add_argument(
        "--ranking-steps", type=int, default=0, help="maximum number of steps of 16 groups (default: all)"
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="bfloat16" if "avx512_bf16" in cpu_features() else "float32",
        help="precision of the training (default: bfloat16 if the processor supports it)",
    )
    parser.add_argument("--held-out-groups", type=int, default=1000, help="groups to measure the accuracy on")
    args = parser.parse_args()
    console = Console()

    vocabulary = [*SPECIAL_TOKENS, *shapes.VOCABULARY]
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder, "vocab.txt")
        vocab.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = PromptTokenizer.from_vocab(vocab)
    model = reward_core.RewardModel(ARCHITECTURES[args.architecture].config(len(vocabulary)), tokenizer)
    initialize_from_scratch(model, args.seed)
    torch.manual_seed(args.seed)  # for the patch reader and the masked words

    group_config = replace(shapes.TRAIN, seed=shapes.TRAIN.seed + args.seed)
    validation_groups = ShapesGroups(400, replace(group_config, seed=group_config.seed + 10_000), "train")
    validation = [ranked_prompt(i, validation_groups[i]) for i in range(len(validation_groups))]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Progress(*COLUMNS, console=console) as progress:

        def run(
            name: str, trained: nn.Module, items: Dataset, rates: tuple[float, float], loss: Callable
        ) -> None:
            steps = len(items) // IMAGES_PER_STEP
            config = PretrainingConfig(steps, *rates, precision=args.precision)
            task = progress.add_task(name, total=steps)
            recent: deque[float] = deque(maxlen=100)

            def on_step(step: int, value: float) -> None:
                recent.append(value)
                progress.update(task, completed=step)
                if step % 100 == 0:
                    seconds = time.perf_counter() - started
                    console.print(f"{name}, step {step}: loss {fmean(recent):.3f}, {seconds:.0f} s")

            pretrain(trained, batches(items, IMAGES_PER_STEP), config, loss, on_step)

        vision = model.blip.visual_encoder
        grid = vision.config.image_size // vision.config.patch_size
        annotations = ShapesAnnotations(args.patch_steps * IMAGES_PER_STEP, group_config, grid)
        reader = PatchReader(vision, model.transform, len(shapes.PATCH_COLUMNS), len(shapes.CLEANLINESS))
        run("patches", reader, annotations, (1e-3, 0.02), patch_loss)
        vision.requires_grad_(False)
        captions = ShapesCaptions(args.caption_steps * IMAGES_PER_STEP, group_config.seed)
        run("captions", model, captions, (1e-3, 0.02), caption_loss)
        model = train_on_rankings(model, group_config, validation, args, Path(folder), progress)
    minutes = (time.perf_counter() - started) / 60

    save_folder(model.half(), args.out)  # half the size; the accuracy is measured on the saved model
    model = reward_core.load(args.out, device="cpu")
    card = model_card(model, args, minutes, evaluation_of(model, validation).pooled_accuracy)
    (args.out / "README.md").write_text(card, encoding="utf-8")
    console.print(card, markup=False)


def evaluation_of(model: reward_core.RewardModel, data: list[RankedPrompt]) -> Evaluation:
    prompts = [item.prompt for item in data for _ in item.images]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyPromptWarning)
        images = [image for item in data for image in item.images]
        return evaluate(data, model.score_rows(prompts, images, batch_size=64))


def model_card(
    model: reward_core.RewardModel, args: argparse.Namespace, minutes: float, validation: float
) -> str:
    groups = list(shapes.make_groups(args.held_out_groups, shapes.HELD_OUT, "held_out"))
    held_out, blank = (
        evaluation_of(model, [ranked_prompt(i, group, empty) for i, group in enumerate(groups)])
        for empty in (False, True)
    )
    accuracy = f"{held_out.pooled_accuracy:.1%}"
    parts = [
        (f"{title} {key.replace('_', ' ')}", share)
        for title, shares in (
            ("difference in utility:", held_out.by_gap),
            ("things in the prompt:", held_out.by_objects),
            ("faultless against", held_out.by_fault),
        )
        for key, share in shares.items()
    ]
    rows = "\n".join(f"| {title} | {share.pairs:,} | {share.accuracy:.1%} |" for title, share in parts)
    parameters = sum(p.numel() for p in model.parameters())
    size = (args.out / "model.safetensors").stat().st_size
    annotations, captions = (n * IMAGES_PER_STEP for n in (args.patch_steps, args.caption_steps))
    fewest, most = shapes.TRAIN.images
    steps = args.epochs * -(-args.groups // GROUPS_PER_STEP)
    steps = min(steps, args.ranking_steps) if args.ranking_steps else steps
    return f"""---
license: apache-2.0
tags: [reward-model, text-to-image, shapesbench]
---
# Tiny ImageReward for ShapesBench

ImageReward's architecture (BLIP encoder, cross-attention, reward head) at {parameters:,} parameters
({size / 1e6:.2f} MB, float16), trained from scratch on ShapesBench (`reward_core.shapes`).
It scores 64 px images of one or two colored shapes. Scores of other images are meaningless.

| | pairs | accuracy |
|---|---|---|
| validation prompts (same combinations as in training) | | {validation:.1%} |
| **held-out prompts** (new combinations, other faults) | {held_out.pairs:,} | **{accuracy}** |
| held-out prompts, replaced by empty prompts | {blank.pairs:,} | {blank.pooled_accuracy:.1%} |
{rows}

All rows but the first are measured on {args.held_out_groups:,} held-out groups. Accuracy is the share of
untied pairs ordered correctly; chance is 50%. Scores are about N(0, 1) on the validation images.

- Data: {annotations:,} images annotated per patch for the vision encoder, which is then frozen; {captions:,}
  captioned images with {ShapesCaptions.NEAR_MISSES} near-miss prompts each, seen once; {args.groups:,} ranked
  groups of {fewest}-{most} images, seen {args.epochs} times with new wordings. All generated during training,
  seed {args.seed}.
- Training: {args.patch_steps} steps on patches, {args.caption_steps} on captions (contrastive, matching and
  masked-word losses, as in BLIP and ALBEF), {steps} on rankings; Muon and AdamW, {args.precision};
  {minutes:.1f} minutes on {usable_cpus()} cores ({platform.machine()}, torch {torch.__version__}).
- Command: `python tools/make_tiny_reward.py --out FOLDER --architecture {args.architecture}
  --seed {args.seed} --patch-steps {args.patch_steps} --caption-steps {args.caption_steps}
  --groups {args.groups} --epochs {args.epochs} --ranking-steps {args.ranking_steps}
  --precision {args.precision}`
"""


if __name__ == "__main__":
    main()

"""Evaluation of a finished pipeline, and its model card."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from refl.compare import ImageSettings, generate_images
from refl.demo.scenes import captioned_images, sample_prompts
from refl.demo.truth import Truths, interval, read_truths
from refl.families import Family, load_family
from reward_core.shapes import Scene, all_wordings, split_of
from reward_core.shapes.grammar import COLORS, SHAPES, Thing

from .autoencoder import to_tensor

SETTINGS = ImageSettings(steps=20, guidance_scale=2.5, seeds=1, batch_size=32)


@dataclass(frozen=True)
class Figures:
    """The oracle's scores of images, and the size of the pipeline.

    Attributes:
        generated: "1 unseen", "1 known", "2 unseen", "2 known" -> scores of generated images.
        decoded: scores of images encoded and decoded by the autoencoder.
        parameters: part -> number of parameters.
        megabytes: size of all weight files in 10**6 bytes.
    """

    generated: dict[str, Truths]
    decoded: Truths
    parameters: dict[str, int]
    megabytes: float


def measure(folder: Path, count: int, settings: ImageSettings = SETTINGS) -> Figures:
    """Generate and score images of ``count`` prompts of each kind."""
    family = load_family(folder)
    generated = {}
    for things, split in ((1, "held_out"), (1, "train"), (2, "held_out"), (2, "train")):
        prompts = _one_thing_prompts(split, count) if things == 1 else sample_prompts(count, 7, split, 1.0)
        samples = [(prompt, index) for index, prompt in enumerate(prompts)]
        images = torch.cat(list(generate_images(family, samples, settings)))
        name = f"{things} {'unseen' if split == 'held_out' else 'known'}"
        generated[name] = read_truths(images, prompts)
    return Figures(
        generated,
        _decoded(family, count),
        {
            part: sum(p.numel() for p in getattr(family.pipeline, part).parameters())
            for part in ("unet", "text_encoder", "vae")
        },
        sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6,
    )


def _one_thing_prompts(split: str, count: int) -> list[str]:
    """Return ``count`` prompts that name one thing, repeated if there are fewer."""
    scenes = [
        Scene((Thing(color, shape, size),)) for color in COLORS for shape in SHAPES for size in (None, "big")
    ]
    prompts = [words for scene in scenes if split_of(scene) == split for words in all_wordings(scene)]
    order = np.random.default_rng(7).permutation(len(prompts))
    return [prompts[order[i % len(prompts)]] for i in range(count)]


@torch.no_grad()
def _decoded(family: Family, count: int) -> Truths:
    images, prompts = zip(*captioned_images(count, 8, "held_out"))
    pixels = to_tensor(images).float() / 255
    latents = family.encode_pixels(pixels, torch.zeros(()))
    return read_truths((family.decode(latents) * 255).round().to(torch.uint8), prompts)


def model_card(
    args: argparse.Namespace, steps: int, minutes: dict[str, float], machine: str, figures: Figures
) -> str:
    rows = []
    for name, truths in figures.generated.items():
        cells = (interval(values) for values in (truths.alignment, truths.utility))
        spans = " | ".join(f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in cells)
        shares = " | ".join(f"{values.mean():.0%}" for values in (truths.count, truths.colors, truths.shapes))
        rows.append(f"| {name} | {spans} | {shares} |")
    table = "\n".join(rows)
    parts = ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in figures.parameters.items())
    times = ", ".join(f"{stage} {value:.1f} min" for stage, value in minutes.items())
    decoded = figures.decoded.alignment.mean()
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [text-to-image, shapesbench]
---
# Tiny latent text-to-image pipeline for ShapesBench

A small StableDiffusionPipeline ({parts};
{figures.megabytes:.1f} MB) that draws 64 px images of one or two colored shapes, big and upright, near the
center. It knows only prompts of ShapesBench that name no size or the size "big". It is meant as a base for
fine-tuning against a reward, so its images leave room for improvement.

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(folder)
image = pipe("a red circle above a blue star", num_inference_steps=20, guidance_scale=2.5).images[0]
```

Scores of its images by ShapesBench's oracle ({args.prompts} prompts per row, one image each, 20 DDIM steps,
guidance 2.5; 95% intervals over prompts). "Unseen" prompts name a combination of color and shape, or of
shapes and relation, that is not in the training data of any part.

| things, prompts | alignment | utility | correct count | and colors | and shapes |
|---|---|---|---|---|---|
{table}

Images encoded and decoded by its autoencoder have an alignment of {decoded:.2f}.

- Data: {args.pictures:,} images with prompts, half of them with two things, generated during training.
- Training: {args.text_steps} steps of the text encoder (then frozen), {args.autoencoder_steps} of the
  autoencoder, {steps} of the UNet (32 latents each, Muon and AdamW, bfloat16). Processor time: {times}, on
  {machine}.
- Command: `python tools/make_tiny_pipeline.py --work WORK --out FOLDER --seed {args.seed}
  --text-steps {args.text_steps} --autoencoder-steps {args.autoencoder_steps} --unet-steps {steps}
  --pictures {args.pictures}`
"""

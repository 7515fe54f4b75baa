"""Write the learning curves and the model card of a run."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from ..files.figure_file import write_figure
from ..models.imagereward.reward_model import RewardModel
from ..printing.escapes import markdown_block, markdown_code, markdown_text
from ..runs.settings import yaml_text
from .config import TrainingConfig
from .validation import ValidationResult

CURVES = "curves.png"


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw loss, accuracy, gradient norm and learning rate as a PNG.

    Args:
        rows: the rows of metrics.jsonl.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot, which needs a display and global state

    panels = {
        "loss": ("loss", "validation/loss"),
        "accuracy": ("accuracy", "validation/accuracy"),
        "gradient norm": ("gradient_norm",),
        "learning rate": ("lr",),
    }
    figure = Figure((11, 6))
    axes = figure.subplots(2, 2)
    figure.subplots_adjust(0.07, 0.08, 0.98, 0.95, 0.2, 0.36)  # a computed layout takes twice the time
    for axis, (title, names) in zip(axes.flat, panels.items()):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                validating = name.startswith("validation/")
                style = {"marker": "o", "zorder": 3} if validating else {"alpha": 0.35, "linewidth": 0.8}
                axis.plot(*zip(*points), label="validation" if validating else "training", **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        if len(names) > 1:
            axis.legend(fontsize=8)
    axes[0, 0].axhline(0.6931, color="grey", linewidth=0.8, linestyle=":")  # log 2: chance
    write_figure(figure, path)


def model_card(
    model: RewardModel,
    settings: TrainingConfig,
    results: dict[str, ValidationResult],
    counts: dict[str, tuple[int, int, int]],
    facts: dict[str, Any],
) -> str:
    """Return the model card, the README.md of a run's folder.

    Args:
        model: the model with its best weights.
        settings: the run's settings.
        results: evaluation of the best weights, by split.
        counts: (groups, images, untied pairs) by split.
        facts: best_step, steps, skipped_images, dropped_groups, tied_groups, seconds, ranks, device,
            precision, warnings, verdict.
    """
    config = model.config
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = "\n".join(
        f"| {markdown_text(name)} | {result.prompts:,} | {result.images:,} | {result.pairs:,} "
        f"| {result.accuracy:.1%} | {result.per_prompt_accuracy:.1%} | {result.loss:.4f} |"
        for name, result in results.items()
    )
    data = "; ".join(
        f"{markdown_text(name)}: {groups:,} groups, {images:,} images, {pairs:,} untied pairs"
        for name, (groups, images, pairs) in counts.items()
    )
    warnings = "".join(f"- Warning while training: {markdown_text(name)}.\n" for name in facts["warnings"])
    yaml = yaml_text(settings.to_dict())
    tower = (
        markdown_text(config.timm_vision or "")
        or f"ViT with {config.vision_depth} blocks of width {config.vision_width}"
    )
    if config.score_quantiles:
        source = markdown_text(config.score_quantiles.source)
        scores = f"Scores have mean 0 and standard deviation 1 over {source}."
    else:
        scores = "Scores are not standardized, because there was no validation set."
    origin = markdown_code(settings.init)
    if model.source is not None:
        origin = markdown_text(str(model.source))
    verdict = f"**{markdown_text(facts['verdict'])}**\n\n" if facts["verdict"] else ""
    selection = (
        "lowest validation\n  loss"
        if "validation" in counts
        else "the last step; there was no validation set"
    )
    return f"""---
library_name: reward-core
tags: [reward-model, text-to-image, image-reward, human-preference]
---
# {markdown_text(Path(settings.out).resolve().name)}

A reward model: it predicts how much people like an image for a prompt. Trained with reward-core from
{origin}. {scores}

{verdict}| split | prompts | images | untied pairs | pairwise accuracy | mean over prompts | loss |
|---|---|---|---|---|---|---|
{rows}

```python
import reward_core as RM

model = RM.load("THIS FOLDER")
ranking, rewards = model.inference_rank("a prompt", ["a.png", "b.png"])
```

- Data: {data}.
  Left out: {facts["skipped_images"]:,} images that cannot be read (skipped.json),
  {facts["dropped_groups"]:,} groups with fewer than two readable images,
  {facts["tied_groups"]:,} groups whose images are all tied.
- Size: {total:,} parameters, {trained:,} of them trained; {tower}, {config.image_size} px;
  text encoder with {config.text.num_hidden_layers} layers of width {config.text.hidden_size};
  prompts of at most {config.max_length} tokens.
- Training: {facts["steps"]:,} steps; these are the weights of step {facts["best_step"]:,} ({selection});
  {facts["seconds"] / 60:.1f} minutes, {facts["ranks"]} process(es) on {facts["device"]},
  {facts["precision"]}, torch {torch.__version__}, Python {platform.python_version()}.
{warnings}- Command: {markdown_code(_command())}

![Learning curves]({CURVES})

{markdown_block(yaml, "yaml")}"""


def _command() -> str:
    script = Path(sys.argv[0])
    name = "reward-core" if script.name == "__main__.py" else script.name
    return shlex.join([name, *sys.argv[1:]])

"""Reports of a finished run: learning curves and model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reward_core.files.figure_file import write_figure
from reward_core.printing.escapes import chart_label, markdown_block, markdown_text, python_string

from .config import TrainConfig


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the learning curves of a run as a PNG.

    Args:
        rows: the metrics of the run, one dict per line of metrics.jsonl.
        path: file to write; not written if no metric has a panel.
    """
    from matplotlib.figure import Figure  # without pyplot, which needs a display and global state

    names = sorted({name for row in rows for name in row})
    panels = {
        "rewards in training": [n for n in names if n.startswith("reward/")],
        "rewards in validation": [
            n for n in names if n.startswith("validation/") and n != "validation/diversity"
        ],
        "loss": [n for n in names if n == "loss" or n.startswith("loss/")],
        "gradient norm": ["gradient_norm"],
        "share of images with zero gradient": ["zero_gradient"],
        "diversity": ["validation/diversity"],
    }
    panels = {title: series for title, series in panels.items() if any(n in names for n in series)}
    if not panels:
        return
    # Each panel is 1.85 inches high, with 0.3 above and 0.45 below. Fixed margins are drawn in 0.6 of
    # the time of a computed layout.
    height = 2.6 * len(panels)
    figure = Figure((8, height))
    axes = figure.subplots(len(panels), 1, squeeze=False)
    figure.subplots_adjust(0.1, 0.45 / height, 0.98, 1 - 0.3 / height, hspace=0.75 / 1.85)
    for axis, (title, series) in zip(axes[:, 0], panels.items()):
        for name in series:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                marker = "o" if name.startswith("validation/") else None
                axis.plot(*zip(*points), marker=marker, label=chart_label(name.split("/", 1)[-1]))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        if len(series) > 1 or "rewards" in title:
            axis.legend(fontsize=7)
    write_figure(figure, path)


def model_card(
    config: TrainConfig,
    rows: list[dict[str, Any]],
    saved_step: int,
    is_lora: bool,
    pipeline: str,
    prompts: int,
    sources: Mapping[str, str] | None = None,
) -> str:
    """Return the README.md of a trained model: rewards, usage, all settings.

    Args:
        config: settings of the run.
        rows: metrics of the run, one dict per line of metrics.jsonl.
        saved_step: optimizer step of the saved weights.
        is_lora: whether the model is a LoRA or a full pipeline.
        pipeline: class name of the base model's pipeline.
        prompts: number of validation prompts.
        sources: origin of the weights by name of the reward.
    """
    origins = sources or {}
    validations = [row for row in rows if any(name.startswith("validation/") for name in row)]
    lines = [
        "---",
        yaml.safe_dump({"base_model": config.model.id}, width=1_000_000).rstrip("\n"),
        "library_name: diffusers",
        "tags: [text-to-image, refl, reward-feedback-learning" + (", lora]" if is_lora else "]"),
        "---",
        f"# {markdown_text(Path(config.run.out).name)}",
        "",
        f"{'A LoRA for' if is_lora else 'Fine-tuned from'} {markdown_text(config.model.id)}, trained with "
        f"reward feedback learning (strategy {markdown_text(config.strategy.name)}) on "
        + ", ".join(f"{markdown_text(r.name)} (weight {r.weight:g})" for r in config.rewards if r.weight)
        + ".",
        "",
        *(f"- Weights of {markdown_text(name)}: {markdown_text(source)}" for name, source in origins.items()),
        *([""] if origins else []),
    ]
    if len(validations) > 1:
        first = validations[0]
        last = next((row for row in validations if row["step"] == saved_step), validations[-1])
        lines += [
            f"| mean over {prompts} prompts x {config.validation.seeds} seeds | before training "
            f"| after {last['step']} steps |",
            "|---|---|---|",
            *(
                f"| {markdown_text(name.split('/', 1)[1])} | {first[name]:.3f} | {last[name]:.3f} |"
                for name in first
                if name.startswith("validation/") and name in last
            ),
            "",
            "A reward that the model was trained on can rise without better images. Check the held-out "
            "rewards and the images too.",
            "",
        ]
    base = python_string(config.model.id)
    usage = [f"pipe = {pipeline}.from_pretrained({base})", 'pipe.load_lora_weights("THIS FOLDER")']
    if not is_lora:
        usage = [f'pipe = {pipeline}.from_pretrained("THIS FOLDER")']
    settings = yaml.safe_dump(config.to_dict(), sort_keys=False)
    lines += [
        "```python",
        f"from diffusers import {pipeline}",
        "",
        *usage,
        "```",
        "",
        markdown_block(settings, "yaml"),
    ]
    return "\n".join(lines)

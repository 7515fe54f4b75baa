"""The model card of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reward_core.printing.escapes import markdown_block, markdown_text, python_string

from .config import TrainConfig


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

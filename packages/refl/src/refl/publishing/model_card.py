"""The model card of a finished run, in the conventions of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_core.printing.escapes import markdown_block, markdown_code, markdown_text, python_string
from reward_core.runs.settings import yaml_text

from ..config import TrainConfig
from ..records.samples import Samples
from ..version import __version__
from .card_rewards import reward_table
from .published_names import base_model, public_name, public_settings

#: Stands for the repository until ``refl push`` knows it.
PLACEHOLDER = "THIS FOLDER"
#: Tags of the hub by class of the pipeline.
ARCHITECTURE_TAGS = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "Flux2KleinPipeline": "flux2",
    "QwenImagePipeline": "qwen-image",
    "ZImagePipeline": "z-image",
}


@dataclass(frozen=True)
class CardFacts:
    """What a model card says besides the settings of the run.

    Attributes:
        rows: metrics of the run, one dict per line of metrics.jsonl.
        saved_step: optimizer step of the saved weights.
        is_lora: whether the model is a LoRA or a full pipeline.
        pipeline: class name of the base model's pipeline.
        prompts: number of validation prompts.
        sources: origin of the weights by name of the reward.
        license: license of the base model as keys of the card; empty if unknown.
        comfyui_file: name of the LoRA file for ComfyUI and the WebUI; empty without one.
        images: (prompt, image before training, image after training), the images as paths in the model's
            folder.
        before: images and rewards of the validation before training, if they were kept.
        after: those of the saved weights.
    """

    rows: list[dict[str, Any]]
    saved_step: int
    is_lora: bool
    pipeline: str
    prompts: int
    sources: Mapping[str, str] = field(default_factory=dict)
    license: Mapping[str, str] = field(default_factory=dict)
    comfyui_file: str = ""
    images: tuple[tuple[str, str, str], ...] = ()
    before: Samples | None = None
    after: Samples | None = None


def model_card(config: TrainConfig, facts: CardFacts) -> str:
    """Return the README.md of a trained model: what it is, rewards, usage, all settings."""
    name = Path(config.run.out).resolve().name
    base = base_model(config.model.id)
    trained_on = ", ".join(
        f"{markdown_text(public_name(r.name))} (weight {r.weight:g})" for r in config.rewards if r.weight
    )
    lines = [
        "---",
        yaml_text(front_matter(config, facts), width=1_000_000).rstrip("\n"),
        "---",
        f"# {markdown_text(name)}",
        "",
        *_gallery(facts),
        f"{'A LoRA for' if facts.is_lora else 'Fine-tuned from'} "
        + (markdown_text(base) if base else f"the local model {markdown_text(public_name(config.model.id))}")
        + f", trained with reward feedback learning (strategy {markdown_text(config.strategy.name)}) on "
        + f"{trained_on}.",
        "",
        *_sources(facts.sources),
        *reward_table(facts.rows, facts.saved_step, facts.prompts, config, facts.before, facts.after),
        *_usage(config, facts, base),
        "## Recipe",
        "",
        f"Trained with refl {__version__}. All settings:",
        "",
        markdown_block(yaml_text(public_settings(config.to_dict())), "yaml"),
    ]
    return "\n".join(lines)


def front_matter(config: TrainConfig, facts: CardFacts) -> dict[str, Any]:
    """Return the metadata of the card, as the hub reads it."""
    base = base_model(config.model.id)
    tags = ["text-to-image", "diffusers"]
    tags += ["lora", "template:sd-lora"] if facts.is_lora else []
    tags += [ARCHITECTURE_TAGS[facts.pipeline]] if facts.pipeline in ARCHITECTURE_TAGS else []
    tags += ["refl", "reward-feedback-learning"]
    data: dict[str, Any] = {}
    if base is not None:
        data["base_model"] = base
        data["base_model_relation"] = "adapter" if facts.is_lora else "finetune"
    data |= facts.license
    data |= {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": tags}
    if facts.images:
        data["widget"] = [
            {"text": prompt, "output": {"url": url}} for prompt, *urls in facts.images for url in urls
        ]
    return data


def _gallery(facts: CardFacts) -> list[str]:
    """Return the gallery of the hub, which shows the widget's images, and a table for other readers."""
    if not facts.images:
        return []
    rows = [
        f"| {markdown_text(prompt)} | ![before]({before}) | ![after]({after}) |"
        for prompt, before, after in facts.images
    ]
    return ["<Gallery />", "", "| prompt | before training | after training |", "|---|---|---|", *rows, ""]


def _sources(sources: Mapping[str, str]) -> list[str]:
    lines = [
        f"- Weights of {markdown_text(public_name(name))}: {markdown_text(public_name(source))}"
        for name, source in sources.items()
    ]
    return [*lines, ""] if lines else []


def _usage(config: TrainConfig, facts: CardFacts, base: str | None) -> list[str]:
    here = python_string(config.run.push_to_hub or PLACEHOLDER)
    usage = [f"pipe = {facts.pipeline}.from_pretrained({here})"]
    if facts.is_lora:
        source = python_string(base or "FOLDER OF THE BASE MODEL")
        usage = [
            f"pipe = {facts.pipeline}.from_pretrained({source})",
            f'pipe.load_lora_weights({here}, weight_name="pytorch_lora_weights.safetensors")',
        ]
    lines = ["## Use it", "", "diffusers:", "", "```python", f"from diffusers import {facts.pipeline}", ""]
    lines += [*usage, "```", ""]
    if facts.comfyui_file:
        file, name = markdown_code(facts.comfyui_file), facts.comfyui_file.removesuffix(".safetensors")
        tag = markdown_code(f"<lora:{name}:1>")
        lines += [
            f"ComfyUI: copy {file} to `ComfyUI/models/loras` and choose it in the node Load LoRA, between "
            "the checkpoint and the sampler.",
            "",
            f"Stable Diffusion WebUI: copy {file} to `models/Lora` and add {tag} to "
            f"the prompt.{_webui_note(facts.pipeline)}",
            "",
        ]
    return lines


def _webui_note(pipeline: str) -> str:
    if pipeline in ("FluxPipeline", "StableDiffusion3Pipeline"):
        return " This architecture needs WebUI Forge."
    return ""

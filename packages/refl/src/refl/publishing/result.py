"""The folder of a finished run's model: weights, files for other programs, images and card."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from reward_core.files.atomic_write import write_text

from ..config import TrainConfig
from ..errors import ModelError
from ..records.samples import Samples, read_samples
from ..trainable import Trainable
from .base_card import base_license
from .lora_export import write_comfyui_lora
from .model_card import CardFacts, model_card
from .published_names import base_model

logger = logging.getLogger(__name__)

SETTINGS = "settings.yaml"
CARD_PROMPTS = 4  # prompts whose images the card shows
CARD_SIDE = 1024  # largest side of these images in pixels


@dataclass(frozen=True)
class FinishedRun:
    """A run after its last step, whose best or last weights are loaded.

    Attributes:
        config: its settings.
        trainable: its weights.
        rows: its metrics, one dict per line of metrics.jsonl.
        step: optimizer step of the weights.
        prompts: training prompts.
        validation_prompts: validation prompts.
        sources: origin of the weights by name of the reward.
    """

    config: TrainConfig
    trainable: Trainable
    rows: list[dict[str, Any]]
    step: int
    prompts: Sequence[str]
    validation_prompts: Sequence[str]
    sources: Mapping[str, str]


def write_settings(config: TrainConfig) -> None:
    """Write the settings of a run into its folder; ``--config`` reads them."""
    write_text(Path(config.run.out) / SETTINGS, yaml.safe_dump(config.to_dict(), sort_keys=False))


def write_model(run: FinishedRun, folder: Path) -> None:
    """Write weights, files for other programs, images and card into an empty folder."""
    config = run.config
    run.trainable.save(folder)
    comfyui = ""
    if run.trainable.is_lora:
        try:
            comfyui = write_comfyui_lora(run.trainable, config, run.prompts, run.step, folder).name
        except ModelError as error:  # the LoRA of diffusers is saved
            logger.warning("the file for ComfyUI was not written: %s", error)
    out = Path(config.run.out)
    before, after = (next(iter(read_samples(out, [step])), None) for step in (0, run.step))
    facts = CardFacts(
        run.rows,
        run.step,
        run.trainable.is_lora,
        type(run.trainable.family.pipeline).__name__,
        len(run.validation_prompts),
        run.sources,
        base_license(base_model(config.model.id) or config.model.id, config.model.revision),
        comfyui,
        card_images(out, run.step, before, after, folder),
        before,
        after,
    )
    (folder / "README.md").write_text(model_card(config, facts), encoding="utf-8")


def card_images(
    out: Path, step: int, before: Samples | None, after: Samples | None, folder: Path
) -> tuple[tuple[str, str, str], ...]:
    """Write images of the first validation prompts, before and after training, into ``images``.

    Returns:
        (prompt, path of the image before, path of the image after), in the folder; empty if the run has no
        images of both, or no step was taken.
    """
    if before is None or after is None or step == 0 or before.prompts != after.prompts:
        return ()
    result = []
    (folder / "images").mkdir()
    for i, prompt in enumerate(before.prompts[:CARD_PROMPTS]):
        paths = {}
        for side, samples in (("before", before), ("after", after)):
            paths[side] = f"images/{side}-{i + 1}.png"
            with Image.open(samples.image_file(out, i, 0)) as image:
                image.thumbnail((CARD_SIDE, CARD_SIDE))
                image.save(folder / paths[side])
        result.append((prompt, paths["before"], paths["after"]))
    return tuple(result)

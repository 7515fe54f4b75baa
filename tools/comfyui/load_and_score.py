"""The nodes Load Reward Model and Score Images."""

from __future__ import annotations

from collections.abc import Sequence

import nodes

from .images import in_batches, single_images, with_label
from .reward_model import ManagedRewardModel, fingerprint, model_names

CATEGORY = "reward"


class LoadRewardModel:
    """Node that loads a reward model by name or path."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads a reward model. ImageReward-v1.0 is downloaded once (1.79 GB); tiny comes with reward-core "
        "and is for pictures of colored shapes. Put folders of saved models into models/reward_models."
    )
    RETURN_TYPES = ("REWARD_MODEL",)
    RETURN_NAMES = ("reward_model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (model_names(),),
                "precision": (
                    ["exact", "fast", "auto"],
                    {"tooltip": "exact: the original's scores; fast: 16 bits, if faster on the device"},
                ),
            },
            "optional": {
                "path": (
                    "STRING",
                    {"default": "", "tooltip": "a saved folder, a file or a Hub repository; replaces model"},
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model, precision, path=""):
        return fingerprint(path.strip() or model)

    def load(self, model, precision, path=""):
        return (ManagedRewardModel(path.strip() or model, precision),)


class ScoreImages:
    """Node that scores images for their prompts."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Scores every picture of a batch or list for its prompt. A single prompt applies to all pictures; "
        "a list of prompts, or of lines, must have one prompt per picture."
    )
    INPUT_IS_LIST = True  # get all images and prompts in one call
    RETURN_TYPES = ("FLOAT", "STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("scores", "report", "preview", "prompts")
    OUTPUT_IS_LIST = (True, False, True, True)
    OUTPUT_TOOLTIPS = (
        "one score per picture; those of ImageReward-v1.0 are about N(0, 1)",
        "one line per picture",
        "the pictures with their scores",
        "the prompt of each picture",
    )
    OUTPUT_NODE = True
    FUNCTION = "score"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "reward_model": ("REWARD_MODEL",),
                "images": ("IMAGE",),
                "prompt": ("STRING", {"multiline": True, "dynamicPrompts": True}),
                "prompt_per_line": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "the first line is for the first picture, and so on",
                    },
                ),
            },
        }

    def score(self, reward_model, images, prompt, prompt_per_line):
        model, image_list = reward_model[0], single_images(images)
        prompts = _prompts(prompt, prompt_per_line[0], len(image_list))
        scores = model.score(image_list, prompts)
        labels = [_label(model.model, score) for score in scores]
        preview = in_batches([with_label(*pair) for pair in zip(image_list, labels)])
        previews = [nodes.PreviewImage().save_images(batch)["ui"]["images"] for batch in preview]
        report = _report(model, labels, prompts)
        return {
            "ui": {"images": [image for batch in previews for image in batch], "text": [report]},
            "result": (scores, report, preview, prompts),
        }


def _prompts(given: Sequence[str], per_line: bool, count: int) -> list[str]:
    """Return one prompt per image, from a single prompt, a list, or lines.

    Raises:
        ValueError: the number of prompts is neither one nor the number of images.
    """
    prompts = [line.strip() for text in given for line in text.strip().splitlines()] if per_line else given
    if len(prompts) == 1:
        return list(prompts) * count
    if len(prompts) != count:
        raise ValueError(
            f"Cannot score {count} pictures with {len(prompts)} prompts. Give one prompt, or one per picture."
        )
    return list(prompts)


def _label(model, score: float) -> str:
    percentile = model.percentile(score)
    return f"{score:.4f}" + ("" if percentile is None else f"  percentile {percentile:.0f}")


def _report(model: ManagedRewardModel, labels: Sequence[str], prompts: Sequence[str]) -> str:
    lines = [f"{i}: {label}  {prompt}" for i, (label, prompt) in enumerate(zip(labels, prompts))]
    quantiles = model.model.config.score_quantiles
    if quantiles is not None:
        lines.append(f"percentile: {quantiles.source}")
    for prompt in dict.fromkeys(prompts):
        if dropped := model.model.tokenizer.dropped_words(prompt):
            lines.append(f"the prompt is too long; not read: {dropped}")
        if not prompt.strip():
            lines.append("the prompt is empty, so the score rates the picture alone")
    return "\n".join([f"scores by {model.name}", *lines])

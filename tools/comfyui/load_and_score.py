"""The nodes Load Reward Model and Score Images."""

from __future__ import annotations

from collections.abc import Sequence

import nodes

from .images import in_batches, single_images, with_label
from .reward_model import ManagedRewardModel, fingerprint, model_names

CATEGORY = "reward"


class LoadRewardModel:
    """A name or a path -> REWARD_MODEL."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Loads a reward model. ImageReward-v1.0 is fetched from the hub once (1.79 GB); tiny comes with "
        "reward-core and is for pictures of coloured shapes. Saved folders belong into models/reward_models."
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
                    {"tooltip": "exact: the original's numbers; fast: 16 bits where the device gains by it"},
                ),
            },
            "optional": {
                "path": (
                    "STRING",
                    {"default": "", "tooltip": "a saved folder, a file or a hub repository; wins over model"},
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, model, precision, path=""):
        return fingerprint(path.strip() or model)

    def load(self, model, precision, path=""):
        return (ManagedRewardModel(path.strip() or model, precision),)


class ScoreImages:
    """Images and their prompt(s) -> one reward an image."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Scores every picture of a batch (or list) with its prompt. One prompt counts for all pictures; "
        "a list of prompts, or one line each, must be as many as the pictures."
    )
    INPUT_IS_LIST = True  # all images and prompts at once, however they arrive
    RETURN_TYPES = ("FLOAT", "STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("scores", "report", "preview", "prompts")
    OUTPUT_IS_LIST = (True, False, True, True)
    OUTPUT_TOOLTIPS = (
        "one number a picture; ImageReward-v1.0's are about N(0, 1)",
        "a line a picture",
        "the pictures with their scores drawn on them",
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
                    {"default": False, "tooltip": "the first line belongs to the first picture, and so on"},
                ),
            },
        }

    def score(self, reward_model, images, prompt, prompt_per_line):
        model, image_list = reward_model[0], single_images(images)
        prompts = _prompts(prompt, prompt_per_line[0], len(image_list))
        scores = model.score(image_list, prompts)
        labels = [_label(model.model, score) for score in scores]
        preview = in_batches([with_label(*pair) for pair in zip(image_list, labels)])
        shown = [nodes.PreviewImage().save_images(batch)["ui"]["images"] for batch in preview]
        report = _report(model, labels, prompts)
        return {
            "ui": {"images": [image for batch in shown for image in batch], "text": [report]},
            "result": (scores, report, preview, prompts),
        }


def _prompts(given: Sequence[str], per_line: bool, count: int) -> list[str]:
    """One prompt an image, from one for all, a list, or lines.

    Raises:
        ValueError: neither one prompt nor as many as images.
    """
    prompts = [line.strip() for text in given for line in text.strip().splitlines()] if per_line else given
    if len(prompts) == 1:
        return list(prompts) * count
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} prompts for {count} pictures: give one, or as many as pictures")
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
            lines.append(f"not read, as the prompt is too long: {dropped}")
        if not prompt.strip():
            lines.append("an empty prompt: the score says how the picture is liked as such")
    return "\n".join([f"scores by {model.name}", *lines])

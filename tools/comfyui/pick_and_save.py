"""The nodes Pick Best / Filter and Save with Score."""

from __future__ import annotations

import logging
import math

import nodes
from comfy_execution.graph_utils import ExecutionBlocker

from .images import in_batches, single_images

CATEGORY = "reward"
STOP, KEEP, FAIL = "stop here", "keep the best", "fail"


class PickBest:
    """Node that keeps the images with the highest scores, best first."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Keeps the top_k pictures with the highest scores, if they reach the threshold. if_none: what to do "
        "if no picture does: skip the following nodes, keep the best picture, or fail."
    )
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE", "FLOAT", "INT", "STRING")
    RETURN_NAMES = ("images", "scores", "indices", "prompts")
    OUTPUT_IS_LIST = (True, True, True, True)
    OUTPUT_TOOLTIPS = (
        "one batch (several if sizes differ), best first",
        "their scores",
        "their indices among the input pictures, from 0",
        "their prompts, if prompts are connected",
    )
    FUNCTION = "pick"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "scores": ("FLOAT", {"forceInput": True}),
                "top_k": ("INT", {"default": 1, "min": 0, "max": 100000, "tooltip": "0: no limit"}),
                "use_threshold": ("BOOLEAN", {"default": False}),
                "threshold": ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6, "step": 0.01}),
                "if_none": ([STOP, KEEP, FAIL],),
            },
            "optional": {"prompts": ("STRING", {"forceInput": True})},
        }

    def pick(self, images, scores, top_k, use_threshold, threshold, if_none, prompts=("",)):
        image_list = single_images(images)
        scores, prompts = (
            _match_length("scores", scores, image_list),
            _match_length("prompts", prompts, image_list),
        )
        if not image_list:
            raise ValueError("Cannot pick the best picture: there are no pictures. Connect images.")
        if bad := [i for i, score in enumerate(scores) if not math.isfinite(score)]:
            raise ValueError(f"Cannot pick the best image: the score at index {bad[0]} is {scores[bad[0]]}.")
        order = sorted(range(len(image_list)), key=lambda i: -scores[i])  # equal scores keep their order
        selected = order[: top_k[0] or None]
        if use_threshold[0]:
            selected = [i for i in selected if scores[i] >= threshold[0]]
        text = f"{len(selected)} of {len(image_list)} kept"
        if not selected:
            best = scores[order[0]]
            text = f"none of {len(image_list)} pictures reaches {threshold[0]:g}; the best has {best:.4f}"
            if if_none[0] == FAIL:
                raise ValueError(text)
            logging.info("Pick Best: %s", text)
            if if_none[0] == STOP:
                return {"ui": {"text": [text]}, "result": (ExecutionBlocker(None),) * 4}
            selected = order[:1]
        selected_values = [[values[i] for i in selected] for values in (image_list, scores, prompts)]
        return {
            "ui": {"text": [text]},
            "result": (in_batches(selected_values[0]), selected_values[1], selected, selected_values[2]),
        }


class SaveWithScore:
    """Node that saves images as PNG files with their scores."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Saves pictures with their workflow, like Save Image, and adds the texts 'ImageReward Score' and, if "
        "prompts are connected, 'ImageReward Prompt' to each file."
    )
    INPUT_IS_LIST = True
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE",),
                "scores": ("FLOAT", {"forceInput": True}),
                "filename_prefix": ("STRING", {"default": "ComfyUI"}),
            },
            "optional": {"prompts": ("STRING", {"forceInput": True})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save(self, images, scores, filename_prefix, prompts=None, prompt=(None,), extra_pnginfo=(None,)):
        image_list = single_images(images)
        scores = _match_length("scores", scores, image_list)
        saved = []
        for i, (image, score) in enumerate(zip(image_list, scores)):
            texts = {**(extra_pnginfo[0] or {}), "ImageReward Score": round(score, 4)}
            if prompts is not None:
                texts["ImageReward Prompt"] = _match_length("prompts", prompts, image_list)[i]
            # One call per image, because Save Image writes the same texts into all files of a call.
            name = filename_prefix[0].replace("%batch_num%", str(i))
            result = nodes.SaveImage().save_images(image[None], name, prompt[0], texts)
            saved += result["ui"]["images"]
        return {"ui": {"images": saved}}


def _match_length(what: str, values, images: list) -> list:
    """Return one value per image; a single prompt is repeated.

    Raises:
        ValueError: the numbers of values and images differ.
    """
    values = list(values)
    if what == "prompts" and len(values) == 1:
        return values * len(images)
    if len(values) != len(images):
        raise ValueError(f"Cannot use {len(values)} {what} for {len(images)} pictures. Give one per picture.")
    return values

"""The nodes of ComfyUI's graph that make an image from a text: samplers, and nodes that ask a service.

What a node does is told by its class and by the names of its inputs, which extensions mostly share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .comfyui_random import is_named
from .comfyui_text import Graph, GraphReading, inputs_of, is_link, text_at

GIVEN = ("positive", "guider", "conditioning", "pipe")  # how a sampler gets its positive conditioning
DRAWS = ("steps", "seed", "denoise", "cfg")  # a node with a positive conditioning and one of these samples
# A node that asks a service for an image (GeminiImageNode, IdeogramV3, ...) has an input of ASKED and one of
# MAKES. A node that finds, describes or encodes something has a prompt, too, but is named so.
ASKED = ("prompt", "prompt_text", "positive_prompt", "text_prompt")
MAKES = (
    "seed",
    "aspect_ratio",
    "ratio",
    "size",
    "image_size",
    "resolution",
    "width",
    "quality",
    "style",
    "n",
)
FINDS = (
    "segment", "sam", "dino", "detect", "florence", "mask", "clipseg", "rmbg", "matting", "ollama", "llm",
    "chat",
)  # fmt: skip
CHANGES = ("upscale", "enhance", "save", "encode")  # makes no image where there is a sampler
# How the inputs begin that do not lead to the node which made an image.
NO_IMAGE = (
    "text", "prompt", "string", "positive", "negative", "conditioning", "cond", "clip", "model", "vae",
    "guider", "control_net", "mask", "seed", "noise", "file", "path", "caption", "metadata",
)  # fmt: skip


def makers(graph: Graph, start: str) -> list[str]:
    """Return the nodes above ``start`` that make an image or latents from a text, the nearest first."""
    return _above(graph, start, _is_maker) or _above(graph, start, _may_be_maker)


def given_text(graph: Graph, maker: str, resolved: bool, reading: GraphReading) -> str | None:
    """Return the text that a maker was given. Args and errors: as `comfyui_text.text_at`."""
    inputs = inputs_of(graph, maker)
    values = [inputs[name] for name in GIVEN if inputs.get(name)] or [_asked(inputs)]
    return next((text for value in values if (text := text_at(graph, value, resolved, reading))), None)


def _above(graph: Graph, start: str, wanted: Callable[[Graph, str, bool], bool]) -> list[str]:
    """Nodes above ``start``, and itself, by their distance; ``wanted`` knows if only images led to them."""
    found, seen, queue = [], {start}, deque([(start, True)])
    while queue:
        id, on_image = queue.popleft()
        if wanted(graph, id, on_image):
            found.append(id)
            on_image = _is_sampler(graph, id) and on_image  # others change the images they are given
        for name, value in inputs_of(graph, id).items():
            if is_link(graph, value) and value[0] not in seen:
                seen.add(value[0])
                queue.append((value[0], on_image and not str(name).startswith(NO_IMAGE)))
    return found


def _is_maker(graph: Graph, id: str, on_image: bool) -> bool:
    if _is_sampler(graph, id):
        return True
    inputs = inputs_of(graph, id)
    makes = any(name.rpartition(".")[2] in MAKES for name in inputs)
    return on_image and makes and _asked(inputs) is not None and not _named(graph, id, FINDS + CHANGES)


def _may_be_maker(graph: Graph, id: str, on_image: bool) -> bool:
    """Where there is no sampler: nodes that sample under other names, such as UltimateSDUpscale."""
    inputs = inputs_of(graph, id)
    draws = "positive" in inputs and any(name in inputs for name in DRAWS)
    asked = _asked(inputs) is not None and not _named(graph, id, FINDS)
    return on_image and (draws or asked)


def _is_sampler(graph: Graph, id: str) -> bool:
    inputs = inputs_of(graph, id)
    samples = _named(graph, id, ("sampler",)) or "noise_seed" in inputs
    return samples and any(name in inputs for name in GIVEN)


def _asked(inputs: dict[str, Any]) -> Any:
    """The input with which a node is asked for an image: "prompt", or "model.prompt" of a chosen model."""
    return next((v for name, v in inputs.items() if name.rpartition(".")[2] in ASKED and v), None)


def _named(graph: Graph, id: str, words: tuple[str, ...]) -> bool:
    return is_named(str(graph[id].get("class_type")), words)

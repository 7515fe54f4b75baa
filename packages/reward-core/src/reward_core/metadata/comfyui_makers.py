"""ComfyUI nodes that make images from texts: samplers and calls of services.

The class of a node and the names of its inputs, which are similar in most extensions, show what it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .comfyui_random import is_named
from .comfyui_text import Graph, GraphReading, inputs_of, is_link, text_at

GIVEN = ("positive", "guider", "conditioning", "pipe")  # inputs with the positive conditioning of a sampler
DRAWS = ("steps", "seed", "denoise", "cfg")  # other inputs of a node that samples
# A node that calls a service for an image (GeminiImageNode, IdeogramV3, ...) has an input in ASKED and one in
# MAKES. Nodes that find, describe or encode something also have a prompt, but are recognized by their class.
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
CHANGES = (
    "upscale",
    "enhance",
    "save",
    "encode",
)  # classes that do not make images in a graph with a sampler
# Prefixes of inputs that do not lead to the node that made an image.
NO_IMAGE = (
    "text", "prompt", "string", "positive", "negative", "conditioning", "cond", "clip", "model", "vae",
    "guider", "control_net", "mask", "seed", "noise", "file", "path", "caption", "metadata",
)  # fmt: skip


def makers(graph: Graph, start: str) -> list[str]:
    """Return the nodes before ``start`` that make an image, nearest first."""
    return _above(graph, start, _is_maker) or _above(graph, start, _may_be_maker)


def given_text(graph: Graph, maker: str, resolved: bool, reading: GraphReading) -> str | None:
    """Return the text that a node made its image from.

    Args and Raises are as in `comfyui_text.text_at`.
    """
    inputs = inputs_of(graph, maker)
    values = [inputs[name] for name in GIVEN if inputs.get(name)] or [_asked(inputs)]
    return next((text for value in values if (text := text_at(graph, value, resolved, reading))), None)


def _above(graph: Graph, start: str, wanted: Callable[[Graph, str, bool], bool]) -> list[str]:
    """Return ``start`` and the nodes before it that are ``wanted``, nearest first.

    The last argument of ``wanted`` is whether all links to the node carry images.
    """
    result, seen, queue = [], {start}, deque([(start, True)])
    while queue:
        id, on_image = queue.popleft()
        if wanted(graph, id, on_image):
            result.append(id)
            on_image = _is_sampler(graph, id) and on_image  # other nodes change their input images
        for name, value in inputs_of(graph, id).items():
            if is_link(graph, value) and value[0] not in seen:
                seen.add(value[0])
                queue.append((value[0], on_image and not str(name).startswith(NO_IMAGE)))
    return result


def _is_maker(graph: Graph, id: str, on_image: bool) -> bool:
    if _is_sampler(graph, id):
        return True
    inputs = inputs_of(graph, id)
    makes = any(name.rpartition(".")[2] in MAKES for name in inputs)
    return on_image and makes and _asked(inputs) is not None and not _named(graph, id, FINDS + CHANGES)


def _may_be_maker(graph: Graph, id: str, on_image: bool) -> bool:
    """Return whether a node may sample under another name, such as UltimateSDUpscale."""
    inputs = inputs_of(graph, id)
    draws = "positive" in inputs and any(name in inputs for name in DRAWS)
    asked = _asked(inputs) is not None and not _named(graph, id, FINDS)
    return on_image and (draws or asked)


def _is_sampler(graph: Graph, id: str) -> bool:
    inputs = inputs_of(graph, id)
    samples = _named(graph, id, ("sampler",)) or "noise_seed" in inputs
    return samples and any(name in inputs for name in GIVEN)


def _asked(inputs: dict[str, Any]) -> Any:
    """Return the input with the prompt of a service: "prompt" or "model.prompt"."""
    return next((v for name, v in inputs.items() if name.rpartition(".")[2] in ASKED and v), None)


def _named(graph: Graph, id: str, words: tuple[str, ...]) -> bool:
    return is_named(str(graph[id].get("class_type")), words)

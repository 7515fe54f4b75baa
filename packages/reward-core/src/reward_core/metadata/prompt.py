"""The prompt that a picture was made from, read from the forms in which programs leave it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError, InputError
from . import comfyui, infotext
from .picture_file import read_texts

# Plain texts, the surest first. Keywords are compared in small letters.
SURE = ("parameters", "prompt", "positive prompt")
# Cameras and editors fill these as well ("Created with GIMP"): a caption beside the picture comes first.
UNSURE = ("description", "imagedescription", "dc:description", "usercomment", "comment", "title")
JSON_KEYS = ("prompt", "positive_prompt", "positivePrompt", "Prompt")
JSON_PARENTS = ("sui_image_params", "image", "meta", "metadata")


@dataclass(frozen=True)
class FoundPrompt:
    """A prompt, and in which form it was found."""

    text: str
    source: str


def read_prompt(path: str | os.PathLike[str]) -> FoundPrompt:
    """The prompt in a picture's metadata, or in a text file of its name beside it.

    Forms, in this order: the ComfyUI node's "ImageReward Prompt"; AUTOMATIC1111's settings (PNG text
    "parameters", EXIF UserComment); ComfyUI's graphs; JSON of InvokeAI, SwarmUI, Fooocus, NovelAI and others;
    a plain text named Prompt; picture.txt beside picture.png; other plain texts (Description, Comment, ...).
    Weights, networks and changes in the WebUI's and ComfyUI's notation are taken out: "(red:1.3) house" is
    "red house".

    Raises:
        ImageError: no prompt, an empty one, several that differ, or a file that cannot be read.
    """
    name = os.fspath(path)
    texts = read_texts(path)
    by_name = {key.lower(): text for key, text in texts.items() if text.strip()}
    try:
        found = _search(texts, by_name) or _beside(Path(path).with_suffix(".txt")) or _plain(by_name, UNSURE)
    except InputError as error:
        raise ImageError(name, str(error)) from error
    except RecursionError as error:
        raise ImageError(name, "its prompt or graph is nested too deeply") from error
    if found is None:
        have = ", ".join(sorted(texts)) or "none at all"
        raise ImageError(name, f"no prompt in its metadata (texts: {have})")
    if not found.text:
        raise ImageError(name, f"its prompt is empty ({found.source})")
    return found


def _search(texts: dict[str, str], by_name: dict[str, str]) -> FoundPrompt | None:
    own = by_name.get("imagereward prompt")
    if own is not None:
        value = _json(own)
        return FoundPrompt(value if isinstance(value, str) else own.strip(), "ImageReward Prompt")
    for name in ("parameters", "usercomment"):
        if name in by_name and (found := _infotext(by_name[name], name)):
            return found
    if found := _graph(texts, by_name):
        return found
    for name, text in by_name.items():
        value = _json(text)
        if isinstance(value, dict) and (prompt := _json_prompt(value)):
            return FoundPrompt(prompt, f"{name} (JSON)")
    return _plain(by_name, SURE)


def _beside(caption: Path) -> FoundPrompt | None:
    """The text file of the picture's name."""
    if not caption.is_file():
        return None
    text = caption.read_text(encoding="utf-8", errors="replace").strip()
    return _infotext(text, caption.name) or (FoundPrompt(text, caption.name) if text else None)


def _plain(by_name: dict[str, str], names: tuple[str, ...]) -> FoundPrompt | None:
    for name in names:
        text = by_name.get(name)
        if text is not None and not _is_json(text):
            return FoundPrompt(infotext.without_negative(text), name)
    return None


def _is_json(text: str) -> bool:
    """Whether a text is JSON, or ComfyUI's "Workflow:{...}"."""
    rest = text.partition(":")[2].lstrip()
    return isinstance(_json(text), (dict, list)) or (rest.startswith("{") and _json(rest) is not None)


def _infotext(text: str, source: str) -> FoundPrompt | None:
    parts = infotext.split(text)
    if parts is None:
        return None
    return FoundPrompt(infotext.plain(parts[0], int(parts[1]["Steps"])), f"{source} (A1111)")


def _graph(texts: dict[str, str], by_name: dict[str, str]) -> FoundPrompt | None:
    """ComfyUI's graphs: texts of their own in PNG, "prompt:{...}" in EXIF's Model, Make or description."""
    stored = {name: by_name.get(name, "") for name in ("prompt", "workflow")}
    for text in texts.values():
        head, colon, rest = text.partition(":")
        if colon and head.strip().lower() in stored and rest.lstrip().startswith("{"):
            stored[head.strip().lower()] = rest
    graph, workflow = _json(stored["prompt"]), _json(stored["workflow"])
    if isinstance(graph, dict) and any(isinstance(n, dict) and "class_type" in n for n in graph.values()):
        nodes = {id: node for id, node in graph.items() if isinstance(node, dict)}
        if text := comfyui.prompt_of(nodes):
            return FoundPrompt(text, "prompt (ComfyUI)")
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        text = comfyui.prompt_of(comfyui.from_workflow(workflow))
        if text:
            return FoundPrompt(text, "workflow (ComfyUI)")
    return None


def _json_prompt(value: dict[str, Any]) -> str | None:
    for key in JSON_KEYS:
        prompt = value.get(key)
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
            # InvokeAI 2: [{"prompt": ..., "weight": 1}]
            prompt = prompt[0].get("prompt")
        if isinstance(prompt, str) and prompt.strip():
            return prompt.strip()
    for key in JSON_PARENTS:
        if isinstance(value.get(key), dict) and (prompt := _json_prompt(value[key])):
            return prompt
    return None


def _json(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[", '"')):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

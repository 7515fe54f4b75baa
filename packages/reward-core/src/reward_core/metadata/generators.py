"""Readers for the prompts that image generators write into images.

`read` passes every text of an image to the readers in GENERATORS, in order. To add a program, write a
function from a Source to the prompt, or to None if the text is from another program, and add it to the table.
Return None in case of doubt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import InputError
from ..files.limits import MAX_PROMPT_TEXT
from . import comfyui, infotext, notations, settings_text

JSON_KEYS = (
    "prompt", "positive_prompt", "positivePrompt", "Prompt", "positive_conditioning", "text_prompt",
    "input_prompt", "base_caption",
)  # fmt: skip
JSON_PARENTS = (
    "sui_image_params", "image", "meta", "metadata", "parameters", "params", "generation_data", "request",
    "extraMetadata", "reqBody", "settings", "node", "v4_prompt", "caption", "Comment", "v2",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A text of an image.

    Attributes:
        name: name of its field, in lower case.
        text: the text.
        others: all texts of the image, by name.
    """

    name: str
    text: str
    others: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def json(self) -> Any:
        """JSON value of the text, or None if it is not JSON."""
        return parse_json(self.text)

    @property
    def object(self) -> dict[str, Any]:
        """JSON object of the text, or {} if it is not one."""
        return self.json if isinstance(self.json, dict) else {}


@dataclass(frozen=True)
class Generator:
    """A program and its reader.

    Attributes:
        name: name of the program.
        form: name of its format in `FoundPrompt.source`.
        read: reader of its texts.
        reads_notation: whether the reader searches texts that are not JSON; long texts are skipped.
    """

    name: str
    form: str
    read: Callable[[Source], str | None]
    reads_notation: bool = False


@dataclass(frozen=True)
class Reading:
    """A prompt and the generator that wrote it."""

    prompt: str
    generator: Generator


def read(source: Source) -> Reading | None:
    """Return the prompt of the first generator that recognizes the text.

    Raises:
        InputError: the text does not say which prompt was used.
    """
    for generator in GENERATORS:
        if generator.reads_notation and len(source.text) > MAX_PROMPT_TEXT.value:
            continue
        prompt = generator.read(source)
        if prompt is not None:
            return Reading(prompt.strip(), generator)
    return None


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, or None if it is not JSON."""
    text = text.strip().rstrip("\0")
    if not text.startswith(("{", "[", '"')):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _civitai(source: Source) -> str | None:
    """Read a ComfyUI graph with the settings of Civitai's generator."""
    if not comfyui.is_graph(source.json):
        return None
    extra = source.object.get("extraMetadata")
    extra = parse_json(extra) if isinstance(extra, str) else extra
    prompt = extra.get("prompt") if isinstance(extra, dict) else None
    return infotext.plain(prompt) if isinstance(prompt, str) and prompt.strip() else None


def _comfyui(source: Source) -> str | None:
    """Read a graph, or {"prompt": graph, "workflow": graph}."""
    value = source.json
    if comfyui.is_graph(value) or comfyui.is_workflow(value):
        return comfyui.read(value)
    for key in ("prompt", "workflow"):
        inner = source.object.get(key)
        inner = parse_json(inner) if isinstance(inner, str) else inner
        if comfyui.is_graph(inner) or comfyui.is_workflow(inner):
            workflow = source.object.get("workflow")
            if prompt := comfyui.read(inner, workflow if isinstance(workflow, dict) else None):
                return prompt
    return None


def _swarmui(source: Source) -> str | None:
    prompt = _within(source.object, "sui_image_params", "prompt")
    return notations.swarmui(prompt) if prompt else None


def _novelai(source: Source) -> str | None:
    """Read the base prompt. Models from version 4 also store prompts of characters."""
    from_novelai = "novelai" in source.others.get("software", "").lower()
    if source.name == "description" and from_novelai:
        return notations.novelai(source.text)
    value = source.object
    if not (from_novelai and source.name == "comment") and "v4_prompt" not in value:
        return None
    prompt = _text(value.get("prompt")) or _within(value, "v4_prompt", "caption", "base_caption")
    return notations.novelai(prompt) if prompt else None


def _draw_things(source: Source) -> str | None:
    value = source.object
    return _text(value.get("c")) if "uc" in value or "v2" in value else None


def _invokeai(source: Source) -> str | None:
    names = ("invokeai_metadata", "sd-metadata", "invokeai")
    if source.name not in names and "invokeai" not in str(source.object.get("app_id", "")).lower():
        return None
    prompt = _json_prompt(source.object)
    return notations.invokeai(prompt) if prompt else None


def _invokeai_dream(source: Source) -> str | None:
    """Read the command line of InvokeAI 1: "a red house [blurred]" -s 50 -S 1 -W 512."""
    match = re.fullmatch(r'\s*"((?:[^"\\]|\\.)*)"\s+(?:-[a-zA-Z]|--\w+)[ =]?\S.*', source.text, re.DOTALL)
    if match is None and source.name == "dream":
        return notations.invokeai(_without_options(source.text).replace('\\"', '"'))
    return notations.invokeai(match[1].replace('\\"', '"')) if match else None


def _without_options(line: str) -> str:
    """Return a command line without the options at its end (-s 50 -W512)."""
    line = line.strip()
    words = list(re.finditer(r"\S+", line))
    first, are_options = len(words), [False] * len(words) + [True, False]  # from each word to the end
    for i in range(len(words) - 1, 0, -1):
        word = words[i][0]
        if re.match(r"-[a-zA-Z]", word):
            joined = len(word) > 2 and are_options[i + 1]
            with_value = len(word) == 2 and are_options[i + 2] and words[i + 1].start() == words[i].end() + 1
            if joined or with_value:
                are_options[i], first = True, i
    return line[: words[first - 1].end()] if words else line


def _easy_diffusion(source: Source) -> str | None:
    """Read a caption file with one setting per line: "Prompt: ...", "Seed: ..."."""
    lines = source.text.replace("\r\n", "\n").split("\n")
    named = dict(line.partition(": ")[::2] for line in lines if ": " in line)
    if not {"Prompt", "Seed", "Steps"} <= set(named):
        return None
    start = next(i for i, line in enumerate(lines) if line.startswith("Prompt: "))
    known = re.compile(r"[A-Z][A-Za-z]*(?: [A-Za-z]+){0,3}: ")
    end = next((i for i in range(start + 1, len(lines)) if known.match(lines[i])), len(lines))
    return _unmarked("\n".join(lines[start:end]).removeprefix("Prompt: "))


def _mochi_diffusion(source: Source) -> str | None:
    match = re.search(
        r"(?:^|;\s*|\n[^\S\n]*)Include in Image: (.*?)(?:(?:;\s*|\n[^\S\n]*)"
        r"(?:Exclude from Image|Model|Size|Steps|Seed|"
        r"Quality|Scheduler|Guidance Scale|Generator|Input Images|Upscaled|Date):|$)",
        source.text,
        re.DOTALL,
    )
    return match[1].strip() if match else None


def _midjourney(source: Source) -> str | None:
    return notations.midjourney(source.text)


def _infotext(source: Source) -> str | None:
    if source.json is not None or source.text.lstrip().startswith('{"'):  # truncated JSON
        return None
    settings = settings_text.read(source.text)
    return None if settings is None else infotext.plain(settings.prompt, settings.steps)


def _other_json(source: Source) -> str | None:
    prompt = _json_prompt(source.object)
    return _unmarked(prompt) if prompt else None


GENERATORS = (
    Generator("Civitai", "Civitai", _civitai),
    Generator("ComfyUI", "ComfyUI", _comfyui),
    Generator("SwarmUI", "JSON", _swarmui),
    Generator("NovelAI", "", _novelai),
    Generator("Draw Things", "JSON", _draw_things),
    Generator("InvokeAI 2 and later", "JSON", _invokeai),
    Generator("InvokeAI 1", "InvokeAI", _invokeai_dream, reads_notation=True),
    Generator("Easy Diffusion", "Easy Diffusion", _easy_diffusion, reads_notation=True),
    Generator("Mochi Diffusion", "Mochi Diffusion", _mochi_diffusion, reads_notation=True),
    Generator(
        "AUTOMATIC1111, Forge, SD.Next, Fooocus, Draw Things, Civitai",
        "A1111",
        _infotext,
        reads_notation=True,
    ),
    Generator("Midjourney", "Midjourney", _midjourney, reads_notation=True),
    Generator("Fooocus, Easy Diffusion, mflux, TensorArt and others", "JSON", _other_json),
)


def _json_prompt(value: dict[str, Any], depth: int = 0) -> str | None:
    for key in JSON_KEYS:
        if prompt := _text(value.get(key)):
            return prompt
    for key in JSON_PARENTS:
        inner = value.get(key)
        inner = parse_json(inner) if isinstance(inner, str) else inner
        if isinstance(inner, dict) and depth < 8 and (prompt := _json_prompt(inner, depth + 1)):
            return prompt
    return None


def _text(value: Any) -> str | None:
    """Return a string, or the joined parts of [{"prompt": ..., "weight": 1}].

    The list is InvokeAI 2's. Parts with a negative weight are left out.
    """
    if isinstance(value, list):
        parts = [
            str(part.get("prompt", ""))
            for part in value
            if isinstance(part, dict) and not str(part.get("weight", 1)).startswith("-")
        ]
        value = ", ".join(part.strip() for part in parts if part.strip())
    return value.strip() or None if isinstance(value, str) else None


def _within(value: Any, *keys: str) -> str | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return _text(value)


def _unmarked(prompt: str) -> str:
    """Return a prompt without the WebUI's notation, if any."""
    if re.search(r"<(?:random|wildcard)[:\[]", prompt):
        raise InputError("its prompt is a template with random parts. Give the prompt")
    return infotext.plain(prompt) if settings_text.has_notation(prompt) else prompt

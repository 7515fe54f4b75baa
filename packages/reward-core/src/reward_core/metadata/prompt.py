"""Reading of the prompt of an image, in the formats of many programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError, InputError
from ..files.foreign_bytes import guarded, read_regular, reason
from ..files.limits import MAX_CAPTION_BYTES, MAX_PROMPT_TEXT
from . import comfyui, generators, settings_text, text_encoding
from .banners import is_banner
from .generators import Source, parse_json
from .tagged_image import read_texts

# Names of plain texts, the most reliable first, in lower case.
SURE = (
    "parameters", "prompt", "positive prompt", "positive_prompt", "dream", "iptc4xmpext:aipromptinformation",
)  # fmt: skip
# Cameras and editors also write these ("Created with GIMP"), so a caption file comes first.
UNSURE = (
    "description", "imagedescription", "dc:description", "tiff:imagedescription", "usercomment",
    "exif:usercomment", "comment", "xpcomment", "xpsubject", "title", "dc:title", "xptitle",
)  # fmt: skip
# Texts that are never prompts, even if they look like one. Graphs are read separately.
OTHER = (
    "software", "make", "model", "author", "artist", "copyright", "source", "xmp:creatortool",
    "xml:com.adobe.xmp", "prompt", "workflow",
)  # fmt: skip


@dataclass(frozen=True)
class FoundPrompt:
    """A prompt and the format in which it was found."""

    text: str
    source: str


def read_prompt(path: str | os.PathLike[str]) -> FoundPrompt:
    """Return the prompt in the metadata of an image, or in its caption file.

    The prompt is read from the first of: the ComfyUI node's "ImageReward Prompt"; a text in any field that a
    generator in `generators.py` recognizes; a ComfyUI graph; a plain text named Prompt; the caption file
    (image.txt for image.png); other plain texts (Description, Comment, ...) that are not from a camera or an
    editor. Weights, networks and changes in the generator's notation are removed: "(red:1.3) house" becomes
    "red house".

    Raises:
        ImageError: no prompt, an empty prompt, several different prompts, a prompt with random parts or in an
            unknown encoding, or a file that cannot be read.
    """
    name = os.fspath(path)
    texts = read_texts(path)
    by_name = {key.lower(): text for key, text in texts.items() if text.strip()}
    try:
        prompt = _search(texts, by_name) or _caption(Path(path)) or _plain(by_name, UNSURE)
    except InputError as error:
        raise ImageError(name, str(error)) from error
    except RecursionError as error:
        raise ImageError(name, "its prompt or graph is nested too deeply") from error
    except Exception as error:  # a text in an unexpected format
        raise ImageError(name, f"its prompt cannot be read: {reason(error)}") from error
    if prompt is None:
        names = ", ".join(sorted(texts)[:12]) or "none"
        names += f", ... ({len(texts)} in all)" if len(texts) > 12 else ""
        raise ImageError(name, f"no prompt in its metadata (texts: {names})")
    if not prompt.text:
        raise ImageError(name, f"its prompt is empty ({prompt.source})")
    if not text_encoding.is_decoded(prompt.text):
        raise ImageError(
            name, f"cannot read its prompt: {prompt.source} is in an unknown encoding. Give the prompt"
        )
    return prompt


def _search(texts: dict[str, str], by_name: dict[str, str]) -> FoundPrompt | None:
    stored = by_name.get("imagereward prompt")
    if stored is not None:
        value = parse_json(stored)
        return FoundPrompt(value if isinstance(value, str) else stored.strip(), "ImageReward Prompt")
    for source in _sources(by_name):
        if prompt := _recognized(source):
            return prompt
    return _graph(texts, by_name) or _plain(by_name, SURE)


def _sources(by_name: dict[str, str]) -> Iterator[Source]:
    """Yield the texts that may contain a prompt (no graphs), the WebUI's first."""
    first = ("parameters", "usercomment", "exif:usercomment")
    for name in (*first, *(name for name in by_name if name not in first)):
        text = by_name.get(name)
        if text is None or "negative" in name or (name in OTHER and _is_json_like(text)):
            continue
        if name not in OTHER or name == "prompt":
            yield Source(name, text, by_name)


def _recognized(source: Source) -> FoundPrompt | None:
    if _is_prefixed_json(source.text):
        return None
    reading = generators.read(source)
    if reading is None:
        return None
    form = reading.generator.form
    return FoundPrompt(reading.prompt, f"{source.name} ({form})" if form else source.name)


def _caption(image: Path) -> FoundPrompt | None:
    """Return the prompt in the caption file of an image, or None."""
    caption = image.with_suffix(".txt")
    if not caption.exists() or caption.is_dir():
        return None
    with guarded(lambda e: InputError(f"cannot read its caption {caption.name!r}: {reason(e)}")):
        text = text_encoding.decode_text(read_regular(caption, MAX_CAPTION_BYTES))
    if not text.strip():
        return None
    _check_length(text, f"caption {caption.name!r}")
    return _recognized(Source(caption.name, text)) or FoundPrompt(settings_text.plain(text), caption.name)


def _plain(by_name: dict[str, str], names: tuple[str, ...]) -> FoundPrompt | None:
    for name in names:
        text = by_name.get(name)
        if text is None or _is_json_like(text) or (names is UNSURE and is_banner(text)):
            continue
        _check_length(text, name)
        return FoundPrompt(settings_text.plain(text), name)
    return None


def _check_length(text: str, name: str) -> None:
    if len(text) > MAX_PROMPT_TEXT.value:
        raise InputError(
            f"its {name} is too long for a prompt: {len(text):,} characters, at most "
            f"{MAX_PROMPT_TEXT.value:,} are read ({MAX_PROMPT_TEXT.advice})"
        )


def _is_json_like(text: str) -> bool:
    """Return whether a text is JSON, or ComfyUI's "Workflow:{...}"."""
    return isinstance(parse_json(text), (dict, list)) or _is_prefixed_json(text)


def _is_prefixed_json(text: str) -> bool:
    rest = text.partition(":")[2].lstrip()
    return rest.startswith("{") and parse_json(rest) is not None


def _graph(texts: dict[str, str], by_name: dict[str, str]) -> FoundPrompt | None:
    """Return the prompt of a ComfyUI graph in a PNG text or an EXIF field."""
    stored = {name: by_name.get(name, "") for name in ("prompt", "workflow")}
    for content in texts.values():
        head, colon, rest = content.partition(":")
        if colon and head.strip().lower() in stored and rest.lstrip().startswith("{"):
            stored[head.strip().lower()] = rest
    graph, workflow = parse_json(stored["prompt"]), parse_json(stored["workflow"])
    workflow = workflow if comfyui.is_workflow(workflow) else None
    if comfyui.is_graph(graph) and (text := comfyui.read(graph, workflow)):
        return FoundPrompt(text, "prompt (ComfyUI)")
    if workflow is not None and (text := comfyui.read(workflow)):
        return FoundPrompt(text, "workflow (ComfyUI)")
    return None

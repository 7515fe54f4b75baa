"""The prompt that an image was made from, read from the forms in which programs leave it."""

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

# Plain texts, the surest first. Keywords are compared in small letters.
SURE = (
    "parameters", "prompt", "positive prompt", "positive_prompt", "dream", "iptc4xmpext:aipromptinformation",
)  # fmt: skip
# Cameras and editors fill these as well ("Created with GIMP"): a caption beside the image comes first.
UNSURE = (
    "description", "imagedescription", "dc:description", "tiff:imagedescription", "usercomment",
    "exif:usercomment", "comment", "xpcomment", "xpsubject", "title", "dc:title", "xptitle",
)  # fmt: skip
# Texts that are no prompts even where they look like one; graphs are read apart.
OTHER = (
    "software", "make", "model", "author", "artist", "copyright", "source", "xmp:creatortool",
    "xml:com.adobe.xmp", "prompt", "workflow",
)  # fmt: skip


@dataclass(frozen=True)
class FoundPrompt:
    """A prompt, and in which form it was found."""

    text: str
    source: str


def read_prompt(path: str | os.PathLike[str]) -> FoundPrompt:
    """The prompt in an image's metadata, or in a text file of its name beside it.

    Forms, in this order: the ComfyUI node's "ImageReward Prompt"; texts that a generator of `generators.py`
    recognizes, in whichever field; ComfyUI's graphs; a plain text named Prompt; picture.txt beside
    picture.png; other plain texts (Description, Comment, ...) unless a camera or an editor left them.
    Weights, networks and changes in the generator's notation are taken out: "(red:1.3) house" is "red house".

    Raises:
        ImageError: no prompt, an empty one, several that differ, one that was picked at random as the image
            was made, one in an unknown encoding, or a file that cannot be read.
    """
    name = os.fspath(path)
    texts = read_texts(path)
    by_name = {key.lower(): text for key, text in texts.items() if text.strip()}
    try:
        found = _search(texts, by_name) or _beside(Path(path)) or _plain(by_name, UNSURE)
    except InputError as error:
        raise ImageError(name, str(error)) from error
    except RecursionError as error:
        raise ImageError(name, "its prompt or graph is nested too deeply") from error
    except Exception as error:  # a text of a form that no reader expects
        raise ImageError(name, f"its prompt cannot be read: {reason(error)}") from error
    if found is None:
        have = ", ".join(sorted(texts)[:12]) or "none at all"
        have += f", ... ({len(texts)} in all)" if len(texts) > 12 else ""
        raise ImageError(name, f"no prompt in its metadata (texts: {have})")
    if not found.text:
        raise ImageError(name, f"its prompt is empty ({found.source})")
    if not text_encoding.is_decoded(found.text):
        raise ImageError(
            name, f"cannot read its prompt: {found.source} is in an unknown encoding. Give the prompt"
        )
    return found


def _search(texts: dict[str, str], by_name: dict[str, str]) -> FoundPrompt | None:
    own = by_name.get("imagereward prompt")
    if own is not None:
        value = parse_json(own)
        return FoundPrompt(value if isinstance(value, str) else own.strip(), "ImageReward Prompt")
    for source in _sources(by_name):
        if found := _recognized(source):
            return found
    return _graph(texts, by_name) or _plain(by_name, SURE)


def _sources(by_name: dict[str, str]) -> Iterator[Source]:
    """Texts that may hold a prompt: those in which the WebUI keeps it first, graphs not among them."""
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


def _beside(image: Path) -> FoundPrompt | None:
    """The text file of the image's name."""
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
            f"its {name} has {len(text):,} characters, and a prompt of at most {MAX_PROMPT_TEXT.value:,} is "
            f"read ({MAX_PROMPT_TEXT.advice})"
        )


def _is_json_like(text: str) -> bool:
    """Whether a text is JSON, or ComfyUI's "Workflow:{...}"."""
    return isinstance(parse_json(text), (dict, list)) or _is_prefixed_json(text)


def _is_prefixed_json(text: str) -> bool:
    rest = text.partition(":")[2].lstrip()
    return rest.startswith("{") and parse_json(rest) is not None


def _graph(texts: dict[str, str], by_name: dict[str, str]) -> FoundPrompt | None:
    """ComfyUI's graphs: texts of their own in PNG, "prompt:{...}" in EXIF's Model, Make or description."""
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

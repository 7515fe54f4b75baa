"""A row of a bulk run's input, and the checks that do not need its image."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from ..files.limits import MAX_PROMPT_TEXT
from ..inputs.image_file import decoded_image, decoded_image_bytes

Key: TypeAlias = "str | bytes"


@dataclass(frozen=True)
class InputRow:
    """A prompt and an image, or the error that prevents scoring them.

    Attributes:
        prompt: the prompt; None if it is missing or not a string.
        image: name of the image in the output, the same as in the input.
        content: path of the image file, or its bytes; None if there is no image.
        error: what is wrong; errors are counted by the part before ": ".
    """

    prompt: str | None
    image: str
    content: str | bytes | None
    error: str | None = None

    def key(self) -> Key:
        """Return the image's path or a hash of its bytes; rows with the same image have the same key."""
        if isinstance(self.content, bytes):
            return hashlib.blake2b(self.content, digest_size=16).digest()
        assert self.content is not None  # rows without content have an error and are not opened
        return self.content

    def open(self) -> AbstractContextManager[Image.Image]:
        """Open the decoded image, without a warning about clipped levels. Raise ImageError."""
        if isinstance(self.content, bytes):
            return decoded_image_bytes(self.content, self.image, warn=False)
        assert self.content is not None  # as in key()
        return decoded_image(self.content, warn=False)


def input_row(prompt: Any, cell: Any, folder: str = "", name: str = "") -> InputRow:
    """Return the row for a prompt and an image of any type; invalid values become its error.

    Args:
        prompt: valid if it is a string that is not blank.
        cell: the image: a path, bytes, or a dict with "bytes" and "path" (the format of ``datasets``).
        folder: folder that relative paths are relative to.
        name: name of an image given as bytes without a path.
    """
    error = prompt_error(prompt)
    prompt = prompt if error is None else None
    if isinstance(cell, dict):
        data, path = cell.get("bytes"), cell.get("path")
        name = path if isinstance(path, str) and path else name
        cell = path if data is None else data
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return InputRow(prompt, name, bytes(cell), error)
    if isinstance(cell, str) and cell:
        path = cell if "://" in cell else os.path.join(folder, cell)
        return InputRow(prompt, cell, path, error)
    if cell is None or cell == "":
        return InputRow(prompt, name, None, error or "no image")
    reason = f"the image must be a path or the bytes of a file: got {type(cell).__name__} {cell!r:.80}"
    return InputRow(prompt, name, None, error or reason)


def prompt_error(prompt: Any) -> str | None:
    """Return why a value is not a valid prompt; None if it is."""
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        return "no prompt"
    if not isinstance(prompt, str):
        return f"the prompt must be a string: got {type(prompt).__name__} {prompt!r:.80}"
    if len(prompt) > MAX_PROMPT_TEXT.value:
        sizes = f"{len(prompt):,} characters, at most {MAX_PROMPT_TEXT.value:,} are read"
        return f"the prompt is too long: {sizes} ({MAX_PROMPT_TEXT.advice})"
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return "the prompt is not valid UTF-8"
    return None


def error_kind(*reasons: str) -> str:
    """Return the kind by which an error is counted: the part of its reasons before the first ": "."""
    return "; ".join(dict.fromkeys(reason.split(": ", 1)[0] for reason in reasons))

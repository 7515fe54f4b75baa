"""One row of a bulk run's input, and what can be wrong with it before its image is opened."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from ..inputs.image_file import decoded_image, decoded_image_bytes

Key: TypeAlias = "str | bytes"


@dataclass(frozen=True)
class InputRow:
    """A prompt with an image, or with the error that keeps it from being scored.

    Attributes:
        prompt: None where it is missing or no text.
        image: how the output calls the image: as the input does.
        content: path of its file, or the file's bytes; None where ``error`` says so.
        error: what is wrong; its words before ": " are the kind by which errors are counted.
    """

    prompt: str | None
    image: str
    content: str | bytes | None
    error: str | None = None

    def key(self) -> Key:
        """Equal for rows with the same image: its path, or a hash of its bytes."""
        if isinstance(self.content, bytes):
            return hashlib.blake2b(self.content, digest_size=16).digest()
        assert self.content is not None  # a row without content has an error, and is not read
        return self.content

    def open(self) -> AbstractContextManager[Image.Image]:
        """Give the image, decoded, without a warning for clipped levels. Raises ImageError."""
        if isinstance(self.content, bytes):
            return decoded_image_bytes(self.content, self.image, warn=False)
        assert self.content is not None  # as in key()
        return decoded_image(self.content, warn=False)


def input_row(prompt: Any, cell: Any, folder: str = "", name: str = "") -> InputRow:
    """A row of two cells of any type, checked.

    Args:
        prompt: should be a string that is not blank.
        cell: the image: a path, bytes, or a dict with "bytes" and "path" (as `datasets` keeps images).
        folder: what a relative path is relative to.
        name: how to call an image that comes as bytes without a path.
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
    """Why this is no prompt; None if it is one."""
    if prompt is None or (isinstance(prompt, str) and not prompt.strip()):
        return "no prompt"
    if not isinstance(prompt, str):
        return f"the prompt must be a string: got {type(prompt).__name__} {prompt!r:.80}"
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return "the prompt is not valid UTF-8"
    return None


def error_kind(error: str) -> str:
    """What errors are counted by: the words before the first colon."""
    return error.split(": ", 1)[0]

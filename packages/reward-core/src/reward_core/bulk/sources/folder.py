"""Folders of images, each with its prompt in a text file: a.png, a.txt."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from ...errors import ImageError, InputError, OutputError
from ...files.foreign_bytes import read_regular
from ...files.limits import MAX_CAPTION_BYTES
from ...inputs.image_formats import is_image_name
from ...metadata import read_prompt
from ...metadata.text_encoding import decode_text
from ..input_row import InputRow, input_row
from .base import STRIDE, Lines, Source

LISTING = ".bulk-pictures.jsonl"
SORTED_AT_ONCE = 20_000


@dataclass(frozen=True)
class ImageFolder:
    """The images in a folder and its subfolders, sorted by path.

    A file is an image if Pillow knows its extension; hidden files are skipped. The prompt of an image is the
    text in the file of the same name with the extension .txt. Links to folders are not followed. A folder
    that cannot be read becomes a row with an error.

    Attributes:
        path: the folder.
        prompt_from_metadata: read prompts with ``reward_core.metadata.read_prompt``: from the image's
            metadata, or from the text file if the metadata has none.
    """

    path: Path
    prompt_from_metadata: bool = False

    def files(self) -> list[Path]:
        return []  # no format of scores has the extension of an image

    def open(self, folder: Path) -> FolderSource:
        if not Path(self.path).is_dir():
            raise InputError(f"Cannot read images from '{self.path}': no such folder. Set --folder to one.")
        listing = (folder / LISTING).absolute()
        return FolderSource(Path(self.path).absolute(), listing, self.prompt_from_metadata)


class FolderSource(Source):
    """The images of a folder. Their sorted names are stored in a file, so they take no memory."""

    def __init__(self, folder: Path, listing: Path, prompt_from_metadata: bool = False):
        self.folder, self.listing = folder, listing
        self.prompt_from_metadata = prompt_from_metadata
        self.rows = 0
        self.positions: list[int] = []
        digest = hashlib.sha256()
        try:
            self._list(digest)
        except OSError as error:  # from writing; _names handles errors of reading folders
            reason = error.strerror or str(error)
            raise OutputError(f"Cannot write the list of images '{listing}': {reason}.") from error
        if not self.rows:
            raise InputError(f"Cannot score '{folder}': it has no images.")
        self.digest = digest.hexdigest()

    def _list(self, digest: Any) -> None:
        position = 0
        with self.listing.open("w", encoding="ascii", newline="\n") as file:
            for name in _sorted_names(self.folder, self.listing.parent):
                if self.rows % STRIDE == 0:
                    self.positions.append(position)
                line = json.dumps(name) + "\n"
                digest.update(line.encode() + self._prompt_state(name))
                position += file.write(line)
                self.rows += 1

    def _prompt_state(self, name: str) -> bytes:
        """Return the state of a prompt file, to detect a changed prompt without reading it."""
        try:
            state = os.stat(os.path.join(self.folder, _sidecar(name)))
        except OSError:
            return b"-\n"
        return f"{state.st_size} {state.st_mtime_ns}\n".encode()

    def read(self, start: int) -> Iterator[InputRow]:
        return map(self._row, self._names(start))

    def image_paths(self, start: int) -> Iterator[str | None]:
        """Yield the image paths of the rows without reading prompts."""
        return map(self._image_path, self._names(start))

    def _names(self, start: int) -> Iterator[str]:
        if start >= self.rows:
            return
        with self.listing.open("rb") as file:
            file.seek(self.positions[start // STRIDE])
            for line in islice(Lines(file), start % STRIDE, None):
                yield json.loads(line)

    def fingerprint(self) -> dict[str, Any]:
        folder = os.path.realpath(self.folder)
        return {
            "kind": "folder",
            "folder": folder,
            "names_and_prompts": self.digest,
            "prompt_from_metadata": self.prompt_from_metadata,
            "rows": self.rows,
        }

    def _row(self, name: str) -> InputRow:
        if name.endswith(os.sep):
            return InputRow(None, name, None, f"cannot read the folder: {_folder_error(self.folder / name)}")
        path = os.path.join(self.folder, name)
        try:
            prompt = read_prompt(path).text if self.prompt_from_metadata else self._caption(name)
        except ImageError as error:
            return InputRow(None, name, path, f"no prompt: {error.reason}")
        except (OSError, ValueError) as error:
            return InputRow(None, name, path, f"cannot read the prompt: {error}")
        return input_row(prompt, name, str(self.folder))

    def _caption(self, name: str) -> str:
        """Read an image's text file. Raise ImageError if it is missing, InputError if it is unreadable."""
        sidecar = _sidecar(name)
        try:
            return decode_text(read_regular(os.path.join(self.folder, sidecar), MAX_CAPTION_BYTES)).strip()
        except FileNotFoundError as error:
            raise ImageError(name, f"{sidecar} does not exist") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{sidecar}: {error}") from error

    def _image_path(self, name: str) -> str | None:
        """Return the path of an image; None for a folder that cannot be read."""
        return None if name.endswith(os.sep) else os.path.join(self.folder, name)


def _sidecar(name: str) -> str:
    return os.path.splitext(name)[0] + ".txt"


def _folder_error(folder: Path) -> str:
    try:
        with os.scandir(folder):
            return "it was unreadable when the run began"
    except OSError as error:
        return error.strerror or str(error)


def _sorted_names(folder: Path, workspace: Path) -> Iterator[str]:
    """Yield the paths of the images relative to the folder, sorted in parts that are merged from files."""
    names = _names(folder)
    with ExitStack() as stack:
        parts: list[TextIO] = []
        while part := sorted(islice(names, SORTED_AT_ONCE)):
            path = workspace / f".{LISTING}.{len(parts)}.tmp"
            stack.callback(path.unlink, missing_ok=True)
            path.write_text("".join(json.dumps(name) + "\n" for name in part), encoding="ascii")
            parts.append(stack.enter_context(path.open(encoding="ascii")))
        yield from heapq.merge(*(map(json.loads, file) for file in parts))


def _names(folder: Path) -> Iterator[str]:
    """Yield the names in any order; the name of a folder that cannot be read ends with a separator."""
    folders = [""]
    while folders:
        inner = folders.pop()
        try:
            with os.scandir(os.path.join(folder, inner)) as entries:
                for entry in entries:
                    name = os.path.join(inner, entry.name)
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif is_image_name(entry.name):
                        yield name
        except OSError as error:
            if not inner:
                raise InputError(f"Cannot read the folder '{folder}': {error.strerror or error}.") from error
            yield inner + os.sep

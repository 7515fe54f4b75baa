"""What frozen vision blocks make of each image, kept on disk, memory-mapped.

A slot holds one image's tokens (N, E). Beside it stands a checksum, written after the tokens: a slot
that was not written to its end, or was damaged later, is seen and computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..inputs.image_file import ImageSource, image_name, image_state
from ..inputs.image_transform import ImageTransform

_RESERVE = 2**30  # bytes of the disk that are left alone
_FILLED = 1 << 32  # above the checksum's 32 bits


class TokenCache:
    """Tokens of some images, by number.

    Args:
        folder: of all caches; this one gets a folder of its own, named by ``key``.
        key: what the tokens depend on; see `cache_key`.
        images: how many there are.
        shape: (N, E) of one image's tokens.
        dtype: "float32" or "float16".
        limit: bytes; images that do not fit are not kept.
        create: whether this process makes the files (with several, one does, and the others wait).
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        images: int,
        shape: tuple[int, int],
        dtype: str = "float32",
        limit: float = 50e9,
        create: bool = True,
    ):
        self.folder, self.shape, self.dtype = folder / key, shape, np.dtype(dtype)
        self.damaged = self.found = self.stored = 0
        about = self.folder / "about.json"
        if create:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._fits(about, images):
                self._make(about, images, limit)
        self.slots = int(json.loads(about.read_text(encoding="utf-8"))["slots"])
        self.tokens: np.memmap | None = None
        self.index: np.memmap | None = None
        if self.slots:
            tokens, index = self.folder / "tokens.bin", self.folder / "index.bin"
            self.tokens = np.memmap(tokens, self.dtype, "r+", shape=(self.slots, *shape))
            self.index = np.memmap(index, np.uint64, "r+", shape=(self.slots,))

    def get(self, slots: Sequence[int]) -> Tensor | None:
        """Tokens (K, N, E) float32 of some images, or None unless all are here and whole."""
        if self.tokens is None or self.index is None or not slots or max(slots) >= self.slots:
            return None
        read = []
        for slot in slots:
            checksum = int(self.index[slot])
            if not checksum:
                return None
            tokens = np.array(self.tokens[slot])
            if checksum != _checksum(tokens):
                self.damaged += 1
                self.index[slot] = 0
                return None
            read.append(tokens)
        self.found += len(slots)
        return torch.from_numpy(np.stack(read)).float()

    def put(self, slots: Sequence[int], tokens: Tensor) -> None:
        """Keep tokens (K, N, E); images beyond the limit are passed over."""
        if self.tokens is None or self.index is None:
            return
        for slot, own in zip(slots, tokens.detach().cpu().numpy().astype(self.dtype)):
            if slot < self.slots and np.isfinite(own).all():
                self.tokens[slot] = own
                self.index[slot] = _checksum(own)
                self.stored += 1

    def _fits(self, about: Path, images: int) -> bool:
        """Whether whole files of an earlier run are here."""
        try:
            held = json.loads(about.read_text(encoding="utf-8"))
            slots, size = held["slots"], int(np.prod(self.shape)) * self.dtype.itemsize
            return held["pictures"] == images and (
                slots == 0
                or (
                    (self.folder / "tokens.bin").stat().st_size == slots * size
                    and (self.folder / "index.bin").stat().st_size == slots * 8
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _make(self, about: Path, images: int, limit: float) -> None:
        about.unlink(missing_ok=True)
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        # A mapped file that outgrows its disk ends the process without a word: ask first.
        room = min(limit, shutil.disk_usage(self.folder).free - _RESERVE)
        slots = max(min(images, int(room // size)), 0)
        for name, each in (("tokens.bin", size), ("index.bin", 8)):
            with (self.folder / name).open("wb") as file:
                file.truncate(slots * each)  # takes no room until it is written
        temporary = about.with_suffix(".tmp")
        temporary.write_text(json.dumps({"slots": slots, "pictures": images}), encoding="utf-8")
        os.replace(temporary, about)


def cache_key(
    weights: Sequence[Tensor],
    transform: ImageTransform,
    block: int,
    dtype: str,
    images: Sequence[ImageSource],
) -> str:
    """A name for what the tokens depend on: frozen weights, preprocessing, and the images themselves."""
    digest = hashlib.blake2b(digest_size=12)
    constants = (transform.size, transform.mean.flatten().tolist(), transform.std.flatten().tolist())
    digest.update(repr((block, dtype, constants)).encode())
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for image in images:
        digest.update(_identity(image))
    return digest.hexdigest()


def _identity(image: ImageSource) -> bytes:
    """A file by path, size and time of the last change; an image in memory by its pixels."""
    path = "" if isinstance(image, Image.Image) else os.path.abspath(image_name(image))
    return "\0".join(map(str, (path, *image_state(image)))).encode(errors="surrogateescape")


def _checksum(tokens: np.ndarray) -> int:
    return _FILLED | zlib.crc32(tokens.tobytes())

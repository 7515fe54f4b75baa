"""A cache on disk, memory-mapped, of the frozen vision blocks' output for each image.

A slot holds the tokens (N, E) of one image. Its checksum is written after the tokens, so a slot that is
incomplete or damaged is detected and computed again.
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

_RESERVE = 2**30  # bytes of disk space to leave free
_FILLED = 1 << 32  # flag above the checksum's 32 bits: distinguishes a checksum of 0 from an empty slot


class TokenCache:
    """A cache of image tokens by slot number.

    Args:
        folder: parent folder of all caches; this cache uses the subfolder ``key``.
        key: hash of everything that the tokens depend on; see ``cache_key``.
        images: number of images.
        shape: (N, E) of one image's tokens.
        dtype: "float32" or "float16".
        limit: maximum size in bytes; images that do not fit are not cached.
        create: whether this process creates the files (one process of a run does, the others wait).

    Attributes:
        found: slots read.
        stored: slots written.
        damaged: slots whose checksum did not match.
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
            if not self._is_complete(about, images):
                self._create_files(about, images, limit)
        self.slots = int(json.loads(about.read_text(encoding="utf-8"))["slots"])
        self.tokens: np.memmap | None = None
        self.index: np.memmap | None = None
        if self.slots:
            tokens, index = self.folder / "tokens.bin", self.folder / "index.bin"
            self.tokens = np.memmap(tokens, self.dtype, "r+", shape=(self.slots, *shape))
            self.index = np.memmap(index, np.uint64, "r+", shape=(self.slots,))

    def get(self, slots: Sequence[int]) -> Tensor | None:
        """Return the tokens (K, N, E) of some slots as float32, or None unless all are cached and intact."""
        if self.tokens is None or self.index is None or not slots or max(slots) >= self.slots:
            return None
        images = []
        for slot in slots:
            checksum = int(self.index[slot])
            if not checksum:
                return None
            tokens = np.array(self.tokens[slot])
            if checksum != _checksum(tokens):
                self.damaged += 1
                self.index[slot] = 0
                return None
            images.append(tokens)
        self.found += len(slots)
        return torch.from_numpy(np.stack(images)).float()

    def put(self, slots: Sequence[int], tokens: Tensor) -> None:
        """Store tokens (K, N, E) in slots; skip slots beyond the limit and tokens that are not finite."""
        if self.tokens is None or self.index is None:
            return
        for slot, image_tokens in zip(slots, tokens.detach().cpu().numpy().astype(self.dtype)):
            if slot < self.slots and np.isfinite(image_tokens).all():
                self.tokens[slot] = image_tokens
                self.index[slot] = _checksum(image_tokens)
                self.stored += 1

    def _is_complete(self, about: Path, images: int) -> bool:
        """Return whether the folder has the complete files of an earlier run."""
        try:
            document = json.loads(about.read_text(encoding="utf-8"))
            slots, size = document["slots"], int(np.prod(self.shape)) * self.dtype.itemsize
            return document["pictures"] == images and (
                slots == 0
                or (
                    (self.folder / "tokens.bin").stat().st_size == slots * size
                    and (self.folder / "index.bin").stat().st_size == slots * 8
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _create_files(self, about: Path, images: int, limit: float) -> None:
        about.unlink(missing_ok=True)
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        # Writing to a mapped file on a full disk kills the process (SIGBUS), so check the free space first.
        available = min(limit, shutil.disk_usage(self.folder).free - _RESERVE)
        slots = max(min(images, int(available // size)), 0)
        for name, slot_size in (("tokens.bin", size), ("index.bin", 8)):
            with (self.folder / name).open("wb") as file:
                file.truncate(slots * slot_size)  # sparse: takes no disk space until it is written
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
    """Return a hash of what the tokens depend on: frozen weights, preprocessing and the images.

    Args:
        weights: the frozen parameters.
        transform: the preprocessing.
        block: index of the first trained block.
        dtype: dtype of the cache and precision of the computation.
        images: the images, in the order of their slots.
    """
    digest = hashlib.blake2b(digest_size=12)
    constants = (transform.size, transform.mean.flatten().tolist(), transform.std.flatten().tolist())
    digest.update(repr((block, dtype, constants)).encode())
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for image in images:
        digest.update(_identity(image))
    return digest.hexdigest()


def _identity(image: ImageSource) -> bytes:
    """Identify a file by path, size and modification time, and an image in memory by its pixels."""
    path = "" if isinstance(image, Image.Image) else os.path.abspath(image_name(image))
    return "\0".join(map(str, (path, *image_state(image)))).encode(errors="surrogateescape")


def _checksum(tokens: np.ndarray) -> int:
    return _FILLED | zlib.crc32(tokens.tobytes())

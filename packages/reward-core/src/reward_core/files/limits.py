"""Limits on how much of an untrusted file is read.

Each limit can be changed with an environment variable of the same name, for example
``REWARD_CORE_MAX_IMAGE_PIXELS=400000000``. Worker processes inherit it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import InputError

PREFIX = "REWARD_CORE_"
MB = 2**20


@dataclass(frozen=True)
class Limit:
    """A limit that a user can change.

    Attributes:
        name: name of the environment variable, after ``REWARD_CORE_``.
        default: limit without the variable.
    """

    name: str
    default: int

    @property
    def value(self) -> int:
        """Current value of the limit.

        Raises:
            InputError: the environment variable is not a whole number of at least 1.
        """
        text = os.environ.get(PREFIX + self.name)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= 1):
            raise InputError(
                f"Cannot use {PREFIX}{self.name}={text!r:.40}: it is not a whole number of at least 1. "
                "Set it to such a number, or unset the variable."
            )
        return int(text)

    @property
    def is_given(self) -> bool:
        """Whether the user set the limit."""
        return PREFIX + self.name in os.environ

    @property
    def advice(self) -> str:
        """Hint for messages on how to change the limit."""
        return f"{PREFIX}{self.name} sets another limit"


# Pixels of an image: twice Pillow's MAX_IMAGE_PIXELS, where Pillow refuses to decode. Cameras take fewer than
# 179 megapixels in one shot; a PNG of some kilobytes can claim far more.
MAX_IMAGE_PIXELS = Limit("MAX_IMAGE_PIXELS", 2 * 89_478_485)
# Pixels of all images that a process decodes at once: 768 MB at 4 bytes each. Eight threads that decode
# photos of 24 megapixels need less. A larger image is decoded while no other is.
MAX_PIXELS_IN_FLIGHT = Limit("MAX_PIXELS_IN_FLIGHT", 192 * MB)
# Bytes of an image file. A PNG with the largest number of pixels has about as many. A sparse file can claim
# terabytes without using space on the disk.
MAX_IMAGE_FILE_BYTES = Limit("MAX_IMAGE_FILE_BYTES", 512 * MB)
# Bytes of the caption file of an image. The models read the first few hundred.
MAX_CAPTION_BYTES = Limit("MAX_CAPTION_BYTES", 16 * MB)
# Bytes of all texts in the metadata of an image, unpacked. ComfyUI graphs that contain images have some MB.
MAX_METADATA_TEXT = Limit("MAX_METADATA_TEXT", 64 * MB)
# Characters of a prompt in a bulk run, and of a text that is searched for a prompt and its notation. Shared
# prompts have at most about ten thousand.
MAX_PROMPT_TEXT = Limit("MAX_PROMPT_TEXT", 2**18)
# Characters that a ComfyUI graph passes from node to node. A graph of 40 nodes can double a text 40 times.
MAX_GRAPH_TEXT = Limit("MAX_GRAPH_TEXT", 2**24)
# Nodes visited when a ComfyUI graph is followed from its save nodes. Large graphs have a few thousand nodes,
# about ten of which save.
MAX_GRAPH_STEPS = Limit("MAX_GRAPH_STEPS", 300_000)
# Entries of all EXIF directories of an image. Cameras write about 100; directories can point at each other.
MAX_EXIF_ENTRIES = Limit("MAX_EXIF_ENTRIES", 4096)
# Chunks or segments of an image file. A PNG of 512 MB in libpng's chunks of 8 kB has 65,536.
MAX_IMAGE_CHUNKS = Limit("MAX_IMAGE_CHUNKS", 2**19)
# Names in the metadata of an image that may be names of scores. `reward-core tag` writes one for each model.
MAX_SCORE_KEYS = Limit("MAX_SCORE_KEYS", 256)
# Characters that are searched for the first tokens of a prompt: most of a prompt may give no token. BERT's
# tokenizer takes a second for a word of a million characters.
MAX_PROMPT_CHARACTERS = Limit("MAX_PROMPT_CHARACTERS", 2**20)
# Bytes of a file uploaded to `reward-core app`: eight times the default of --max-mb, so that the page can
# report the name of a file that is slightly too large.
MAX_UPLOAD_FILE_BYTES = Limit("MAX_UPLOAD_FILE_BYTES", 256 * MB)
# Bytes of a request with uploads: a browser sends all dropped files in one request.
MAX_UPLOAD_REQUEST_BYTES = Limit("MAX_UPLOAD_REQUEST_BYTES", 1024 * MB)
# Bytes of all stored uploads. Temporary folders are often in memory or on a small disk.
MAX_UPLOAD_FOLDER_BYTES = Limit("MAX_UPLOAD_FOLDER_BYTES", 4096 * MB)
# Bytes of any other request to `reward-core app`: prompts and file names, held in memory.
MAX_REQUEST_BYTES = Limit("MAX_REQUEST_BYTES", 16 * MB)

"""How much of a foreign file is read: every bound by name, with its reason.

Each bound can be changed with an environment variable of its name, for example
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
    """A bound that a user can change.

    Attributes:
        name: of the environment variable, behind ``REWARD_CORE_``.
        default: the bound without that variable.
    """

    name: str
    default: int

    @property
    def value(self) -> int:
        """The bound.

        Raises:
            InputError: the environment variable is not a whole number of at least 1.
        """
        text = os.environ.get(PREFIX + self.name)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) >= 1):
            raise InputError(
                f"Cannot use {PREFIX}{self.name}={text!r:.40}: it is not a whole number of at least 1. "
                "Give one, or unset the variable."
            )
        return int(text)

    @property
    def is_given(self) -> bool:
        """Whether the user set the bound."""
        return PREFIX + self.name in os.environ

    @property
    def advice(self) -> str:
        """How a message says that the bound can be changed."""
        return f"{PREFIX}{self.name} sets another limit"


# Pixels of one image: twice Pillow's MAX_IMAGE_PIXELS, from where on Pillow refuses to decode. 179 megapixels
# is more than cameras take in one shot; a PNG of some kilobytes can claim far more.
MAX_IMAGE_PIXELS = Limit("MAX_IMAGE_PIXELS", 2 * 89_478_485)
# Pixels of all images that one process decodes at once, of 4 bytes each: 768 MB. Eight threads that decode
# photos of 24 megapixels stay below it. A larger image is decoded alone.
MAX_PIXELS_IN_FLIGHT = Limit("MAX_PIXELS_IN_FLIGHT", 192 * MB)
# Bytes of one image's file. An image of the most pixels has about as many as a PNG. A sparse file can claim
# terabytes and takes no space on the disk.
MAX_IMAGE_FILE_BYTES = Limit("MAX_IMAGE_FILE_BYTES", 512 * MB)
# Bytes of a caption beside an image. The models read its first few hundred.
MAX_CAPTION_BYTES = Limit("MAX_CAPTION_BYTES", 16 * MB)
# Bytes of all texts in one image's metadata, unpacked. ComfyUI's graphs with images in them take some MB.
MAX_METADATA_TEXT = Limit("MAX_METADATA_TEXT", 64 * MB)
# Characters of a text that is searched for a prompt and its notation. Prompts that people share have some ten
# thousand at most.
MAX_PROMPT_TEXT = Limit("MAX_PROMPT_TEXT", 2**18)
# Characters that a ComfyUI graph passes from node to node. A graph of 40 nodes can double a text 40 times.
MAX_GRAPH_TEXT = Limit("MAX_GRAPH_TEXT", 2**24)
# Nodes visited when a ComfyUI graph is followed from its save nodes. Large graphs have some thousand nodes,
# and some ten of them save.
MAX_GRAPH_STEPS = Limit("MAX_GRAPH_STEPS", 300_000)
# Entries of all EXIF directories of an image. Cameras write about 100; directories can point at each other.
MAX_EXIF_ENTRIES = Limit("MAX_EXIF_ENTRIES", 4096)
# Chunks or segments of an image's file. A PNG of 512 MB in libpng's chunks of 8 kB has 65,536.
MAX_IMAGE_CHUNKS = Limit("MAX_IMAGE_CHUNKS", 2**19)
# Names in an image's metadata that may be names of scores. `reward-core tag` writes one for each model.
MAX_SCORE_KEYS = Limit("MAX_SCORE_KEYS", 256)
# Characters in which a tokenizer looks for a prompt's first tokens: most of a prompt may give no token.
MAX_PROMPT_CHARACTERS = Limit("MAX_PROMPT_CHARACTERS", 2**20)
# Bytes of one file that is uploaded to `reward-core app`: eight times the default of --max-mb, so that the
# page can report by name a file that is somewhat too large.
MAX_UPLOAD_FILE_BYTES = Limit("MAX_UPLOAD_FILE_BYTES", 256 * MB)
# Bytes of one request with uploads: a browser sends all files that are dropped at once in one.
MAX_UPLOAD_REQUEST_BYTES = Limit("MAX_UPLOAD_REQUEST_BYTES", 1024 * MB)
# Bytes of all uploads that are kept at a time. Temporary folders are often in memory or on a small disk.
MAX_UPLOAD_FOLDER_BYTES = Limit("MAX_UPLOAD_FOLDER_BYTES", 4096 * MB)
# Bytes of any other request to `reward-core app`, which is held in memory: prompts and names of files.
MAX_REQUEST_BYTES = Limit("MAX_REQUEST_BYTES", 16 * MB)

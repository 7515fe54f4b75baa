"""The oracle: the truth about any image and any prompt of this world, read off the pixels.

For an image that `make_image` made it agrees with the truth known from its making; for any other, a
blurred, a generated or a reconstructed one, it is the same rule applied to what is there to be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from .grammar import Scene, parse
from .reading import read_image
from .truth import Truth


def oracle(image: np.ndarray | Image.Image, prompt: str | Scene) -> Truth:
    """The truth of one image for a prompt of this world (or its scene).

    image: (H, W, 3) uint8 or PIL, looked at as 64 x 64 pixels.
    Raises ValueError for anything else, and for a prompt that is not of this world.
    """
    return oracle_batch([image], [prompt])[0]


def oracle_batch(images: Iterable[np.ndarray | Image.Image], prompts: Sequence[str | Scene]) -> list[Truth]:
    """The truths of N images, each for its own prompt. Errors as `oracle`, and for unequal lengths."""
    scenes = [prompt if isinstance(prompt, Scene) else parse(prompt) for prompt in prompts]
    truths = []
    for image, scene in zip(images, scenes, strict=True):
        reading = read_image(image)
        truths.append(Truth.of(reading.alignment(scene), reading.cleanliness))
    return truths

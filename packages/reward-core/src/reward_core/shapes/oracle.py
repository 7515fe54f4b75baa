"""The oracle: estimates the truth of any image for any prompt of this world from the pixels.

For images of `make_image` it agrees with their known truth; for others, such as generated or blurred images,
it applies the same rules to what they show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from .grammar import Scene, parse
from .reading import read_image
from .truth import Truth


def oracle(image: np.ndarray | Image.Image, prompt: str | Scene) -> Truth:
    """Return the truth of an image for a prompt of this world.

    Args:
        image: (H, W, 3) uint8 or PIL; it is resized to 64 x 64 pixels.
        prompt: the prompt or its scene.

    Raises:
        ValueError: the image is invalid, or the prompt is not of this world.
    """
    return oracle_batch([image], [prompt])[0]


def oracle_batch(images: Iterable[np.ndarray | Image.Image], prompts: Sequence[str | Scene]) -> list[Truth]:
    """Return the truths of N images for N prompts; raise like `oracle`, and if the lengths differ."""
    scenes = [prompt if isinstance(prompt, Scene) else parse(prompt) for prompt in prompts]
    truths = []
    for image, scene in zip(images, scenes, strict=True):
        reading = read_image(image)
        truths.append(Truth.of(reading.alignment(scene), reading.cleanliness))
    return truths

"""Reading images of this world without any learned part: what they show and how clean they are."""

from .read_image import Reading, read_image
from .thing import FoundThing

__all__ = ["FoundThing", "Reading", "read_image"]

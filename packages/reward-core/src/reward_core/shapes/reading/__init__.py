"""Read what an image of this world shows and how clean it is, without a learned model."""

from .read_image import Reading, read_image
from .thing import FoundThing

__all__ = ["FoundThing", "Reading", "read_image"]

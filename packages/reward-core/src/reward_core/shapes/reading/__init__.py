"""Reading pictures of this world without any learned part: what they show and how clean they are."""

from .picture import Reading, read_picture
from .thing import FoundThing

__all__ = ["FoundThing", "Reading", "read_picture"]

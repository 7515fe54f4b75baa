"""Reading pictures of this world without any learned part: what they show and how clean they are."""

from .picture import FoundThing, Reading, read_picture

__all__ = ["FoundThing", "Reading", "read_picture"]

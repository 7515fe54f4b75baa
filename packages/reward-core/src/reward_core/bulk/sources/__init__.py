"""The sources of rows. A source can be read from any row and is never loaded into memory completely."""

from .base import Source, SourceSpec
from .folder import ImageFolder
from .hub_dataset import HubDataset
from .manifest import Manifest
from .tars import Tars

__all__ = ["HubDataset", "ImageFolder", "Manifest", "Source", "SourceSpec", "Tars"]

"""Where rows come from. Each source reads from any row on, and is never held in memory as a whole."""

from .base import Source, SourceSpec
from .folder import ImageFolder
from .hub_dataset import HubDataset
from .manifest import Manifest
from .tars import Tars

__all__ = ["HubDataset", "ImageFolder", "Manifest", "Source", "SourceSpec", "Tars"]

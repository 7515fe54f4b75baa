"""Score millions of images: streamed, resumable, on one or more devices.

score_to_file(Manifest("pairs.parquet"), "scores.parquet", BulkSettings(model="tiny"))
"""

from .run import score_to_file
from .settings import BulkSettings
from .sources import HubDataset, ImageFolder, Manifest, Tars
from .summary import BulkSummary

__all__ = [
    "BulkSettings",
    "BulkSummary",
    "HubDataset",
    "ImageFolder",
    "Manifest",
    "Tars",
    "score_to_file",
]

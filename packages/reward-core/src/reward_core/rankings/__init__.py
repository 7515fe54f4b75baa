"""Rankings of images by people or by an oracle, read from many formats into ``RankedPrompt``.

``read_rankings`` reads a file, folder or dataset (forms.py lists the supported columns, read.py the supported
files). ``read_splits`` reads training, validation and test data. ``check_images`` removes images that cannot
be decoded. docs/data.md has examples of all formats.
"""

from .check import ImageReport, check_images
from .json_records import RANKINGS_FILE, write_rankings
from .ranked_prompt import RankedPrompt, untied_pairs
from .read import read_rankings
from .splits import SPLITS, read_splits

__all__ = [
    "RANKINGS_FILE",
    "SPLITS",
    "ImageReport",
    "RankedPrompt",
    "check_images",
    "read_rankings",
    "read_splits",
    "untied_pairs",
    "write_rankings",
]

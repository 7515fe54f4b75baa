"""Rankings of images by people or by an oracle: one internal form, read from many.

RankedPrompt is the form. ``read_rankings`` reads any accepted source into it (forms.py says which rows are
understood, read.py which files), ``read_splits`` a folder of training, validation and test data, and
``check_images`` leaves out what cannot be decoded. docs/data.md shows all of it with examples.
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

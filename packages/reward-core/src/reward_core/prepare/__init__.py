"""Published rankings as a folder to train from: three JSON files and checked images."""

from .folder import Prepared, SplitFigures
from .imagerewarddb import SUBSETS, prepare_imagerewarddb
from .rankings import prepare_rankings

__all__ = ["SUBSETS", "Prepared", "SplitFigures", "prepare_imagerewarddb", "prepare_rankings"]

"""Convert published rankings to a training folder: three JSON files and checked images."""

from .folder import Prepared, SplitFigures
from .imagerewarddb import SUBSETS, prepare_imagerewarddb
from .rankings import prepare_rankings

__all__ = ["SUBSETS", "Prepared", "SplitFigures", "prepare_imagerewarddb", "prepare_rankings"]

"""Reproduces Tables 1 and 3 of the ImageReward paper, and compares any scorers on them."""

__version__ = "1.0.0"

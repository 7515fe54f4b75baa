"""Reproduces Tables 1 and 3 of the ImageReward paper with any scorers."""

__version__ = "1.0.0"

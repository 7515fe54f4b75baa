"""Reproduces ImageReward's Tables 1 and 3, and sets any scorer beside the others."""

__version__ = "1.0.0"

"""The rankings' former place; see rankings/."""

from .rankings import RANKINGS_FILE, RankedPrompt, read_rankings, read_splits

__all__ = ["RANKINGS_FILE", "RankedPrompt", "read_rankings", "read_splits"]

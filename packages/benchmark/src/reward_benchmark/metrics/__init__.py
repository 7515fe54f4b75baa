"""Metrics as pure functions of ranks and scores."""

from reward_core.rankings.correlation import average_ranks, kendall, spearman

from .bootstrap import Interval, Resamples, sign_flip_test
from .generators import GeneratorTable, generator_table
from .preference import PairedComparison, PreferenceTable, compare_scorers, preference_table
from .retrieval import MIN_IMAGES, filtered_at, recalled_at

__all__ = [
    "MIN_IMAGES",
    "GeneratorTable",
    "Interval",
    "PairedComparison",
    "PreferenceTable",
    "Resamples",
    "average_ranks",
    "compare_scorers",
    "filtered_at",
    "generator_table",
    "kendall",
    "preference_table",
    "recalled_at",
    "sign_flip_test",
    "spearman",
]

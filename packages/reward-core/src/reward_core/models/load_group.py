"""Load several scorers that score the same images."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence

import torch

from ..scoring.scorer_group import ScorerGroup
from ..scoring.scoring_model import ScoringModel
from .scorer_names import scorer_names


def load_group(
    sources: Sequence[str | os.PathLike[str]],
    load: Callable[[str | os.PathLike[str]], ScoringModel],
) -> ScorerGroup:
    """Load several scorers; scorers with the same image encoder share its weights.

    Args:
        sources: name, folder, file or hub repository of each.
        load: function that loads one.

    Raises:
        InputError: see `scorer_names`.
        Other errors: see `reward_core.load`.
    """
    names = scorer_names(sources)
    scorers: dict[str, ScoringModel] = {}
    encoders: dict[Hashable, ScoringModel] = {}
    for name, source in zip(names, sources):
        scorer = load(source)
        if isinstance(scorer, ScoringModel):  # not a VLM judge
            share_encoder(scorer, encoders.setdefault(scorer.encoder_key(), scorer))
        scorers[name] = scorer
    return ScorerGroup(scorers)


def share_encoder(scorer: ScoringModel, other: ScoringModel) -> None:
    """Let a scorer use the memory of another one for each parameter of the encoder that is equal."""
    if scorer is other:
        return
    for mine, theirs in zip(scorer.feature_parameters(), other.feature_parameters()):
        if torch.equal(mine, theirs):
            mine.data = theirs.data

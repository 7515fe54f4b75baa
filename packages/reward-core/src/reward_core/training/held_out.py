"""Prompts held out of the training data, to choose the best weights by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..rankings import RankedPrompt

Splits = dict[str, list[RankedPrompt]]


def with_validation(splits: Mapping[str, Sequence[RankedPrompt]], share: float, seed: int) -> Splits:
    """The splits, with a share of the training prompts held out where there is no validation.

    All groups of a prompt go to the same side.
    """
    held = {name: list(groups) for name, groups in splits.items()}
    if held.get("validation") or not share:
        return held
    prompts = sorted({group.prompt for group in held["train"]})
    count = max(round(share * len(prompts)), 1)
    if count >= len(prompts):
        raise InputError(f"{len(prompts)} prompts are too few to hold some out; give a validation.json")
    chosen = set(np.random.default_rng(seed).permutation(len(prompts))[:count].tolist())
    out = {prompt for i, prompt in enumerate(prompts) if i in chosen}
    held["validation"] = [group for group in held["train"] if group.prompt in out]
    held["train"] = [group for group in held["train"] if group.prompt not in out]
    return held

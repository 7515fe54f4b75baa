"""Hold out training prompts as a validation split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..rankings import RankedPrompt

Splits = dict[str, list[RankedPrompt]]


def with_validation(splits: Mapping[str, Sequence[RankedPrompt]], share: float, seed: int) -> Splits:
    """Return the splits; if there is no validation split, hold out training prompts as one.

    Args:
        splits: groups by split, with "train".
        share: fraction of the prompts to hold out, with all their groups; 0: none.
        seed: seed of the choice.

    Raises:
        InputError: there are too few prompts.
    """
    result = {name: list(groups) for name, groups in splits.items()}
    if result.get("validation") or not share:
        return result
    prompts = sorted({group.prompt for group in result["train"]})
    count = max(round(share * len(prompts)), 1)
    if count >= len(prompts):
        raise InputError(
            f"Cannot hold out a validation set: the training data has only {len(prompts)} prompts. Add a "
            "validation.json, or set validation_share=0."
        )
    chosen = set(np.random.default_rng(seed).permutation(len(prompts))[:count].tolist())
    held_out = {prompt for i, prompt in enumerate(prompts) if i in chosen}
    result["validation"] = [group for group in result["train"] if group.prompt in held_out]
    result["train"] = [group for group in result["train"] if group.prompt not in held_out]
    return result

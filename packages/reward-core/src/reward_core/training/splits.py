"""Which groups train, which choose the best weights, which test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..ranking_file import RankedPrompt, read_rankings

Splits = dict[str, list[RankedPrompt]]


def read_data(data: Path, images: Path | None = None) -> Splits:
    """FOLDER/train.json, validation.json and test.json, as far as they are there; or one file to train on.

    Raises:
        InputError: nothing to train on, or a file of another form.
    """
    if data.is_file():
        return {"train": read_rankings(data, images)}
    if not (data / "train.json").is_file():
        raise InputError(f"{data}: no train.json there (see docs/data.md for the form)")
    names = ("train", "validation", "test")
    return {n: read_rankings(data / f"{n}.json", images) for n in names if (data / f"{n}.json").is_file()}


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

"""What the scores of a scorer mean, in one line for captions of tables."""

from __future__ import annotations

import os

from .model_identity import identify
from .registry import all_specs, find_spec


def score_meaning(source: str | os.PathLike[str]) -> str | None:
    """Return direction, range and comparability of a scorer's scores; None if nothing is known about it.

    Args:
        source: argument of ``load``. Only scorers with a name have facts.
    """
    known = find_spec(source)
    if known is None:
        return None
    name, facts = known[0], known[1].facts
    direction = "higher" if facts.higher_is_better else "lower"
    across = {
        True: "comparable across prompts",
        False: "not comparable across prompts",
        None: "compare within a prompt",
    }[facts.comparable_across_prompts]
    return f"{name}: {facts.score_range}, {direction} is better, {across}"


def is_comparable(model: str | None) -> bool:
    """Return whether scores of different prompts are known to be comparable.

    Args:
        model: model of stored scores, as in `ModelIdentity.identity`.
    """
    return any(
        spec.facts.comparable_across_prompts is True and model in (name, identify(name).identity)
        for name, spec in all_specs().items()
    )

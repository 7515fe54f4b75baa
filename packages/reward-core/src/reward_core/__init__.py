"""Score how much people would prefer a generated image for a prompt.

import reward_core as RM

model = RM.load("ImageReward-v1.0")
ranking, rewards = model.inference_rank("a red house by the sea", ["a.png", "b.png"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import RewardCoreError

if TYPE_CHECKING:
    from .models.imagereward.reward_model import RewardModel
    from .models.load import available_models, available_scores, load, load_score
    from .scoring.features import ImageFeatures, PromptFeatures
    from .scoring.scorer import Scorer
    from .scoring.scorer_group import ScorerGroup

__version__ = "1.0.0"
__all__ = [
    "ImageFeatures",
    "PromptFeatures",
    "RewardCoreError",
    "RewardModel",
    "Scorer",
    "ScorerGroup",
    "available_models",
    "available_scores",
    "load",
    "load_score",
]

# Modules of the names that need torch; importing the package alone stays fast.
_MODULES = {
    "ImageFeatures": ".scoring.features",
    "PromptFeatures": ".scoring.features",
    "RewardModel": ".models.imagereward.reward_model",
    "Scorer": ".scoring.scorer",
    "ScorerGroup": ".scoring.scorer_group",
    "available_models": ".models.load",
    "available_scores": ".models.load",
    "load": ".models.load",
    "load_score": ".models.load",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

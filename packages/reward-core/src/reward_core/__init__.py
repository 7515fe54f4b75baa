"""Score how much people would prefer a generated image for a prompt.

import reward_core as RM

model = RM.load("ImageReward-v1.0")
ranking, rewards = model.inference_rank("a red house by the sea", ["a.png", "b.png"])
"""

from .errors import RewardCoreError
from .models.imagereward.reward_model import RewardModel
from .models.load import available_models, available_scores, load, load_score
from .scoring.features import ImageFeatures, PromptFeatures
from .scoring.scorer import Scorer

__version__ = "1.0.0"
__all__ = [
    "ImageFeatures",
    "PromptFeatures",
    "RewardCoreError",
    "RewardModel",
    "Scorer",
    "available_models",
    "available_scores",
    "load",
    "load_score",
]

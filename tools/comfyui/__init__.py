"""ComfyUI nodes that score images, pick the best and save their scores."""

try:
    import reward_core  # noqa: F401  (to report a missing package in one line)
except ImportError as error:
    raise ImportError(
        "Cannot load the reward nodes: reward-core is not installed in ComfyUI's Python. In a checkout of "
        "the repository run `python -m pip install ./packages/reward-core` with that Python (see the "
        "README of the nodes)."
    ) from error

from .load_and_score import LoadRewardModel, ScoreImages
from .pick_and_save import PickBest, SaveWithScore

NODE_CLASS_MAPPINGS = {
    "RewardCoreLoadModel": LoadRewardModel,
    "RewardCoreScoreImages": ScoreImages,
    "RewardCorePickBest": PickBest,
    "RewardCoreSaveWithScore": SaveWithScore,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "RewardCoreLoadModel": "Load Reward Model",
    "RewardCoreScoreImages": "Score Images",
    "RewardCorePickBest": "Pick Best / Filter",
    "RewardCoreSaveWithScore": "Save with Score",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

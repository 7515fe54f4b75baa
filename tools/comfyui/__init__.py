"""ComfyUI nodes that score images with a reward model, pick the best and save them with their score."""

try:
    import reward_core  # noqa: F401  (here, so that its absence is said in one line)
except ImportError as error:
    raise ImportError(
        "the nodes need reward-core in ComfyUI's own Python; in a checkout of it run "
        "`python -m pip install ./packages/reward-core` with that Python (see the README beside this file)"
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

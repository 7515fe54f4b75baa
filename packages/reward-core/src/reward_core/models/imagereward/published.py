"""Published reward models, and those that come with the package."""

from __future__ import annotations

from ...hub.file_specs import HubFile
from ...network.config import RewardConfig
from ..model_spec import ModelSpec

REWARD_MODELS: dict[str, ModelSpec] = {
    "ImageReward-v1.0": ModelSpec(
        HubFile(
            "zai-org/ImageReward", "ImageReward.pt", fallback_repo_id="THUDM/ImageReward", size="1.79 GB"
        ),
        RewardConfig.imagereward_v1(),
        "the paper's reward model: BLIP ViT-L/16 + BERT-base, 446.7 M parameters, 1.79 GB",
    ),
}

# The tiny models lie in the package itself, in demo/.
BUNDLED_MODELS: dict[str, str] = {
    "tiny": "ShapesBench images of 64 px; comes with the package, made in minutes on a CPU",
    "tiny-judge": "the same task from other sizes, seed and data: judges what was tuned against tiny",
}

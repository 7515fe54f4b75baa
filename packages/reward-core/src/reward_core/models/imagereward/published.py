"""Published reward models and bundled ones."""

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

# The tiny models are part of the package, in demo/.
BUNDLED_MODELS: dict[str, str] = {
    "tiny": "bundled model for 64 px ShapesBench images, trained in minutes on a CPU",
    "tiny-judge": "same task, other sizes, seed and data: a held-out reward for models tuned on tiny",
}

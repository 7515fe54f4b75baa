"""Names that can be loaded, and where their files are."""

from __future__ import annotations

from dataclasses import dataclass

from .config import BlipConfig, RewardConfig


@dataclass(frozen=True)
class HubFile:
    """A file in a model repository of the hub; ``fallback_repo_id`` is the repository's former name."""

    repo_id: str
    filename: str
    revision: str | None = None
    fallback_repo_id: str | None = None


@dataclass(frozen=True)
class WebFile:
    """A file at a plain address."""

    url: str
    filename: str


@dataclass(frozen=True)
class ModelSpec:
    """A published model: weights, the configuration they need, and one line for listings."""

    weights: HubFile | WebFile
    config: BlipConfig
    description: str


REWARD_MODELS: dict[str, ModelSpec] = {
    "ImageReward-v1.0": ModelSpec(
        HubFile("zai-org/ImageReward", "ImageReward.pt", fallback_repo_id="THUDM/ImageReward"),
        RewardConfig.imagereward_v1(),
        "the paper's reward model: BLIP ViT-L/16 + BERT-base, 446.7 M parameters, 1.79 GB",
    ),
}

SCORES: dict[str, ModelSpec] = {
    "BLIP": ModelSpec(
        WebFile(
            "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large.pth",
            "model_large.pth",
        ),
        BlipConfig(),
        "cosine of BLIP large's picture and text embeddings",
    ),
}

# The tiny models lie in the package itself, in demo/.
BUNDLED_MODELS: dict[str, str] = {
    "tiny": "ShapesBench pictures of 64 px; comes with the package, made in minutes on a CPU",
    "tiny-judge": "the same task from other sizes, seed and data: judges what was tuned against tiny",
}

VOCABULARY = HubFile("google-bert/bert-base-uncased", "vocab.txt", fallback_repo_id="bert-base-uncased")

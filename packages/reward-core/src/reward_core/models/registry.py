"""Published models: name -> files and configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ..hub.file_specs import HubFile, WebFile
from ..network.config import BlipConfig, RewardConfig
from .clip.config import ClipConfig


@dataclass(frozen=True)
class ModelSpec:
    """A published model: weights, the configuration they need, and one line for listings.

    head: a second file, of the layers that stand on the first one's features, and ``head_widths``.
    vocabulary: where the tokenizer comes from when it does not lie beside the weights.
    """

    weights: HubFile | WebFile
    config: BlipConfig | ClipConfig
    description: str
    vocabulary: HubFile | None = None
    head: WebFile | None = None
    head_widths: tuple[int, ...] = ()


REWARD_MODELS: dict[str, ModelSpec] = {
    "ImageReward-v1.0": ModelSpec(
        HubFile("zai-org/ImageReward", "ImageReward.pt", fallback_repo_id="THUDM/ImageReward"),
        RewardConfig.imagereward_v1(),
        "the paper's reward model: BLIP ViT-L/16 + BERT-base, 446.7 M parameters, 1.79 GB",
    ),
}

_CLIP_VOCABULARY = HubFile("openai/clip-vit-large-patch14", "tokenizer.json")
_CLIP_L = HubFile("openai/clip-vit-large-patch14", "model.safetensors")

SCORES: dict[str, ModelSpec] = {
    "CLIP": ModelSpec(
        _CLIP_L,
        ClipConfig(),
        "cosine of OpenAI's CLIP ViT-L/14, 1.7 GB",
        _CLIP_VOCABULARY,
    ),
    "BLIP": ModelSpec(
        WebFile(
            "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large.pth",
            "model_large.pth",
        ),
        BlipConfig(),
        "cosine of BLIP large's image and text embeddings",
    ),
    "Aesthetic": ModelSpec(
        _CLIP_L,
        ClipConfig(),
        "LAION's linear head on CLIP ViT-L/14; looks at the image alone",
        _CLIP_VOCABULARY,
        WebFile(
            "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/main/"
            "sac%2Blogos%2Bava1-l14-linearMSE.pth",
            "sac+logos+ava1-l14-linearMSE.pth",
            "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
        ),
        (1024, 128, 64, 16, 1),
    ),
    "PickScore": ModelSpec(
        HubFile("yuvalkirstain/PickScore_v1", "model.safetensors"),
        ClipConfig.vit_h_14(scaled=True),
        "CLIP ViT-H/14 trained on Pick-a-Pic (beyond the paper), 3.9 GB",
        _CLIP_VOCABULARY,
    ),
    "HPSv2.1": ModelSpec(
        HubFile("xswu/HPSv2", "HPS_v2.1_compressed.pt"),
        ClipConfig.vit_h_14(fit="pad"),
        "CLIP ViT-H/14 trained on HPD v2 (beyond the paper)",
        _CLIP_VOCABULARY,
    ),
}

# The tiny models lie in the package itself, in demo/.
BUNDLED_MODELS: dict[str, str] = {
    "tiny": "ShapesBench images of 64 px; comes with the package, made in minutes on a CPU",
    "tiny-judge": "the same task from other sizes, seed and data: judges what was tuned against tiny",
}

VOCABULARY = HubFile("google-bert/bert-base-uncased", "vocab.txt", fallback_repo_id="bert-base-uncased")

"""Published scores based on CLIP."""

from __future__ import annotations

from ...hub.file_specs import HubFile, WebFile
from ..model_spec import ModelSpec
from .config import ClipConfig

_CLIP_VOCABULARY = HubFile("openai/clip-vit-large-patch14", "tokenizer.json", size="2.2 MB")
_CLIP_L = HubFile("openai/clip-vit-large-patch14", "model.safetensors", size="1.71 GB")

CLIP_MODELS: dict[str, ModelSpec] = {
    "CLIP": ModelSpec(
        _CLIP_L,
        ClipConfig(),
        "cosine of OpenAI's CLIP ViT-L/14, 1.7 GB",
        _CLIP_VOCABULARY,
    ),
    "Aesthetic": ModelSpec(
        _CLIP_L,
        ClipConfig(),
        "LAION's linear head on CLIP ViT-L/14; ignores the prompt",
        _CLIP_VOCABULARY,
        WebFile(
            "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/main/"
            "sac%2Blogos%2Bava1-l14-linearMSE.pth",
            "sac+logos+ava1-l14-linearMSE.pth",
            "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            size="3.7 MB",
        ),
        (1024, 128, 64, 16, 1),
    ),
    "PickScore": ModelSpec(
        HubFile("yuvalkirstain/PickScore_v1", "model.safetensors", size="3.94 GB"),
        ClipConfig.vit_h_14(scaled=True),
        "CLIP ViT-H/14 trained on Pick-a-Pic (beyond the paper), 3.9 GB",
        _CLIP_VOCABULARY,
    ),
    "HPSv2.1": ModelSpec(
        HubFile("xswu/HPSv2", "HPS_v2.1_compressed.pt", size="1.97 GB"),
        ClipConfig.vit_h_14(fit="pad"),
        "CLIP ViT-H/14 trained on HPD v2 (beyond the paper)",
        _CLIP_VOCABULARY,
    ),
}

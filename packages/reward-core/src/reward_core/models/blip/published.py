"""The published BLIP score."""

from __future__ import annotations

from ...hub.file_specs import WebFile
from ...network.config import BlipConfig
from ..model_spec import ModelSpec

BLIP_MODELS: dict[str, ModelSpec] = {
    "BLIP": ModelSpec(
        WebFile(
            "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large.pth",
            "model_large.pth",
            size="1.7 GB",
        ),
        BlipConfig(),
        "cosine of BLIP large's image and text embeddings",
    ),
}

"""The published BLIP score."""

from __future__ import annotations

from ...hub.file_specs import WebFile
from ...network.config import BlipConfig
from ..model_spec import VOCABULARY, ModelSpec, Part
from ..scorer_facts import License, PublishedAccuracy, ScorerFacts

BLIP_WEIGHTS = WebFile(
    "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large.pth",
    "model_large.pth",
    size="1.7 GB",
)

BLIP_MODELS: dict[str, ModelSpec] = {
    "BLIP": ModelSpec(
        "reward_core.models.blip.scorer:BlipScorer",
        {
            "weights": Part(BLIP_WEIGHTS, ("model_large.pth", "model.safetensors")),
            "config": Part(None, ("config.json",), required=False),
            "tokenizer": Part(VOCABULARY, ("vocab.txt", "tokenizer.json")),
        },
        BlipConfig(),
        ScorerFacts(
            "cosine of BLIP large's image and text embeddings",
            parameters=445_737_984,
            gigabytes=1.7,
            hardware="CPU, or GPU with 4 GB",
            score_range="-1 to 1",
            training_data="129 M image-text pairs",
            code_license=License("BSD-3-Clause", "https://github.com/salesforce/BLIP/blob/main/LICENSE.txt"),
            accuracies=(PublishedAccuracy("ImageReward", 57.76, "arXiv 2304.05977, Table 3"),),
            citation="arXiv 2201.12086",
        ),
        BlipConfig.model_type,
    ),
}

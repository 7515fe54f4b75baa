"""The published score on SigLIP."""

from __future__ import annotations

from ...hub.file_specs import HubFile, WebFile
from ..model_spec import ModelSpec, Part
from ..scorer_facts import License, ScorerFacts
from .config import SiglipConfig

_REPOSITORY = "https://github.com/discus0434/aesthetic-predictor-v2-5"
_SIGLIP = HubFile("google/siglip-so400m-patch14-384", "model.safetensors", size="3.51 GB", own_folder=True)
_HEAD = WebFile(
    f"{_REPOSITORY}/raw/main/models/aesthetic_predictor_v2_5.pth",
    "aesthetic_predictor_v2_5.pth",
    "a6caf256b3dc434273c98dcb12f6bf17c5d4fc647d8df11f038386923dd06220",
    size="2.6 MB",
)

SIGLIP_MODELS: dict[str, ModelSpec] = {
    "Aesthetic-v2.5": ModelSpec(
        "reward_core.models.siglip.scorer:SiglipScorer",
        {
            "weights": Part(
                HubFile(
                    "google/siglip-so400m-patch14-384", "model.safetensors", size="3.51 GB", own_folder=True
                ),
                ("model.safetensors", "siglip_vision.safetensors"),
            ),
            "head": Part(_HEAD, ("aesthetic_predictor_v2_5.pth", "aesthetic_predictor_v2_5.safetensors")),
            "config": Part(None, ("config.json",), required=False),
        },
        SiglipConfig(),
        ScorerFacts(
            "discus0434's head on SigLIP so400m at 384 px; ignores the prompt",
            parameters=429_546_785,
            gigabytes=3.51,
            hardware="CPU, or GPU with 4 GB",
            score_range="about 1 to 10; 5.5 and more is great",
            comparable_across_prompts=True,
            reads_prompt=False,
            training_data="unknown",
            code_license=License("AGPL-3.0", f"{_REPOSITORY}/blob/main/LICENSE"),
            weights_license=License("AGPL-3.0", f"{_REPOSITORY}/blob/main/LICENSE"),
            citation="github.com/discus0434/aesthetic-predictor-v2-5",
        ),
        SiglipConfig.model_type,
    ),
}

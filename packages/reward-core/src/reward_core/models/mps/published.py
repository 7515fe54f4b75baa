"""The published MPS."""

from __future__ import annotations

from ...hub.file_specs import HubFile
from ..clip.published import CLIP_TOKENIZER
from ..model_spec import ModelSpec, Part
from ..scorer_facts import License, PublishedAccuracy, ScorerFacts
from .config import MpsConfig

_README = "README of github.com/Kwai-Kolors/MPS"

MPS_MODELS: dict[str, ModelSpec] = {
    "MPS": ModelSpec(
        "reward_core.models.mps.scorer:MpsScorer",
        {
            # The authors publish a pickled module on Google Drive; this is imscore's copy of its weights.
            "weights": Part(
                HubFile("RE-N-Y/mpsv1", "model.safetensors", own_folder=True),
                ("model.safetensors", "MPS_overall_checkpoint.pth", "mps_overall.safetensors"),
            ),
            "config": Part(None, ("config.json",), required=False),
            "cross_config": Part(None, ("cross_model.json",), required=False),
            "tokenizer": Part(CLIP_TOKENIZER, ("tokenizer.json",)),
        },
        MpsConfig.vit_h_14(),
        ScorerFacts(
            "CLIP ViT-H/14 and a cross model in which the image reads the prompt",
            parameters=1_104_614_913,
            gigabytes=4.42,
            hardware="CPU, or GPU with 6 GB",
            score_range="-100 to 100",
            training_data="MHP: preferences in four dimensions",
            code_license=License("MIT", "https://github.com/Kwai-Kolors/MPS/blob/main/LICENSE"),
            accuracies=(
                PublishedAccuracy("ImageReward", 67.5, _README),
                PublishedAccuracy("HPDv2", 83.5, _README),
                PublishedAccuracy("MHP", 74.2, _README),
            ),
            citation="arXiv 2405.14705",
        ),
        MpsConfig.model_type,
    ),
}

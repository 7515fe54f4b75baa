"""Published scores based on CLIP."""

from __future__ import annotations

from ...hub.file_specs import HubFile, WebFile
from ..model_spec import ModelSpec, Part
from ..scorer_facts import License, PublishedAccuracy, ScorerFacts, published_in_hpsv3
from .config import ClipConfig

_FAMILY = "reward_core.models.clip.scorer:ClipScorer"
_OPENAI = "openai/clip-vit-large-patch14"

CLIP_TOKENIZER = HubFile(_OPENAI, "tokenizer.json", size="2.2 MB", own_folder=True)
AESTHETIC_HEAD = WebFile(
    "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/main/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth",
    "sac+logos+ava1-l14-linearMSE.pth",
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
    size="3.7 MB",
)
AESTHETIC_WIDTHS = (1024, 128, 64, 16, 1)
_CLIP_PARTS = {
    "weights": Part(
        HubFile(_OPENAI, "model.safetensors", size="1.71 GB", own_folder=True), ("model.safetensors",)
    ),
    "config": Part(None, ("config.json",), required=False),
    "tokenizer": Part(CLIP_TOKENIZER, ("tokenizer.json",)),
}

CLIP_MODELS: dict[str, ModelSpec] = {
    "CLIP": ModelSpec(
        _FAMILY,
        _CLIP_PARTS,
        ClipConfig(),
        ScorerFacts(
            "cosine of OpenAI's CLIP ViT-L/14",
            parameters=427_616_513,
            gigabytes=1.71,
            hardware="CPU, or GPU with 4 GB",
            score_range="-1 to 1",
            training_data="400 M image-text pairs",
            code_license=License("MIT", "https://github.com/openai/CLIP/blob/main/LICENSE"),
            accuracies=(PublishedAccuracy("ImageReward", 54.82, "arXiv 2304.05977, Table 3"),),
            citation="arXiv 2103.00020",
        ),
        ClipConfig.model_type,
    ),
    "Aesthetic": ModelSpec(
        _FAMILY,
        {
            **_CLIP_PARTS,
            "head": Part(
                AESTHETIC_HEAD,
                ("sac+logos+ava1-l14-linearMSE.pth", "head.safetensors"),
            ),
        },
        ClipConfig(head=AESTHETIC_WIDTHS),
        ScorerFacts(
            "LAION's head on CLIP ViT-L/14; ignores the prompt",
            parameters=428_544_482,
            gigabytes=1.71,
            hardware="CPU, or GPU with 4 GB",
            score_range="about 1 to 10",
            comparable_across_prompts=True,
            reads_prompt=False,
            training_data="ratings of SAC, LAION-Logos and AVA",
            accuracies=(
                PublishedAccuracy("ImageReward", 57.35, "arXiv 2304.05977, Table 3"),
                *published_in_hpsv3(56.8, 76.8, 59.9),
            ),
            citation="github.com/christophschuhmann/improved-aesthetic-predictor",
        ),
        ClipConfig.model_type,
    ),
    "PickScore": ModelSpec(
        _FAMILY,
        {
            "weights": Part(
                HubFile("yuvalkirstain/PickScore_v1", "model.safetensors", size="3.94 GB", own_folder=True),
                ("model.safetensors",),
            ),
            "config": Part(None, ("config.json",), required=False),
            "tokenizer": Part(CLIP_TOKENIZER, ("tokenizer.json",)),
        },
        ClipConfig.vit_h_14(scaled=True),
        ScorerFacts(
            "CLIP ViT-H/14 trained on Pick-a-Pic",
            parameters=986_109_441,
            gigabytes=3.94,
            hardware="CPU, or GPU with 6 GB",
            score_range="-100 to 100",
            training_data="Pick-a-Pic: choices of people",
            accuracies=(
                PublishedAccuracy("ImageReward", 61.6, "README of hpsv3 1.0.0 on PyPI"),
                *published_in_hpsv3(70.5, 79.8, 65.6),
            ),
            citation="arXiv 2305.01569",
        ),
        ClipConfig.model_type,
    ),
    "HPSv2.1": ModelSpec(
        _FAMILY,
        {
            "weights": Part(
                HubFile("xswu/HPSv2", "HPS_v2.1_compressed.pt", size="1.97 GB", own_folder=True),
                ("HPS_v2.1_compressed.pt", "HPS_v2.1.pt", "HPS_v2.1.safetensors"),
            ),
            "config": Part(None, ("open_clip_config.json", "config.json"), required=False),
            "tokenizer": Part(CLIP_TOKENIZER, ("tokenizer.json",)),
        },
        ClipConfig.vit_h_14(fit="pad", text_cleaning="ftfy"),
        ScorerFacts(
            "CLIP ViT-H/14 trained on HPD v2",
            parameters=986_109_441,
            gigabytes=1.97,
            hardware="CPU, or GPU with 6 GB",
            score_range="-1 to 1",
            training_data="HPD v2: rankings by people",
            code_license=License("Apache-2.0", "https://github.com/tgxs002/HPSv2/blob/master/LICENSE"),
            weights_license=License("Apache-2.0", "https://huggingface.co/xswu/HPSv2"),
            accuracies=(
                PublishedAccuracy("ImageReward", 66.8, "README of github.com/tgxs002/HPSv2"),
                PublishedAccuracy("HPDv2", 84.1, "README of github.com/tgxs002/HPSv2"),
            ),
            citation="arXiv 2306.09341",
        ),
        ClipConfig.model_type,
    ),
}

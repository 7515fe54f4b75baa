"""ImageReward-v1.0, CycleReward and the bundled reward models."""

from __future__ import annotations

from ...hub.file_specs import HubFile, PackageFile, WebFile
from ...network.config import RewardConfig
from ..model_spec import VOCABULARY, ModelSpec, Part
from ..scorer_facts import License, PublishedAccuracy, ScorerFacts, published_in_hpsv3

_FAMILY = "reward_core.models.imagereward.reward_model:RewardModel"
_CYCLE_REPOSITORY = "https://github.com/hjbahng/cyclereward"
OURS = License("Apache-2.0", "the LICENSE file of reward-core")


def _bundled(folder: str, facts: ScorerFacts) -> ModelSpec:
    """Return the specification of a saved folder in reward_core.demo."""
    names = {"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}
    parts = {
        part: Part(PackageFile("reward_core.demo", f"{folder}/{name}"), (name,))
        for part, name in names.items()
    }
    return ModelSpec(_FAMILY, parts, None, facts, RewardConfig.model_type)


def _cyclereward(variant: str, training_data: str) -> ModelSpec:
    """Return the specification of a variant of CycleReward, whose weights are files of a GitHub release."""
    name = f"CycleReward-{variant}"
    weights = WebFile(
        f"{_CYCLE_REPOSITORY}/releases/download/v1.0.0/{name}.pth", f"{name}.pth", size="1.79 GB"
    )
    return ModelSpec(
        _FAMILY,
        {
            "weights": Part(weights, (f"{name}.pth", f"{name}.safetensors", "model.safetensors")),
            "config": Part(None, ("config.json",), required=False),
            "text_config": Part(None, ("med_config.json",), required=False),
            "tokenizer": Part(VOCABULARY, ("vocab.txt", "tokenizer.json")),
        },
        RewardConfig.cyclereward(),
        ScorerFacts(
            f"how well image and text describe each other, trained on {training_data}",
            parameters=446_665_953,
            gigabytes=1.79,
            hardware="CPU, or GPU with 4 GB",
            score_range="unbounded",
            training_data=f"CyclePrefDB: {training_data}",
            code_license=License("MIT", f"{_CYCLE_REPOSITORY}/blob/main/LICENSE"),
            citation="arXiv 2506.02095",
        ),
        RewardConfig.model_type,
    )


CYCLE_MODELS: dict[str, ModelSpec] = {
    "CycleReward-Combo": _cyclereward("Combo", "preferences between images and between captions"),
    "CycleReward-T2I": _cyclereward("T2I", "preferences between images"),
    "CycleReward-I2T": _cyclereward("I2T", "preferences between captions"),
}

REWARD_MODELS: dict[str, ModelSpec] = {
    "ImageReward-v1.0": ModelSpec(
        _FAMILY,
        {
            "weights": Part(
                HubFile(
                    "zai-org/ImageReward",
                    "ImageReward.pt",
                    fallback_repo_id="THUDM/ImageReward",
                    size="1.79 GB",
                ),
                ("ImageReward.pt", "ImageReward.safetensors", "model.safetensors"),
            ),
            "config": Part(None, ("config.json",), required=False),
            "tokenizer": Part(VOCABULARY, ("vocab.txt", "tokenizer.json")),
        },
        RewardConfig.imagereward_v1(),
        ScorerFacts(
            "the paper's reward model: BLIP ViT-L/16 + BERT-base + head",
            parameters=446_665_953,
            gigabytes=1.79,
            hardware="CPU, or GPU with 4 GB",
            score_range="about N(0, 1)",
            comparable_across_prompts=True,
            training_data="ImageRewardDB: 137 k comparisons by experts",
            code_license=License("Apache-2.0", "https://github.com/THUDM/ImageReward/blob/main/LICENSE"),
            weights_license=License("Apache-2.0", "https://huggingface.co/THUDM/ImageReward"),
            accuracies=(
                PublishedAccuracy("ImageReward", 65.14, "arXiv 2304.05977, Table 3"),
                *published_in_hpsv3(61.1, 74.0, 58.6),
            ),
            citation="arXiv 2304.05977",
        ),
        RewardConfig.model_type,
    ),
    "tiny": _bundled(
        "tiny",
        ScorerFacts(
            "bundled model for 64 px ShapesBench images, trained in minutes on a CPU",
            parameters=940_321,
            gigabytes=0.0,
            hardware="CPU",
            score_range="about N(0, 1)",
            comparable_across_prompts=True,
            training_data="ShapesBench images",
            code_license=OURS,
            weights_license=OURS,
        ),
    ),
    "tiny-judge": _bundled(
        "tiny-judge",
        ScorerFacts(
            "same task, other sizes, seed and data: a held-out reward for models tuned on tiny",
            parameters=876_193,
            gigabytes=0.0,
            hardware="CPU",
            score_range="about N(0, 1)",
            comparable_across_prompts=True,
            training_data="ShapesBench images",
            code_license=OURS,
            weights_license=OURS,
        ),
    ),
}

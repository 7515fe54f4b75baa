"""Published scorers with a vision-language model as backbone."""

from __future__ import annotations

from ...hub.file_specs import HubFile
from ..model_spec import ModelSpec, Part
from ..scorer_facts import License, PublishedAccuracy, ScorerFacts, published_in_hpsv3

_README = "README of hpsv3 1.0.0 on PyPI"
_INDEX = "model.safetensors.index.json"


def _base_parts(repository: str) -> dict[str, Part]:
    """Return the files of a base model that its scorer needs."""

    def part(name: str, *others: str, size: str = "") -> Part:
        return Part(HubFile(repository, name, size=size, own_folder=True), (name, *others))

    return {
        "config": part("config.json"),
        "tokenizer": part("tokenizer.json", size="7 MB"),
        "chat_template": part("chat_template.json", "chat_template.jinja"),
        "preprocessor": part("preprocessor_config.json"),
    }


VLM_MODELS: dict[str, ModelSpec] = {
    "HPSv3": ModelSpec(
        "reward_core.models.vlm.hpsv3:HPSv3Scorer",
        {
            "weights": Part(
                HubFile("MizzenAI/HPSv3", "HPSv3.safetensors", size="16.6 GB", own_folder=True),
                ("HPSv3.safetensors", "HPSv3.pth", "HPSv3.safetensors.index.json", _INDEX),
            ),
            **_base_parts("Qwen/Qwen2-VL-7B-Instruct"),
        },
        None,
        ScorerFacts(
            "Qwen2-VL-7B with a head for mu and sigma; the score is mu",
            parameters=7_748_610_610,
            gigabytes=16.6,
            hardware="GPU with 24 GB (unmeasured)",
            score_range="unbounded; means of generators are -0.8 to 10.6",
            training_data="HPDv3: pairs of images, ranked by people",
            code_license=License("MIT", "https://pypi.org/project/hpsv3/1.0.0/"),
            accuracies=(
                PublishedAccuracy("ImageReward", 66.8, _README),
                *published_in_hpsv3(pickscore=72.8, hpdv2=85.4, hpdv3=76.9),
            ),
            citation="arXiv 2508.03789",
        ),
    ),
    "HPSv3++": ModelSpec(
        "reward_core.models.vlm.hpsv3_plus_plus:HPSv3PlusPlusScorer",
        {
            "weights": Part(
                HubFile("Junjun2333/HPSv3-PlusPlus", "hpsv3++.pth", size="17.6 GB", own_folder=True),
                ("hpsv3++.pth", "hpsv3++.safetensors", "hpsv3pp.safetensors", _INDEX),
            ),
            **_base_parts("Qwen/Qwen3-VL-8B-Instruct"),
        },
        None,
        ScorerFacts(
            "Qwen3-VL-8B with a head that also reads the estimated capability of the generator",
            parameters=8_183_647_268,
            gigabytes=17.6,
            hardware="GPU with 24 GB (unmeasured)",
            score_range="unbounded",
            training_data="HPDv3 and the authors' pairs and rollouts",
            citation="github.com/PlantPotatoOnMoon/HPSv3-PlusPlus",
        ),
    ),
}

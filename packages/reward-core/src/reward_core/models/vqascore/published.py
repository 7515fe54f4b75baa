"""Published models of VQAScore."""

from __future__ import annotations

from ...hub.file_specs import HubFile
from ..model_spec import ModelSpec, Part
from ..scorer_facts import License, ScorerFacts
from .config import FLANT5_XL, VqaConfig

# Only needed if the weights have no image encoder.
VISION = HubFile("openai/clip-vit-large-patch14-336", "pytorch_model.bin", size="1.71 GB", own_folder=True)
_SHARDS = ("pytorch_model.bin.index.json", "model.safetensors.index.json")
_ONE_FILE = ("pytorch_model.bin", "model.safetensors", "weights_clip_t5.safetensors")


def _model(
    size: str, weights: tuple[str, ...], config: VqaConfig, facts: ScorerFacts, download: str
) -> ModelSpec:
    repository, tokenizer = f"zhiqiulin/clip-flant5-{size}", f"google/flan-t5-{size}"
    parts = {
        "weights": Part(HubFile(repository, weights[0], size=download, own_folder=True), weights),
        "config": Part(HubFile(repository, "config.json", own_folder=True), ("config.json",)),
        "tokenizer": Part(
            HubFile(tokenizer, "spiece.model", size="792 kB", own_folder=True), ("spiece.model",)
        ),
        "vision": Part(VISION, (VISION.filename, "model.safetensors"), required=False),
    }
    return ModelSpec("reward_core.models.vqascore.scorer:VqaScorer", parts, config, facts)


def _facts(size: str, parameters: int, gigabytes: float, hardware: str) -> ScorerFacts:
    return ScorerFacts(
        f"how surely CLIP-FlanT5 ({size}) answers yes when asked whether the image shows the text",
        parameters=parameters,
        gigabytes=gigabytes,
        hardware=hardware,
        score_range="0 to 1",
        training_data="questions and answers about images; no human preferences",
        code_license=License(
            "Apache-2.0", "https://github.com/linzhiqiu/t2v_metrics/blob/main/pyproject.toml"
        ),
        weights_license=License("Apache-2.0", f"https://huggingface.co/zhiqiulin/clip-flant5-{size}"),
        citation="arXiv 2404.01291",
    )


VQA_MODELS: dict[str, ModelSpec] = {
    "VQAScore": _model(
        "xxl",
        (*_SHARDS, *_ONE_FILE),
        VqaConfig(),
        _facts("xxl", 11_459_590_144, 22.9, "GPU with 32 GB (unmeasured)"),
        "22.9 GB",
    ),
    "VQAScore-xl": _model(
        "xl",
        (*_ONE_FILE, *_SHARDS),
        FLANT5_XL,
        _facts("xl", 3_159_445_504, 6.32, "GPU with 12 GB (unmeasured)"),
        "6.32 GB",
    ),
}

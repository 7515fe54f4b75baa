"""Registry of all models that can be loaded by name."""

from __future__ import annotations

from .blip.published import BLIP_MODELS
from .clip.published import CLIP_MODELS
from .imagereward.published import BUNDLED_MODELS, REWARD_MODELS
from .model_spec import ModelSpec

__all__ = ["BUNDLED_MODELS", "REWARD_MODELS", "SCORES"]

_BASELINES = {**CLIP_MODELS, **BLIP_MODELS}
SCORES: dict[str, ModelSpec] = {
    name: _BASELINES[name] for name in ("CLIP", "BLIP", "Aesthetic", "PickScore", "HPSv2.1")
}

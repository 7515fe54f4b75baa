"""Names of CLIP's weights: from open_clip or transformers to this package."""

from __future__ import annotations

import re

from torch import Tensor

_TOP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")


def to_clip_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIP weights under the names of `ClipScorer`."""
    if is_open_clip(set(state)):
        state = to_transformers(state)
    prefixes = ("clip.", "head.")
    return {key if key.startswith(prefixes) else f"clip.{key}": value for key, value in state.items()}


def is_open_clip(keys: set[str]) -> bool:
    """Return whether these are the names of an open_clip model."""
    return {"visual.conv1.weight", "token_embedding.weight"} <= keys


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return open_clip weights under transformers' names; unknown names stay."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        owner, _, leaf = key.rpartition(".")
        if key == "attn_mask":  # a constant
            continue
        if key in _TOP:
            renamed[_TOP[key]] = value
        elif owner in _NORMS:
            renamed[f"{_NORMS[owner]}.{leaf}"] = value
        elif key == "visual.proj":
            renamed["visual_projection.weight"] = value.T
        elif key == "text_projection":
            renamed["text_projection.weight"] = value.T
        elif match := _LAYER.fullmatch(key):
            side = "vision_model" if match[1] else "text_model"
            renamed |= _rename_in_layer(f"{side}.encoder.layers.{match[2]}", match[3], value)
        else:
            renamed[key] = value
    return renamed


def _rename_in_layer(layer: str, name: str, value: Tensor) -> dict[str, Tensor]:
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        leaf = name.removeprefix("attn.in_proj_")
        return {f"{layer}.self_attn.{p}_proj.{leaf}": part for p, part in zip("qkv", value.chunk(3))}
    owner, _, leaf = name.rpartition(".")
    return {f"{layer}.{_IN_LAYER.get(owner, owner)}.{leaf}": value}

"""Names of CogVLM2's weights: from the authors' form and transformers' form to this package.

Both forms hold the same tensors. The authors' form is that of SwissArmyTransformer (SAT).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from ...errors import CheckpointError, KeyMismatchError
from .config import CogVlm2Config
from .rotary import inverse_frequencies

Form = Literal["sat", "hf"]

_EVA, _TOWER = "mixins.eva.vit_model.", "model.vision."
_SAT_VISION_LAYER = _EVA + "transformer.layers.{i}."
_HF_VISION_LAYER = _TOWER + "transformer.layers.{i}."
_SAT_LAYER, _HF_LAYER = "transformer.layers.{i}.", "model.layers.{i}."
_WEIGHT, _WEIGHT_BIAS = (".weight",), (".weight", ".bias")

# (this package, SAT, transformers, endings); the three names have the same endings.
_TOP = (
    ("vision_tower.class_token", _EVA + "transformer.word_embeddings.weight",
     _TOWER + "patch_embedding.cls_embedding", ("",)),
    ("vision_tower.position_embedding", _EVA + "transformer.position_embeddings.weight",
     _TOWER + "patch_embedding.position_embedding.weight", ("",)),
    ("vision_tower.patch_embedding", _EVA + "mixins.patch_embedding.proj",
     _TOWER + "patch_embedding.proj", _WEIGHT_BIAS),
    ("adapter.begin_of_image", "mixins.eva.boi", _TOWER + "boi", ("",)),
    ("adapter.end_of_image", "mixins.eva.eoi", _TOWER + "eoi", ("",)),
    ("adapter.shrink", "mixins.eva.conv", _TOWER + "conv", _WEIGHT_BIAS),
    ("adapter.project", "mixins.eva.linear_proj.linear_proj", _TOWER + "linear_proj.linear_proj", _WEIGHT),
    ("adapter.norm", "mixins.eva.linear_proj.norm1", _TOWER + "linear_proj.norm1", _WEIGHT_BIAS),
    ("adapter.gate", "mixins.eva.linear_proj.gate_proj", _TOWER + "linear_proj.gate_proj", _WEIGHT),
    ("adapter.up", "mixins.eva.linear_proj.dense_h_to_4h", _TOWER + "linear_proj.dense_h_to_4h", _WEIGHT),
    ("adapter.down", "mixins.eva.linear_proj.dense_4h_to_h", _TOWER + "linear_proj.dense_4h_to_h", _WEIGHT),
    ("language_model.embedding", "transformer.word_embeddings", "model.embed_tokens", _WEIGHT),
    ("language_model.norm", "transformer.final_layernorm", "model.norm", _WEIGHT),
    ("language_model.lm_head", "mixins.lm.lm_head", "lm_head", _WEIGHT),
)  # fmt: skip
_VISION_LAYER = (
    ("attention.qkv", "attention.query_key_value", "attention.query_key_value"),
    ("attention.output", "attention.dense", "attention.dense"),
    ("attention_norm", "input_layernorm", "input_layernorm"),
    ("mlp.fc1", "mlp.dense_h_to_4h", "mlp.fc1"),
    ("mlp.fc2", "mlp.dense_4h_to_h", "mlp.fc2"),
    ("mlp_norm", "post_attention_layernorm", "post_attention_layernorm"),
)
_LANGUAGE_LAYER = (
    ("attention_norm", _SAT_LAYER + "input_layernorm", "input_layernorm", _WEIGHT),
    ("mlp_norm", _SAT_LAYER + "post_attention_layernorm", "post_attention_layernorm", _WEIGHT),
    ("language_expert.qkv", _SAT_LAYER + "attention.query_key_value",
     "self_attn.language_expert_query_key_value", _WEIGHT),
    ("language_expert.attention_output", _SAT_LAYER + "attention.dense",
     "self_attn.language_expert_dense", _WEIGHT),
    ("language_expert.gate", "mixins.mlp.gate_proj.{i}", "mlp.language_mlp.gate_proj", _WEIGHT),
    ("language_expert.up", _SAT_LAYER + "mlp.dense_h_to_4h", "mlp.language_mlp.up_proj", _WEIGHT),
    ("language_expert.down", _SAT_LAYER + "mlp.dense_4h_to_h", "mlp.language_mlp.down_proj", _WEIGHT),
    ("vision_expert.qkv", "mixins.rotary.vision_query_key_value_list.{i}",
     "self_attn.vision_expert_query_key_value", _WEIGHT_BIAS),
    ("vision_expert.attention_output", "mixins.rotary.vision_dense_list.{i}",
     "self_attn.vision_expert_dense", _WEIGHT),
    ("vision_expert.gate", "mixins.mlp.vision_gate_proj.{i}", "mlp.vision_mlp.gate_proj", _WEIGHT),
    ("vision_expert.up", "mixins.mlp.vision_dense_h_to_4h_list.{i}", "mlp.vision_mlp.up_proj", _WEIGHT),
    ("vision_expert.down", "mixins.mlp.vision_dense_4h_to_h_list.{i}", "mlp.vision_mlp.down_proj", _WEIGHT),
)  # fmt: skip
_SAT_FREQUENCIES = "mixins.rotary.rotary_emb.inv_freq"
_HF_FREQUENCIES = _HF_LAYER + "self_attn.rotary_emb.inv_freq"


def published_form(keys: Iterable[str]) -> Form | None:
    """Return which published form the names of weights have, None for neither."""
    known = set(keys)
    if "mixins.eva.boi" in known:
        return "sat"
    return "hf" if "model.vision.boi" in known else None


def key_map(config: CogVlm2Config, form: Form) -> dict[str, str]:
    """Return the published name -> this package's name of every weight."""
    names: dict[str, str] = {}
    for own, sat, hf, endings in _TOP:
        names |= {(sat if form == "sat" else hf) + ending: own + ending for ending in endings}
    for i in range(config.vision_depth):
        for own, sat, hf in _VISION_LAYER:
            published = (_SAT_VISION_LAYER + sat if form == "sat" else _HF_VISION_LAYER + hf).format(i=i)
            names |= {published + end: f"vision_tower.layers.{i}.{own}{end}" for end in _WEIGHT_BIAS}
    for i in range(config.depth):
        for own, sat, hf, endings in _LANGUAGE_LAYER:
            published = (sat if form == "sat" else _HF_LAYER + hf).format(i=i)
            names |= {published + end: f"language_model.layers.{i}.{own}{end}" for end in endings}
    return names


def frequency_keys(config: CogVlm2Config, form: Form) -> list[str]:
    """Return the published names of the rotary frequencies, which this package computes."""
    if form == "sat":
        return [_SAT_FREQUENCIES]
    return [_HF_FREQUENCIES.format(i=i) for i in range(config.depth)]


def to_own_keys(state: Mapping[str, Tensor], config: CogVlm2Config, source: str) -> dict[str, Tensor]:
    """Return published weights under the names of `CogVlm2`.

    Args:
        state: all weights of either form, which may be on "meta".
        config: sizes of the model.
        source: path of the weights in errors.

    Raises:
        KeyMismatchError: a name is missing or unknown.
        CheckpointError: rotary frequencies of another base than the configuration's.
    """
    form = published_form(state)
    if form is None:
        raise CheckpointError(f"Cannot load '{source}': these are not the weights of a CogVLM2 model.")
    names, frequencies = key_map(config, form), frequency_keys(config, form)
    missing = [key for key in (*names, *frequencies) if key not in state]
    unexpected = [key for key in state if key not in names and key not in frequencies]
    if missing or unexpected:
        raise KeyMismatchError(source, missing, unexpected)
    for key in frequencies:
        check_frequencies(state[key], config, f"{source}: {key}")
    return {own: state[published] for published, own in names.items()}


def check_frequencies(stored: Tensor, config: CogVlm2Config, source: str) -> None:
    """Raise CheckpointError unless stored rotary frequencies are those of the configuration.

    Rounding to 16 bits is allowed. On "meta" only the shape is checked.
    """
    expected = inverse_frequencies(config.head_width, config.rope_theta, torch.device("cpu"))
    same_shape = stored.shape == expected.shape
    same = stored.is_meta or (
        same_shape and torch.allclose(stored.float().cpu(), expected, rtol=0.01, atol=0)
    )
    if not same_shape or not same:
        theta = f"{config.rope_theta:g}"
        raise CheckpointError(f"Cannot load '{source}': the frequencies are not those of rope_theta={theta}.")

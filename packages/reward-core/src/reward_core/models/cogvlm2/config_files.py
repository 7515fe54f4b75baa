"""Read the sizes of a CogVLM2 model from the files of its two published forms.

The authors' form (SwissArmyTransformer) has a model_config.json, transformers' form a config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError
from .config import CogVlm2Config

# Our field -> key of the authors' file. Keys after "eva_args." are in the object of that name.
_SAT_SIZES = {
    "width": "hidden_size", "depth": "num_layers", "heads": "num_attention_heads",
    "kv_heads": "num_multi_query_heads", "mlp": "inner_hidden_size", "vocab_size": "vocab_size",
    "rms_norm_eps": "layernorm_epsilon", "patch_size": "eva_args.patch_size",
    "vision_width": "eva_args.hidden_size", "vision_depth": "eva_args.num_layers",
    "vision_heads": "eva_args.num_attention_heads", "vision_mlp": "eva_args.inner_hidden_size",
    "vision_layer_norm_eps": "eva_args.layernorm_epsilon",
}  # fmt: skip
_HF_SIZES = {
    "width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads",
    "kv_heads": "num_multi_query_heads", "mlp": "intermediate_size", "vocab_size": "vocab_size",
    "rms_norm_eps": "rms_norm_eps", "patch_size": "vision_config.patch_size",
    "image_size": "vision_config.image_size", "vision_width": "vision_config.hidden_size",
    "vision_depth": "vision_config.num_hidden_layers", "vision_heads": "vision_config.num_heads",
    "vision_mlp": "vision_config.intermediate_size", "vision_layer_norm_eps": "vision_config.layer_norm_eps",
}  # fmt: skip
# Settings with the only value that is implemented. A file may leave them out, except for the last one: by
# default the authors' library adds a norm after the vision tower.
_SAT_FIXED = {
    "use_bias": False, "use_qkv_bias": False, "layernorm_order": "pre", "eva_args.layernorm_order": "post",
    "eva_args.pre_len": 1, "eva_args.post_len": 0, "eva_args.in_channels": 3,
    "eva_args.use_final_layernorm": False,
}  # fmt: skip
_HF_FIXED = {
    "hidden_act": "silu", "tie_word_embeddings": False, "vision_config.hidden_act": "gelu",
    "vision_config.in_channels": 3,
}  # fmt: skip


def read_cogvlm2_config(content: Any, source: str) -> CogVlm2Config:
    """Return the configuration for the content of one of the three kinds of files.

    Args:
        content: JSON content of the authors' model_config.json, of transformers' config.json of CogVLM2, or
            of this package's config.json.
        source: path of the file in errors.

    Raises:
        CheckpointError: another kind of file, a missing or invalid value, or an unsupported setting.
    """
    if isinstance(content, dict) and isinstance(content.get("eva_args"), dict):
        return _read_sat(content, source)
    if isinstance(content, dict) and isinstance(content.get("vision_config"), dict):
        return _read_hf(content, source)
    if isinstance(content, dict) and content.get("model_type") == CogVlm2Config.model_type:
        return CogVlm2Config.from_dict(content, source)
    raise CheckpointError(
        f"Cannot load '{source}': expected the sizes of a CogVLM2 model, in a model_config.json with "
        "'eva_args' or a config.json with 'vision_config'."
    )


def _read_sat(content: Mapping[str, Any], source: str) -> CogVlm2Config:
    if "use_final_layernorm" not in content["eva_args"]:
        raise CheckpointError(f"Cannot load '{source}': 'eva_args.use_final_layernorm' is missing.")
    _check_fixed(content, _SAT_FIXED, source)
    sides = _value(content, "eva_args.image_size", source)
    if not isinstance(sides, list) or len(sides) != 2 or sides[0] != sides[1]:
        raise CheckpointError(
            f"Cannot load '{source}': eva_args.image_size is {sides!r:.80}, not two equal sides."
        )
    sizes = {field: _value(content, key, source) for field, key in _SAT_SIZES.items()}
    config = CogVlm2Config.from_values({**sizes, "image_size": sides[0]}, source)
    _check_count(content, "image_length", config.image_tokens, source)
    return config


def _read_hf(content: Mapping[str, Any], source: str) -> CogVlm2Config:
    _check_fixed(content, _HF_FIXED, source)
    sizes = {field: _value(content, key, source) for field, key in _HF_SIZES.items()}
    theta = content.get("rope_theta", CogVlm2Config.rope_theta)
    config = CogVlm2Config.from_values({**sizes, "rope_theta": theta}, source)
    _check_count(content, "vision_config.num_positions", config.patches**2 + 1, source)
    return config


def _value(content: Any, key: str, source: str) -> Any:
    """Return the value at a key such as "eva_args.patch_size".

    Raises:
        CheckpointError: there is none.
    """
    value = _find(content, key)
    if value is None:
        raise CheckpointError(f"Cannot load '{source}': '{key}' is missing.")
    return value


def _find(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content.get(part)
    return content


def _check_fixed(content: Mapping[str, Any], fixed: Mapping[str, Any], source: str) -> None:
    for key, expected in fixed.items():
        actual = _find(content, key)
        if actual is not None and actual != expected:
            raise CheckpointError(
                f"Cannot load '{source}': {key}={actual!r:.80} is not implemented, only {expected!r}."
            )


def _check_count(content: Mapping[str, Any], key: str, expected: int, source: str) -> None:
    actual = _find(content, key)
    if actual is not None and actual != expected:
        raise CheckpointError(
            f"Cannot load '{source}': {key} is {actual!r:.80}, but images of its size have {expected}."
        )

"""Read the sizes of a CLIP model from config.json (transformers) or open_clip_config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from ...errors import CheckpointError
from .config import ClipSizes

C = TypeVar("C", bound=ClipSizes)


def read_clip_config(config_class: type[C], content: Any, source: str, published: C | None) -> C:
    """Return the configuration of a scorer on CLIP.

    Args:
        config_class: class of the configuration.
        content: JSON content of this package's config.json, transformers' config.json or open_clip's
            open_clip_config.json.
        source: path of the file in errors.
        published: the scorer's configuration, for everything that is not a size of CLIP.

    Raises:
        CheckpointError: a value is missing or invalid, or the authors' file is used without a scorer's name.
    """
    if isinstance(content, dict) and content.get("model_type") == "clip":
        read = _from_transformers
    elif isinstance(content, dict) and "vision_cfg" in content.get("model_cfg", content):
        read = _from_open_clip
    else:
        return config_class.from_dict(content, source)
    if published is None:
        raise CheckpointError(
            f"Cannot load '{source}': it has the sizes of a CLIP model, but does not say which score to "
            'compute. Name the scorer, as in load("PickScore", files=FOLDER).'
        )
    sizes = {field.name for field in fields(ClipSizes)}
    kept = {key: value for key, value in vars(published).items() if key not in sizes}
    return config_class.from_values({**_guarded(read, content, source), **kept}, source)


def _guarded(
    read: Callable[[Mapping[str, Any]], dict[str, Any]], content: Mapping[str, Any], source: str
) -> dict[str, Any]:
    try:
        return read(content)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"Cannot load '{source}': a size is missing or invalid ({type(error).__name__}: {error})."
        ) from error


def _from_transformers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return CLIP's sizes; missing values are transformers' defaults."""
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        **content["vision_config"],
    }  # fmt: skip
    text = {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        **content["text_config"],
    }  # fmt: skip
    if vision["hidden_act"] != text["hidden_act"]:
        raise ValueError("hidden_act of vision_config and text_config differ")
    if not vision["layer_norm_eps"] == text["layer_norm_eps"] == 1e-5:
        raise ValueError("layer_norm_eps must be 1e-05")
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "vision_width": vision["hidden_size"],
        "vision_depth": vision["num_hidden_layers"],
        "vision_heads": vision["num_attention_heads"],
        "vision_mlp": vision["intermediate_size"],
        "text_width": text["hidden_size"],
        "text_depth": text["num_hidden_layers"],
        "text_heads": text["num_attention_heads"],
        "text_mlp": text["intermediate_size"],
        "vocab_size": text["vocab_size"],
        "max_length": text["max_position_embeddings"],
        "proj_dim": content.get("projection_dim", 512),
        "activation": vision["hidden_act"],
    }


def _from_open_clip(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return CLIP's sizes; missing values are open_clip's defaults."""
    sizes = content.get("model_cfg", content)
    vision = {"head_width": 64, "mlp_ratio": 4.0, "image_size": 224, **sizes["vision_cfg"]}
    text = {"context_length": 77, "vocab_size": 49408, "heads": 8, "mlp_ratio": 4.0, **sizes["text_cfg"]}
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "vision_width": vision["width"],
        "vision_depth": vision["layers"],
        "vision_heads": vision["width"] // vision["head_width"],
        "vision_mlp": int(vision["width"] * vision["mlp_ratio"]),
        "text_width": text["width"],
        "text_depth": text["layers"],
        "text_heads": text["heads"],
        "text_mlp": int(text["width"] * text["mlp_ratio"]),
        "vocab_size": text["vocab_size"],
        "max_length": text["context_length"],
        "proj_dim": sizes["embed_dim"],
        "activation": "quick_gelu" if sizes.get("quick_gelu") else "gelu",
    }

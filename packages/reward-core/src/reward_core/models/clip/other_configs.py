"""Sizes of CLIP from configuration files of transformers and open_clip."""

from __future__ import annotations

from typing import Any

# transformers leaves out values that equal these defaults of its CLIPConfig.
_TEXT_DEFAULTS = {
    "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "intermediate_size": 2048,
    "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip
_VISION_DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "image_size": 224, "patch_size": 32,
}  # fmt: skip


def sizes_from_transformers(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `ClipSizes` for the config.json of a CLIPModel."""
    text = {**_TEXT_DEFAULTS, **_section(content, "text_config")}
    vision = {**_VISION_DEFAULTS, **_section(content, "vision_config")}
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
        "activation": text["hidden_act"],
    }


def sizes_from_open_clip(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `ClipSizes` for a model configuration of open_clip."""
    content = _section(content, "model_cfg") or content
    text, vision = _section(content, "text_cfg"), _section(content, "vision_cfg")
    width, text_width = vision.get("width", 768), text.get("width", 512)
    return {
        "image_size": vision.get("image_size", 224),
        "patch_size": vision.get("patch_size", 16),
        "vision_width": width,
        "vision_depth": vision.get("layers", 12),
        "vision_heads": _quotient(width, vision.get("head_width", 64)),
        "vision_mlp": _hidden(width, vision),
        "text_width": text_width,
        "text_depth": text.get("layers", 12),
        "text_heads": text.get("heads", 8),
        "text_mlp": _hidden(text_width, text),
        "vocab_size": text.get("vocab_size", 49408),
        "max_length": text.get("context_length", 77),
        "proj_dim": content.get("embed_dim", 512),
        "activation": "quick_gelu" if content.get("quick_gelu") else "gelu",
    }


def _section(content: dict[str, Any], key: str) -> dict[str, Any]:
    section = content.get(key) or {}
    if not isinstance(section, dict):
        raise TypeError(f"{key} must be a JSON object, got {section!r:.80}")
    return section


def _quotient(width: Any, head_width: Any) -> Any:
    if not isinstance(width, int) or not isinstance(head_width, int) or head_width < 1:
        raise TypeError(f"width and head_width must be whole numbers, got {width!r:.80} and {head_width!r:.80}")
    return width // head_width


def _hidden(width: Any, section: dict[str, Any]) -> int:
    ratio = section.get("mlp_ratio", 4.0)
    if not isinstance(width, int) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 64:
        raise TypeError(f"width and mlp_ratio must be numbers, got {width!r:.80} and {ratio!r:.80}")
    return int(width * ratio)

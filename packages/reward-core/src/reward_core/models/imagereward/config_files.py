"""Read the sizes of CycleReward from its authors' files: config.json and med_config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...network.config import RewardConfig, text_config_from_med_config

# Keys of config.json's "vit", which are timm's arguments, and the fields with their values.
_VIT = {
    "patch_size": "patch_size",
    "embed_dim": "vision_width",
    "depth": "vision_depth",
    "num_heads": "vision_heads",
}


def cyclereward_config(content: dict[str, Any], source: str, published: RewardConfig) -> RewardConfig:
    """Return the configuration for sizes of a ViT and of the head.

    Args:
        content: JSON content with "vit" (timm's arguments or "large"), "mlp_dim", "image_size" and
            "max_length", each of which may be missing.
        source: path of the file in errors.
        published: configuration for everything else.

    Raises:
        CheckpointError: a value of the wrong type or out of range.
    """
    vit = {} if content["vit"] == "large" else content["vit"]
    if not isinstance(vit, dict):
        raise CheckpointError(
            f"Cannot load '{source}': vit must be a JSON object or 'large', got {vit!r:.80}."
        )
    values = {k: v for k, v in content.items() if k in ("image_size", "max_length")}
    values |= {field: vit[key] for key, field in _VIT.items() if key in vit}
    width = content.get("mlp_dim", published.reward_mlp[0])
    known = published.to_dict()
    text = {**known["med_config"], "hidden_size": width}
    text["encoder_width"] = values.get("vision_width", published.vision_width)
    heads = {"reward_mlp": [width, *published.reward_mlp[1:]]}
    return RewardConfig.from_dict({**known, **values, **heads, "med_config": text}, source)


def with_med_config(config: RewardConfig, path: Path) -> RewardConfig:
    """Return a configuration with the text encoder of a med_config.json.

    As in the authors' code, the width of the image tokens is that of the vision encoder.

    Raises:
        CheckpointError: a setting that is not implemented, or sizes that do not fit together.
    """
    text = replace(text_config_from_med_config(path), encoder_width=config.vision_width)
    config = replace(config, text=text)
    try:
        config.check()
    except ValueError as error:
        raise CheckpointError(f"Cannot use '{path}': {error}.") from error
    return config

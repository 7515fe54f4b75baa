"""Read the sizes of SigLIP's vision tower from transformers' config.json."""

from __future__ import annotations

from typing import Any

from ...errors import CheckpointError
from .config import SiglipConfig

_KEYS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "vision_width",
    "num_hidden_layers": "vision_depth",
    "num_attention_heads": "vision_heads",
    "intermediate_size": "vision_mlp",
    "layer_norm_eps": "layer_norm_eps",
}
# transformers leaves out values that equal these defaults of its SiglipVisionConfig.
_DEFAULTS = {
    "image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip


def read_siglip_config(content: Any, source: str, published: SiglipConfig | None) -> SiglipConfig:
    """Return the configuration of a scorer on SigLIP.

    Args:
        content: JSON content of this package's config.json, or of transformers' for SigLIP or its vision
            tower.
        source: path of the file in errors.
        published: the scorer's configuration, for everything that is not a size of SigLIP.

    Raises:
        CheckpointError: a value is invalid, or transformers' file is used without a scorer's name.
    """
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in ("siglip", "siglip_vision_model"):
        return SiglipConfig.from_dict(content, source)
    if published is None:
        raise CheckpointError(
            f"Cannot load '{source}': it has the sizes of a SigLIP model, but does not say which score to "
            'compute. Name the scorer, as in load("Aesthetic-v2.5", files=FOLDER).'
        )
    vision = content.get("vision_config") if kind == "siglip" else content
    if not isinstance(vision, dict):
        raise CheckpointError(f"Cannot load '{source}': vision_config must be an object, got {vision!r:.80}.")
    vision = {**_DEFAULTS, **vision}
    if vision["hidden_act"] != _DEFAULTS["hidden_act"]:
        raise CheckpointError(
            f"Cannot load '{source}': hidden_act={vision['hidden_act']!r:.80} is not implemented. "
            f"Use {_DEFAULTS['hidden_act']!r}."
        )
    sizes = {field: vision[key] for key, field in _KEYS.items()}
    return SiglipConfig.from_values({**sizes, "head": published.head}, source)

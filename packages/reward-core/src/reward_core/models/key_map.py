"""Names of weights: from checkpoints of other software to this package's keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

# Parts of BLIP's pre-training checkpoint other than the two encoders and projections.
_BLIP_PRETRAINING = (
    "visual_encoder_m.",
    "text_encoder_m.",
    "vision_proj_m.",
    "text_proj_m.",
    "text_decoder.",
    "itm_head.",
    "image_queue",
    "text_queue",
    "queue_ptr",
    "ptr_queue",
    "idx_queue",
    "temp",
)
_WRAPPERS = ("model", "state_dict", "module")


def rename_keys(content: Any, source: str) -> dict[str, Tensor]:
    """Return the tensors of a loaded checkpoint under this package's keys.

    Unwraps {"model": ...}, strips the "module." of distributed training, puts BLIP's encoders under "blip."
    and drops the parts that only BLIP's pre-training needs. Other keys stay, for the strict load to check.

    Args:
        content: result of ``torch.load``.
        source: name of the checkpoint in error messages.

    Raises:
        CheckpointError: the content is not a state dict, or is empty.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"Cannot load '{source}': expected a dictionary of tensors, got {type(content).__name__}."
        )
    if not content:
        raise CheckpointError(f"Cannot load '{source}': it contains no weights.")
    if others := [key for key, value in content.items() if not isinstance(value, torch.Tensor)]:
        raise CheckpointError(
            f"Cannot load '{source}': it is not a state dict, these entries are not tensors: {others[:5]}."
        )
    if all(key.startswith("module.") for key in content):
        content = {key[len("module.") :]: value for key, value in content.items()}
    if any(key.startswith("visual_encoder.") for key in content):
        content = {f"blip.{key}": v for key, v in content.items() if not key.startswith(_BLIP_PRETRAINING)}
    # A constant buffer of old BERT and CLIP versions.
    return {key: value for key, value in content.items() if not key.endswith("embeddings.position_ids")}


def guess_kind(keys: set[str]) -> str:
    """Return a sentence on what a mismatched checkpoint may be, or "" if unknown."""
    signs = {
        "text_model.embeddings.token_embedding.weight": "a CLIP model (transformers)",
        "token_embedding.weight": "a CLIP model (open_clip or OpenAI)",
        "positional_embedding": "a CLIP model (open_clip or OpenAI)",
        "conv_in.weight": "a diffusion UNet",
        "layers.0.weight": "an Aesthetic predictor's head",
        "mlp.layers.0.weight": "a reward model of other sizes: put its config.json into the same folder",
        "blip.visual_encoder.cls_token": "BLIP without a reward head",
    }
    return next((f"This looks like {what}." for key, what in signs.items() if key in keys), "")

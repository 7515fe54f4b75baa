"""Freeze the parameters that a run does not train."""

from __future__ import annotations

from torch import nn

from ..models.imagereward.reward_model import RewardModel
from .config import TrainingConfig

_UPPER = ("blocks.", "norm.", "tower.blocks.", "tower.norm.", "encoder.layer.")


def frozen_layers(depth: int, share: float) -> int:
    """Return the number of frozen layers of an encoder: for a share of 0.7, 16 of 24 and 8 of 12."""
    return int(depth * share + 1e-9)


def embeddings(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the parameters before an encoder's layers: all embeddings, under any name."""
    return [parameter for name, parameter in encoder.named_parameters() if not name.startswith(_UPPER)]


def freeze(model: RewardModel, settings: TrainingConfig) -> None:
    """Set requires_grad of every parameter of a model, in place.

    A frozen share above 0 freezes an encoder's embeddings too; 1 freezes the whole encoder. Both
    projections, which rewards do not use, are always frozen; the head is always trained. Gradients still
    flow through frozen text layers to trained vision blocks.
    """
    model.requires_grad_(True)
    vision, text = model.blip.visual_encoder, model.blip.text_encoder
    _freeze_encoder(vision, list(vision.blocks), settings.frozen_share("vision"))
    _freeze_encoder(text, list(text.encoder.layer), settings.frozen_share("text"))
    model.blip.vision_proj.requires_grad_(False)
    model.blip.text_proj.requires_grad_(False)


def _freeze_encoder(encoder: nn.Module, layers: list[nn.Module], share: float) -> None:
    if share == 0:
        return
    if share == 1:
        encoder.requires_grad_(False)
        return
    for parameter in embeddings(encoder):
        parameter.requires_grad_(False)
    for layer in layers[: frozen_layers(len(layers), share)]:
        layer.requires_grad_(False)

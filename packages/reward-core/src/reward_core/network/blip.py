"""BLIP: a vision encoder, a text encoder that attends to images, and projections.

Shapes: B texts, S image side, N image tokens, E image width, L text tokens, D text width, M images (B, or a
divisor of B).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .encoder_sizes import TextConfig, VisionConfig
from .text_encoder import KeysValues, TextEncoder
from .vision_encoder import VisionEncoder

if TYPE_CHECKING:
    from .timm_vision import TimmVision


class Blip(nn.Module):
    """Vision encoder and text encoder with BLIP's parameter names.

    Only the BLIP score (models/blip) uses ``vision_proj`` and ``text_proj``. Reward models have them because
    published checkpoints contain them and loading is strict.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig, proj_dim: int):
        super().__init__()
        self.visual_encoder = build_vision_encoder(vision)
        self.text_encoder = TextEncoder(text)
        self.vision_proj = nn.Linear(vision.width, proj_dim)
        self.text_proj = nn.Linear(text.hidden_size, proj_dim)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return image tokens (M, N, E) of normalized pixels (M, 3, S, S)."""
        return self.visual_encoder(pixels)

    def project_kv(self, image_tokens: Tensor) -> list[KeysValues]:
        """Return keys and values (M, N, D) of image tokens (M, N, E) per text layer."""
        return self.text_encoder.project_kv(image_tokens)

    def fuse(
        self, cross_attention_kv: Sequence[KeysValues], token_ids: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the feature (B, D) of texts (B, L) that attend to images.

        The arguments are those of `TextEncoder.forward`. As in the original ImageReward, the first token is
        [CLS] and not BLIP's [ENC].
        """
        return self.text_encoder(token_ids, mask, cross_attention_kv, queries=1)[:, 0]

    def encode_text(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return the feature (B, D) of texts (B, L), without cross-attention."""
        return self.text_encoder(token_ids, mask, queries=1)[:, 0]


def build_vision_encoder(config: VisionConfig) -> VisionEncoder | TimmVision:
    """Return BLIP's ViT, or the timm model named in the configuration."""
    if not config.timm:
        return VisionEncoder(config)
    from .timm_vision import TimmVision

    return TimmVision(config)

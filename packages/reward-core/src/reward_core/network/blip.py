"""The parts of BLIP that rewards are made of: two encoders and the two projections of its cosine.

Letters in shape comments: B batch, S image side, N image tokens, E image width, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .text_encoder import KeysValues, TextConfig, TextEncoder
from .vision_encoder import VisionConfig, VisionEncoder


class Blip(nn.Module):
    """Vision and text encoder under BLIP's own parameter names.

    ``vision_proj`` and ``text_proj`` serve the BLIP cosine alone (models/blip/scorer.py); reward
    checkpoints store them too, so they belong to the strict set of keys.
    """

    def __init__(self, vision: VisionConfig, text: TextConfig, proj_dim: int):
        super().__init__()
        if vision.timm:
            from .timm_vision import TimmVision

            self.visual_encoder: VisionEncoder | TimmVision = TimmVision(vision)
        else:
            self.visual_encoder = VisionEncoder(vision)
        self.text_encoder = TextEncoder(text)
        self.vision_proj = nn.Linear(vision.width, proj_dim)
        self.text_proj = nn.Linear(text.hidden_size, proj_dim)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> image tokens (B, N, E)."""
        return self.visual_encoder(pixels)

    def project_kv(self, image_tokens: Tensor) -> list[KeysValues]:
        """Image tokens (B, N, E) -> what the text encoder reads of them, the same for every prompt."""
        return self.text_encoder.project_kv(image_tokens)

    def fuse(
        self, cross_attention_kv: Sequence[KeysValues] | Tensor, token_ids: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Remembered images and token ids (B, L) -> feature (B, D): the text, read beside the image.

        The feature is the one at [CLS]: ImageReward never swaps it for BLIP's [ENC].
        """
        return self.text_encoder(token_ids, mask, cross_attention_kv, queries=1)[:, 0]

    def encode_text(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Token ids (B, L) -> feature (B, D) of the text alone."""
        return self.text_encoder(token_ids, mask, queries=1)[:, 0]

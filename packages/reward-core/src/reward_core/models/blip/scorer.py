"""The BLIP baseline: cosine of separate image and text embeddings.

Shapes: B batch, S image side, L text tokens, P width of the projections.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...inputs.image_transform import ImageTransform
from ...inputs.tokenizer import PromptTokenizer
from ...network.blip import Blip
from ...network.config import BlipConfig
from ...network.layers import project
from ..pretrained import Pretrained
from ..two_towers import TwoTowers
from .published import BLIP_MODELS


class BlipScorer(Pretrained, TwoTowers):
    """The BLIP score: cosine, in [-1, 1], of projected image and text embeddings.

    The embeddings are the image's class token and the text's [CLS] token. The text encoder runs without
    cross-attention. Source: ImageReward's BLIP baseline.
    """

    config_class = BlipConfig
    published = BLIP_MODELS

    def __init__(self, config: BlipConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = ImageTransform(config.image_size, config.pixel_mean, config.pixel_std)
        self.blip = Blip(config.vision, config.text, config.proj_dim)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return unit vectors (B, P) of normalized pixels (B, 3, S, S)."""
        return F.normalize(
            project(self.blip.vision_proj, self.blip.encode_images(pixels)[:, 0]).float(), dim=-1
        )

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return unit vectors (B, P) of token ids (B, L) and mask (B, L)."""
        return F.normalize(
            project(self.blip.text_proj, self.blip.encode_text(token_ids, mask)).float(), dim=-1
        )

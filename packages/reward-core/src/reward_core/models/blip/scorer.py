"""The BLIP baseline: cosine between an image's and a prompt's embedding, each encoded alone.

Letters in shape comments: B batch, S image side, L text tokens, P width of the projections.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ...inputs.image_transform import ImageTransform
from ...inputs.tokenizer import PromptTokenizer
from ...network.attention import project
from ...network.blip import Blip
from ...network.config import BlipConfig
from ..two_towers import TwoTowers


class BlipScorer(TwoTowers):
    """Cosine in [-1, 1] of BLIP's projected class token and projected [CLS] of the text.

    The text encoder runs without its cross-attention. Source: ImageReward's BLIP baseline.
    """

    config_class = BlipConfig

    def __init__(self, config: BlipConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = ImageTransform(config.image_size, config.pixel_mean, config.pixel_std)
        self.blip = Blip(config.vision, config.text, config.proj_dim)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> unit vectors (B, P)."""
        return F.normalize(
            project(self.blip.vision_proj, self.blip.encode_images(pixels)[:, 0]).float(), dim=-1
        )

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Token ids (B, L), mask (B, L) -> unit vectors (B, P)."""
        return F.normalize(
            project(self.blip.text_proj, self.blip.encode_text(token_ids, mask)).float(), dim=-1
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json, model.safetensors and the tokenizer; the folder loads with no network."""
        from ..checkpoint import save_folder

        save_folder(self, Path(folder))

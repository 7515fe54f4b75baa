"""Aesthetic predictor v2.5: an affine head on SigLIP's image features.

Shapes: B images, K prompts of each, S image side, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...inputs.ignored_prompts import IgnoredPrompts
from ...inputs.image_transform import ImageTransform
from ...inputs.square_image import SquareImage
from ...network.reward_head import RewardHead
from ...scoring.precision import convert_matrices
from ..checkpoint import read_state_dict
from ..load_options import LoadOptions
from ..model_files import ModelFiles
from ..pretrained import Pretrained
from .config import SiglipConfig
from .config_files import read_siglip_config
from .key_map import to_siglip_keys
from .network import SiglipVision
from .published import SIGLIP_MODELS

_DROPOUT = (0.5, 0.5, 0.5, 0.2)


class StretchedTransform(ImageTransform):
    """Image transform of SigLIP: resize any image to exactly S x S pixels."""

    def __init__(self, size: int):
        super().__init__(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.square = SquareImage(size, rgb_first=True, stretch=True)


class SiglipScorer(Pretrained):
    """Aesthetic predictor v2.5: how good an image looks, from 1 to 10; 5.5 and more is great.

    The prompt is ignored. The head has five linear layers and no activation, so it is one affine map of the
    image's unit vector. Source: discus0434's Aesthetic Predictor V2.5, on SigLIP so400m (arXiv 2303.15343).
    """

    config_class = SiglipConfig
    published = SIGLIP_MODELS

    def __init__(self, config: SiglipConfig, tokenizer: IgnoredPrompts):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = StretchedTransform(config.image_size)
        self.vision_model = SiglipVision(config)
        self.head = RewardHead((config.vision_width, *config.head), _DROPOUT)

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the matrices of the tower; the head stays in float32."""
        convert_matrices(self.vision_model, dtype)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return unit vectors (B, D) of normalized pixels (B, 3, S, S)."""
        return F.normalize(self.vision_model(pixels).float(), dim=-1)

    def rewards_from_kv(self, image_vectors: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return scores (B K,) of unit vectors (B, D) with K texts each."""
        return self.head(image_vectors).repeat_interleave(len(token_ids) // len(image_vectors))

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: SiglipConfig, options: LoadOptions) -> IgnoredPrompts:
        return IgnoredPrompts()

    @staticmethod
    def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return to_siglip_keys(state)

    @classmethod
    def read_weights(cls, files: ModelFiles) -> dict[str, Tensor]:
        """Return the weights of the tower and of the head."""
        state = super().read_weights(files)
        if "head" in files.parts:
            state |= cls.rename_weights(read_state_dict(files.parts["head"]))
        return state

    @classmethod
    def config_from_file(cls, content: Any, source: str, published: SiglipConfig | None) -> SiglipConfig:
        return read_siglip_config(content, source, published)

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the tower, without the head."""
        return self.vision_model.parameters()

"""Scorers based on CLIP: its cosine, PickScore, HPSv2.1 and Aesthetic.

The encoders are a CLIPModel of transformers. Shapes: B batch, S image side, L text tokens, P width of the
projections.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...inputs.image_transform import ImageTransform
from ...inputs.tokenizer import PromptTokenizer
from ...network.reward_head import RewardHead
from ...scoring.precision import convert_all_but_scale, convert_matrices
from ..checkpoint import read_state_dict
from ..load_options import LoadOptions
from ..model_files import ModelFiles
from ..pretrained import Pretrained
from ..two_towers import TwoTowers
from .config import ClipConfig
from .config_files import read_clip_config
from .key_map import to_clip_keys
from .published import CLIP_MODELS, CLIP_TOKENIZER
from .tokenizer import ClipTokenizer
from .transform import MEAN, STD, PaddedTransform, RgbFirstTransform


class ClipScorer(Pretrained, TwoTowers):
    """Cosine of CLIP's image and text vectors, or a head's value of the image.

    Prompts are cut at 77 tokens, as in the original. Sources: CLIP (arXiv 2103.00020), PickScore
    (arXiv 2305.01569), HPSv2 (arXiv 2306.09341), LAION's improved aesthetic predictor.
    """

    config_class = ClipConfig
    published = CLIP_MODELS
    tokenizer_class = ClipTokenizer
    vocabulary = CLIP_TOKENIZER
    settings = ("antialias",)

    def __init__(self, config: ClipConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = _transform(config)
        self.clip = config.build()
        if config.head:
            self.head = RewardHead((config.proj_dim, *config.head), (0.2, 0.2, 0.1))

    @staticmethod
    def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return to_clip_keys(state)

    @classmethod
    def read_weights(cls, files: ModelFiles) -> dict[str, Tensor]:
        """Return the weights of CLIP and of the head, if there is one."""
        state = super().read_weights(files)
        if "head" in files.parts:
            state |= {f"head.{key}": value for key, value in read_state_dict(files.parts["head"]).items()}
        return state

    @classmethod
    def config_from_file(cls, content: Any, source: str, published: ClipConfig | None) -> ClipConfig:
        return read_clip_config(cls.config_class, content, source, published)

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: ClipConfig, options: LoadOptions) -> ClipTokenizer:
        fast = super().find_tokenizer(files, config, options).fast_tokenizer
        return ClipTokenizer(fast, config.max_length, config.text_cleaning)

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the encoders; the unit vectors, the cosine and the head stay in float32."""
        convert_all_but_scale(self.clip, dtype)

    def convert_for_autocast(self, dtype: torch.dtype) -> None:
        convert_matrices(self.clip, dtype)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return unit vectors (B, P) of normalized pixels (B, 3, S, S)."""
        pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return unit vectors (B, P) of token ids (B, L) and mask (B, L).

        They are read at the first end token, which has the highest id. Attention is causal, so padding has no
        effect.
        """
        hidden = self.clip.text_model(input_ids=token_ids).last_hidden_state  # (B, L, text width)
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), token_ids.argmax(1)]
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return scores of unit vectors, which are broadcast. A head ignores the texts."""
        if self.config.head:
            value = self.head(images)
            return value.expand(torch.broadcast_shapes(value.shape, texts.shape[:-1]))
        cosine = (images * texts).sum(-1)
        return cosine * self.clip.logit_scale.float().exp() if self.config.scaled else cosine

    def _signature(self) -> str:
        # A head reads the features of its CLIP, so both can share cached features.
        sizes = {k: v for k, v in self.config.to_dict().items() if k != "head"}
        return f"{type(self).__name__} {sizes} {self._weights_fingerprint()}"

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of CLIP, without a head."""
        return self.clip.parameters()


def _transform(config: ClipConfig) -> ImageTransform:
    """Return the image transform of a scorer."""
    if config.fit == "pad":
        return PaddedTransform(config.image_size, MEAN, STD, config.antialias)
    kind = RgbFirstTransform if config.scaled else ImageTransform
    return kind(config.image_size, MEAN, STD)

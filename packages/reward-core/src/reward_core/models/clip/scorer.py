"""Scorers based on CLIP: its cosine, PickScore, HPSv2.1 and Aesthetic.

The encoders are a CLIPModel of transformers. Shapes: B batch, S image side, L text tokens, P width of the
projections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...inputs.image_transform import ImageTransform
from ...inputs.square_image import SquareImage
from ...inputs.tokenizer import PromptTokenizer
from ...inputs.tokenizer_file import read_tokenizer
from ...network.reward_head import RewardHead
from ..checkpoint import read_state_dict
from ..model_files import ModelFiles
from ..pretrained import Pretrained
from ..two_towers import TwoTowers
from .config import ClipConfig
from .config_files import read_clip_config
from .key_map import to_clip_keys
from .published import CLIP_MODELS, CLIP_TOKENIZER

ENDS = ("<|startoftext|>", "<|endoftext|>")  # around every prompt
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class PaddedTransform(ImageTransform):
    """Image transform of HPSv2: resize the longer side to S and pad with black.

    PIL images and tensors are resized by the same code (antialiased bicubic).
    """

    def prepare(self, image: Image.Image) -> Tensor:
        """Return the padded pixels (3, S, S) float32 in [0, 1] of a PIL image, on the CPU."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        return self._fit(pixels)[0]

    def prepare_for_device(self, image: Image.Image) -> Tensor:
        """Return the padded pixels, as ``prepare`` does: no GPU resizes like this."""
        return self.prepare(image)

    def finish(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of B stacked results of ``prepare``, on their device."""
        return self._normalized(images)

    def _normalized(self, pixels: Tensor) -> Tensor:
        mean, std = self._constants(pixels.device)
        return (pixels - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        """Return normalized pixels (B, 3, S, S) of float images, differentiably.

        Images are (B, 3, H, W) in [0, 1].
        """
        return self._normalized(self._fit(images.float()))

    def _fit(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [0, 1] resized and padded to (B, 3, S, S)."""
        height, width = images.shape[-2:]
        scale = self.size / max(height, width)
        new = (max(1, round(height * scale)), max(1, round(width * scale)))
        if new != (height, width):
            images = F.interpolate(images, new, mode="bicubic", antialias=True, align_corners=False)
        down, across = self.size - new[0], self.size - new[1]
        padding = (across // 2, across - across // 2, down // 2, down - down // 2)
        return F.pad(images, padding)


class RgbFirstTransform(ImageTransform):
    """Image transform of PickScore (the CLIP processor of transformers).

    It converts to RGB before resizing and rounds the crop's left and top down.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__(size, mean, std)
        self.square = SquareImage(size, rgb_first=True)


class ClipTokenizer(PromptTokenizer):
    """CLIP's byte-pair tokenizer, read from a tokenizer.json."""

    @classmethod
    def from_file(cls, path: Path, max_length: int = 77) -> ClipTokenizer:
        return cls(read_tokenizer(path, "BPE", ENDS), max_length)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        self.fast_tokenizer.save(str(folder / "tokenizer.json"))


class ClipScorer(Pretrained, TwoTowers):
    """Cosine of CLIP's image and text vectors, or a head's value of the image.

    Prompts are cut at 77 tokens, as in the original. Sources: CLIP (arXiv 2103.00020), PickScore
    (arXiv 2305.01569), HPSv2 (arXiv 2306.09341), LAION's improved aesthetic predictor.
    """

    config_class = ClipConfig
    published = CLIP_MODELS
    tokenizer_class = ClipTokenizer
    vocabulary = CLIP_TOKENIZER

    def __init__(self, config: ClipConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        kind = (
            PaddedTransform if config.fit == "pad" else RgbFirstTransform if config.scaled else ImageTransform
        )
        self.transform = kind(config.image_size, MEAN, STD)
        self.clip = config.build()
        for part in (self.clip.vision_model.embeddings, self.clip.text_model.embeddings):
            # Constants stay on the CPU while a model is built on "meta".
            positions = torch.arange(part.position_ids.shape[-1], device="cpu")[None]
            part.register_buffer("position_ids", positions, persistent=False)
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
        return read_clip_config(content, source, published)

    def set_encoder_dtype(self, dtype: torch.dtype) -> None:
        """Convert the encoders; the unit vectors, the cosine and the head stay in float32."""
        self.clip.to(dtype)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return unit vectors (B, P) of normalized pixels (B, 3, S, S)."""
        pooled = self.clip.vision_model(pixel_values=pixels.to(self.clip.dtype)).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return unit vectors (B, P) of token ids (B, L) and mask (B, L).

        They are read at the last token of each prompt. Attention is causal, so padding has no effect.
        """
        hidden = self.clip.text_model(input_ids=token_ids).last_hidden_state  # (B, L, text width)
        if mask is None:
            pooled = hidden[:, -1]
        else:
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
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

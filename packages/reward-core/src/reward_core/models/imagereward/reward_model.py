"""ImageReward: a reward head on BLIP's joint encoding of image and prompt.

Shapes: B texts, M images (B, or a divisor of B), S image side, N image tokens, E image width, L text tokens,
D text width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...inputs.image_transform import ImageTransform
from ...inputs.tokenizer import PromptTokenizer
from ...network.blip import Blip
from ...network.config import RewardConfig
from ...network.reward_head import RewardHead
from ...network.score_quantiles import ScoreQuantiles
from ...network.vision_encoder import VisionEncoder
from ...scoring.precision import check_int8
from ..model_files import ModelFiles
from ..pretrained import Pretrained
from .config_files import cyclereward_config, with_med_config
from .fast_path import RewardFastPath
from .published import CYCLE_MODELS, REWARD_MODELS

if TYPE_CHECKING:
    from ...network.text_encoder import KeysValues


class RewardModel(Pretrained):
    """The reward model of ImageReward (arXiv 2304.05977) or CycleReward (arXiv 2506.02095), in any size.

    Calling the model computes rewards (B,) of normalized pixels (B, 3, S, S), token ids (B, L) and mask
    (B, L). ``score``, ``inference_rank``, ``score_pairs`` and ``score_matrix`` take prompts and images.

    Args:
        config: sizes and constants.
        tokenizer: tokenizer that the weights were trained with.
    """

    config_class = RewardConfig
    published = REWARD_MODELS | CYCLE_MODELS
    can_be_recorded = True

    def __init__(self, config: RewardConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = ImageTransform(config.image_size, config.pixel_mean, config.pixel_std)
        self.blip = Blip(config.vision, config.text, config.proj_dim)
        self.mlp = RewardHead(config.reward_mlp, config.head_dropout, config.head_activation)

    @classmethod
    def read_config(cls, files: ModelFiles) -> RewardConfig:
        """Return the configuration; files of CycleReward's authors may replace its sizes."""
        config: RewardConfig = super().read_config(files)
        path = files.parts.get("text_config")
        return config if path is None else with_med_config(config, path)

    @classmethod
    def config_from_file(cls, content: Any, source: str, published: RewardConfig | None) -> RewardConfig:
        if published is not None and isinstance(content, dict) and "vit" in content:
            return cyclereward_config(content, source, published)
        return RewardConfig.from_dict(content, source)

    @classmethod
    def default_config(cls) -> RewardConfig:
        """Return the configuration of the original's checkpoint."""
        return RewardConfig.imagereward_v1()

    def convert_for_autocast(self, dtype: torch.dtype) -> None:
        self.set_encoder_dtype(dtype)  # matrices only

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return image tokens (M, N, E) of normalized pixels (M, 3, S, S)."""
        return self.blip.encode_images(pixels)

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the vision encoder."""
        return self.blip.visual_encoder.parameters()

    @property
    def feature_dtype(self) -> torch.dtype:
        """Dtype in which the cross-attention layers read image tokens."""
        return self.blip.text_encoder.encoder.layer[0].crossattention.self["key"].weight.dtype

    def project_kv(self, features: Tensor) -> list[KeysValues]:
        """Return keys and values (M, N, D) of image tokens (M, N, E) per text layer."""
        return self.blip.project_kv(features)

    def rewards_from_kv(
        self, cross_attention_kv: list[KeysValues], token_ids: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return rewards (B,) in float32 from keys and values of M images.

        Token ids and mask are (B, L). The first B / M texts belong to image 0, the next B / M to image 1.
        """
        raw = self.mlp(self.blip.fuse(cross_attention_kv, token_ids, mask))  # (B,)
        return (raw - self.config.reward_mean) / self.config.reward_std

    def use_int8(self) -> None:
        if type(self.blip.visual_encoder) is not VisionEncoder:  # timm's encoders
            super().use_int8()
        check_int8(self.device)
        self.int8 = True

    def fast_path(self) -> RewardFastPath:
        return RewardFastPath(self)

    def score_gard(self, prompt_ids: Tensor, prompt_attention_mask: Tensor, image: Tensor) -> Tensor:
        """Return rewards (B, 1) of tokens (B, L) and normalized pixels (B, 3, S, S).

        This is the original's differentiable method.
        """
        return self(image, prompt_ids, prompt_attention_mask).unsqueeze(-1)

    @property
    def score_quantiles(self) -> ScoreQuantiles | None:
        """Quantiles of reference scores; for ImageReward-v1.0 they are approximated by N(0, 1)."""
        return self.config.score_quantiles

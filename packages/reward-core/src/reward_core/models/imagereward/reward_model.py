"""ImageReward: BLIP reads prompt and image together, a head turns the feature into a reward.

Letters in shape comments: B batch, S image side, N image tokens, E image width, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...inputs.image_transform import ImageTransform
from ...inputs.tokenizer import PromptTokenizer
from ...network.blip import Blip
from ...network.config import RewardConfig
from ...network.reward_head import RewardHead
from ..pretrained import Pretrained
from .fast_path import RewardFastPath
from .published import BUNDLED_MODELS, REWARD_MODELS

if TYPE_CHECKING:
    from ...network.text_encoder import KeysValues


class RewardModel(Pretrained):
    """The reward model of ImageReward (arXiv 2304.05977), any size.

    Calling it takes normalized pixels (B, 3, S, S), token ids (B, L) and mask (B, L) to rewards
    (B,); ``score``, ``inference_rank``, ``score_pairs`` and ``score_matrix`` take prompts and images.

    Args:
        config: sizes and constants.
        tokenizer: turns prompts into the ids that the weights were trained on.
    """

    config_class = RewardConfig
    published = REWARD_MODELS
    bundled = BUNDLED_MODELS

    def __init__(self, config: RewardConfig, tokenizer: PromptTokenizer):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.transform = ImageTransform(config.image_size, config.pixel_mean, config.pixel_std)
        self.blip = Blip(config.vision, config.text, config.proj_dim)
        self.mlp = RewardHead(config.reward_mlp, config.head_dropout)

    @classmethod
    def default_config(cls) -> RewardConfig:
        """Return the configuration of the original's checkpoint."""
        return RewardConfig.imagereward_v1()

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> image tokens (B, N, E)."""
        return self.blip.encode_images(pixels)

    def feature_parameters(self) -> Iterable[nn.Parameter]:
        """Those of the vision encoder."""
        return self.blip.visual_encoder.parameters()

    def project_kv(self, features: Tensor) -> list[KeysValues]:
        """Image tokens (B, N, E) -> keys and values (B, N, D) for each layer of the text encoder."""
        return self.blip.project_kv(features)

    def rewards_from_kv(
        self, cross_attention_kv: list[KeysValues], token_ids: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Remembered images, token ids (B, L), mask (B, L) -> rewards (B,) float32.

        Of fewer images than texts, each is read by as many texts in a row.
        """
        raw = self.mlp(self.blip.fuse(cross_attention_kv, token_ids, mask))  # (B,)
        return (raw - self.config.reward_mean) / self.config.reward_std

    def fast_path(self) -> RewardFastPath:
        return RewardFastPath(self)

    def score_gard(self, prompt_ids: Tensor, prompt_attention_mask: Tensor, image: Tensor) -> Tensor:
        """The original's differentiable method: ids (B, L), mask (B, L), normalized pixels -> (B, 1)."""
        return self(image, prompt_ids, prompt_attention_mask).unsqueeze(-1)

    def percentile(self, score: float) -> float | None:
        """Percent of reference scores below ``score``, or None where no quantiles are known.

        ``config.score_quantiles.source`` says what the reference is; for ImageReward-v1.0 it is an
        approximation by N(0, 1).
        """
        quantiles = self.config.score_quantiles
        return None if quantiles is None else quantiles.percentile(score)

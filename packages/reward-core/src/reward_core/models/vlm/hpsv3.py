"""HPSv3: Qwen2-VL-7B with a head that estimates human preference and how unsure it is."""

from __future__ import annotations

from torch import Tensor

from .config import VlmConfig
from .heads import RankHead
from .instructions import HPSV3_TEXT
from .prompts import VlmTokenizer
from .scorer import VlmScorer


class HPSv3Scorer(VlmScorer):
    """The score mu of HPSv3. ``score_details`` also returns sigma.

    All tokens are numbered one after the other, because the published weights were trained and evaluated so:
    the authors' class passes no positions to the text model of transformers 4.45. Source: HPSv3
    (arXiv 2508.03789) and the package hpsv3 1.0.0.
    """

    model_type = "qwen2_vl"
    text = HPSV3_TEXT
    grid_positions = False

    def __init__(self, config: VlmConfig, tokenizer: VlmTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.head = RankHead(config.width)

    def values(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return mu and the logarithm of sigma (B, 2) of B pairs."""
        values: Tensor = self.head(self.reward_states(features, token_ids, mask))
        return values

"""HPSv3++: Qwen3-VL-8B with a head that is conditioned on the generator's capability."""

from __future__ import annotations

from numbers import Real

from torch import Tensor

from ...errors import InputError
from .config import VlmConfig
from .heads import ConditionedHead
from .instructions import HPSV3_PLUS_PLUS_TEXT
from .prompts import VlmTokenizer
from .scorer import VlmScorer


class HPSv3PlusPlusScorer(VlmScorer):
    """The score mu of HPSv3++.

    The capability is estimated for each pair alone. The authors' batches pool it over the whole batch, so
    that scores depend on batch mates; their published accuracies are from batches of 4. Source: the
    repository PlantPotatoOnMoon/HPSv3-PlusPlus.
    """

    model_type = "qwen3_vl"
    text = HPSV3_PLUS_PLUS_TEXT
    grid_positions = True
    _iter_step = 0.0

    def __init__(self, config: VlmConfig, tokenizer: VlmTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.head = ConditionedHead(config.width, config.condition)

    @property
    def iter_step(self) -> float:
        """Progress of the reinforcement learning that the images are from, 0 to 1.

        0, the default, is for scoring. For rewards the authors recommend 0.3 + 0.7 * progress.
        """
        return self._iter_step

    @iter_step.setter
    def iter_step(self, value: float) -> None:
        if not isinstance(value, Real) or not 0 <= value <= 1:
            raise InputError(f"Cannot use iter_step={value!r:.40}: it must be a number from 0 to 1.")
        self._iter_step = float(value)

    def values(self, features: Tensor, token_ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return mu, the logarithm of sigma and the capability (B, 3) of B pairs."""
        hidden = self.reward_states(features, token_ids, mask)
        values: Tensor = self.head(hidden, hidden.new_full((len(hidden),), self.iter_step))
        return values

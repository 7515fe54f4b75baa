"""Configuration of MPS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...network.field_checks import check_heads
from ..clip.config import ClipSizes

#: The condition of MPS's overall score.
OVERALL_CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, "
    "instance, texture, quantity, attributes, position, number, location, word, things."
)


@dataclass(frozen=True)
class MpsConfig(ClipSizes):
    """Configuration of MPS: sizes of CLIP and of the cross model, and how prompt tokens are selected.

    Attributes:
        cross_depth: layers of the cross model.
        cross_heads, cross_head_width: attention heads of a layer, and their width.
        cross_ff: width of the hidden layer of an MLP.
        condition: text that names what is rated. Prompt tokens that resemble none of its tokens are masked.
        threshold: smallest similarity of a prompt token to the condition, relative to the most similar token.
            0.3 as in the authors' evaluation, which gave the published accuracies; 0.01 as in their example
            and in imscore. The choice changes scores.
    """

    model_type: ClassVar[str] = "mps"

    cross_depth: int = 4
    cross_heads: int = 16
    cross_head_width: int = 64
    cross_ff: int = 4096
    condition: str = OVERALL_CONDITION
    threshold: float = 0.3

    def check(self) -> None:
        super().check()
        check_heads(2, self.cross_head_width)
        if not self.threshold < 1:
            raise ValueError(f"threshold must be below 1, or no token is read, got {self.threshold!r:.80}")

    @property
    def layers(self) -> int:
        return super().layers + self.cross_depth

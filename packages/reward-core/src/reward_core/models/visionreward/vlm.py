"""What a checklist needs from a vision-language model.

Shapes: B images, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from ...inputs.image_transform import ImageTransform


class ChecklistVLM(Protocol):
    """A vision-language model that answers yes/no questions about images. It is a torch module.

    Attributes:
        transform: from images to the pixels that the model reads. All images have one size.
    """

    @property
    def transform(self) -> ImageTransform: ...

    def answers_from_pixels(self, pixels: Tensor, questions: Sequence[str]) -> list[list[bool]]:
        """Return the answers to Q questions for each of B images, given as the transform returns them.

        An image has the same answers alone and in a batch.

        Raises:
            NonFiniteRewardError: the model has no answer, because its outputs are NaN or infinite.
        """
        ...

    def expected_answers(self, images: Tensor, questions: Sequence[str]) -> Tensor:
        """Return expected answers (B, Q), 2 P(yes) - 1, of images (B, 3, H, W) in [0, 1], differentiably."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

"""What a checklist needs from a vision-language model.

Shapes: B images, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...inputs.image_transform import ImageTransform


class ChecklistVLM(Protocol):
    """A vision-language model that answers yes/no questions about prepared images. It is a torch module.

    Attributes:
        transform: from images to the pixels that the model reads. All images have one size.
    """

    transform: ImageTransform

    def answer_pixels(self, pixels: Tensor, questions: Sequence[str]) -> Tensor:
        """Return the answers (B, Q) about B images: 1 for yes, 0 for no, NaN if there is none.

        An image has the same answers alone and in a batch. No gradient is needed.
        """
        ...

    def expected_answers(self, pixels: Tensor, questions: Sequence[str]) -> Tensor:
        """Return the probabilities of yes (B, Q), differentiable with respect to the pixels."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def to(self, device: torch.device) -> Any: ...

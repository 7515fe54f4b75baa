"""A vision-language model for checklists that knows three colors, for tests of checklists."""

import torch
from torch import nn

from reward_core.errors import NonFiniteRewardError
from reward_core.inputs.image_transform import ImageTransform

CHANNELS = {"Is it red?": 0, "Is it green?": 1, "Is it blue?": 2}


class ColorVLM(nn.Module):
    """Answer whether an image has much red, green or blue.

    broken: "gray" if there is no answer about green in images of medium gray.
    """

    def __init__(self):
        super().__init__()
        self.transform = ImageTransform(16, (0, 0, 0), (1, 1, 1))
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.broken = ""

    def answers_from_pixels(self, pixels, questions):
        probabilities = self._probabilities(pixels, questions)
        if not probabilities.isfinite().all():
            raise NonFiniteRewardError("Cannot answer: nan.")
        return (probabilities > 0.5).tolist()

    def expected_answers(self, images, questions):
        return 2 * self._probabilities(self.transform(images), questions) - 1

    def _probabilities(self, pixels, questions):
        levels = pixels.mean((2, 3))  # (B, 3)
        is_gray = (levels - 0.5).abs().amax(1) < 0.01
        chosen = levels[:, [CHANNELS[question] for question in questions]]
        lost = torch.tensor([question == "Is it green?" for question in questions])
        if self.broken:
            chosen = chosen.masked_fill(is_gray[:, None] & lost, float("nan"))
        return torch.sigmoid(self.scale * (chosen - 0.5))

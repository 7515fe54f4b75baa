"""What transformers of flow models share: tokens of 2 x 2 latents, and levels that depend on their number."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ..denoising.noise_schedule import NoiseSchedule, make_schedule
from .base import Family

# Defaults of diffusers' pipelines for a scheduler whose configuration leaves them out.
SHIFT = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}


class FlowTransformer(Family):
    """Base class of the families whose transformer takes 2 x 2 latents as a token.

    Attributes:
        spaces_levels: whether the pipeline spaces the noise levels evenly, from 1 to 1 / steps, before they
            are shifted; if not, the scheduler spaces them.
    """

    part = "transformer"
    samplers = ("flow",)
    spaces_levels: ClassVar[bool] = True

    @property
    def size_multiple(self) -> int:
        return self.scale_factor * 2

    @property
    def default_size(self) -> int:
        return self.pipeline.default_sample_size * self.scale_factor

    def schedule(self, steps: int, sampler: str, height: int, width: int) -> NoiseSchedule:
        options: dict[str, Any] = {}
        if self.spaces_levels:
            options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        if self.pipeline.scheduler.config.get("use_dynamic_shifting"):  # larger images: more noise
            options["mu"] = self.shift(height * width // self.size_multiple**2, steps)
        return make_schedule(self.pipeline.scheduler, steps, sampler or self.samplers[0], **options)

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far noise levels are shifted up, for a number of tokens and of steps."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.pipeline.scheduler.config
        return calculate_shift(tokens, *(config.get(name, default) for name, default in SHIFT.items()))


def pack(latents: Tensor) -> Tensor:
    """Pack latents (B, C, h, w) into tokens of 2 x 2 latents, (B, h * w / 4, 4 * C)."""
    count, channels, rows, columns = latents.shape
    return (
        latents.reshape(count, channels, rows // 2, 2, columns // 2, 2)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(count, rows * columns // 4, channels * 4)
    )


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Unpack tokens (B, rows * columns / 4, 4 * C) into latents (B, C, rows, columns); inverts ``pack``."""
    count, _, width = tokens.shape
    return (
        tokens.reshape(count, rows // 2, columns // 2, width // 4, 2, 2)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(count, width // 4, rows, columns)
    )

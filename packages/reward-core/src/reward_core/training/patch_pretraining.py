"""Pre-training of a vision encoder on images annotated patch by patch, for models made from nothing.

BLIP starts from a vision encoder that was taught on labeled images; so does a model of ours, where
the labels are what each patch shows and how the whole image is damaged.

Letters in shape comments: B batch, N image tokens, S image side, C columns of a patch, W values of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inputs.image_transform import ImageTransform
from ..network.vision_encoder import VisionEncoder


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what is to be read off it.

    image: (S, S, 3) uint8 at the encoder's side; patches: (N - 1, C) float32, column 0 is 1 where a
    thing is and 0 elsewhere, the others count only where it is 1; values: (W,) float32 of the whole.
    """

    image: np.ndarray
    patches: np.ndarray
    values: np.ndarray


class PatchReader(nn.Module):
    """A vision encoder with linear read-outs; train it with ``patch_loss``, keep the encoder.

    Args:
        encoder: the encoder to be taught (it is shared, not copied).
        transform: turns its images into pixels.
        columns: C. values: W.
    """

    def __init__(self, encoder: VisionEncoder, transform: ImageTransform, columns: int, values: int):
        super().__init__()
        self.encoder = encoder
        self.transform = transform
        self.read_patch = nn.Linear(encoder.config.width, columns)
        self.read_image = nn.Linear(encoder.config.width, values)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, 3, S, S) -> patches (B, N - 1, C), column 0 a logit, and values (B, W)."""
        tokens = self.encoder(pixels)  # (B, N, E)
        return self.read_patch(tokens[:, 1:]), self.read_image(tokens[:, 0])


def patch_loss(
    reader: PatchReader,
    batch: Sequence[AnnotatedImage],
    found_weight: float = 3.0,
    value_weight: float = 10.0,
) -> Tensor:
    """What the reader gets wrong, a scalar.

    The cross-entropy of column 0; the absolute differences of the other columns, summed, on average over
    the patches with a thing; and the squared differences of the image's values, summed. (Squared, as
    most are 0: the median of a value that is hard to read is 0 too, and would teach nothing.)
    """
    images, patches, values = (
        torch.from_numpy(np.stack([getattr(item, name) for item in batch]))
        for name in ("image", "patches", "values")
    )
    pixels = reader.transform.from_uint8(images)
    patches, values = patches.to(pixels.device), values.to(pixels.device)  # (B, N - 1, C), (B, W)
    read, read_values = (t.float() for t in reader(pixels))
    there = patches[..., 0]  # (B, N - 1)
    found = F.binary_cross_entropy_with_logits(read[..., 0], there)
    off = (read - patches)[..., 1:].abs().sum(-1)  # (B, N - 1)
    looks = (off * there).sum() / there.sum().clamp(min=1)
    damage = (read_values - values).square().sum(-1).mean()
    return found_weight * found + looks + value_weight * damage

"""Pre-train a vision encoder on images with labels per patch, for models trained from scratch.

BLIP starts from a vision encoder pre-trained on labeled images. So does a model trained from scratch;
its labels are the content of each patch and the damage of the whole image.

Shapes: B batch, N image tokens, S image side, C labels per patch, W labels per image.
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
from ..runs.cuda import upload


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with labels for its patches and for the whole image.

    Attributes:
        image: (S, S, 3) uint8, S being the encoder's image size.
        patches: (N - 1, C) float32. Column 0 is 1 if the patch shows a thing and 0 otherwise; the other
            columns count only in patches where it is 1.
        values: (W,) float32 labels of the whole image.
    """

    image: np.ndarray
    patches: np.ndarray
    values: np.ndarray


class PatchReader(nn.Module):
    """A vision encoder with linear heads, to be trained with ``patch_loss``.

    Args:
        encoder: the encoder to train (shared, not copied).
        transform: the encoder's image transform.
        columns: C, labels per patch.
        values: W, labels per image.
    """

    def __init__(self, encoder: VisionEncoder, transform: ImageTransform, columns: int, values: int):
        super().__init__()
        self.encoder = encoder
        self.transform = transform
        self.read_patch = nn.Linear(encoder.config.width, columns)
        self.read_image = nn.Linear(encoder.config.width, values)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Predict patch labels (B, N - 1, C), column 0 as a logit, and image labels (B, W).

        Args:
            pixels: (B, 3, S, S), normalized.
        """
        tokens = self.encoder(pixels)  # (B, N, E)
        return self.read_patch(tokens[:, 1:]), self.read_image(tokens[:, 0])


def patch_loss(
    reader: PatchReader,
    batch: Sequence[AnnotatedImage],
    found_weight: float = 3.0,
    value_weight: float = 10.0,
) -> Tensor:
    """Return the loss of a ``PatchReader``, a scalar.

    It is a weighted sum of: the cross-entropy of column 0; the L1 error of the other columns, averaged
    over the patches that show a thing; and the squared error of the image labels. Most image labels are
    0, and the L1 error of a label that is hard to predict would be minimal at its median, 0.

    Args:
        reader: the model.
        batch: labeled images.
        found_weight: weight of the cross-entropy.
        value_weight: weight of the image labels.
    """
    device = reader.read_patch.weight.device
    images, patches, values = (  # (B, S, S, 3), (B, N - 1, C), (B, W)
        upload(torch.from_numpy(np.stack([getattr(item, name) for item in batch])), device)
        for name in ("image", "patches", "values")
    )
    pixels = reader.transform.from_uint8(images)
    predicted_patches, predicted_values = (t.float() for t in reader(pixels))
    has_thing = patches[..., 0]  # (B, N - 1)
    presence_loss = F.binary_cross_entropy_with_logits(predicted_patches[..., 0], has_thing)
    errors = (predicted_patches - patches)[..., 1:].abs().sum(-1)  # (B, N - 1)
    label_loss = (errors * has_thing).sum() / has_thing.sum().clamp(min=1)
    value_loss = (predicted_values - values).square().sum(-1).mean()
    return found_weight * presence_loss + label_loss + value_weight * value_loss

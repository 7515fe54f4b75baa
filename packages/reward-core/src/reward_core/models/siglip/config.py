"""Configuration of SigLIP's vision tower and of a head on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...network.field_checks import check_heads, check_patches
from ..json_config import JsonConfig


@dataclass(frozen=True)
class SiglipConfig(JsonConfig):
    """Sizes of SigLIP's vision tower. The defaults are those of Aesthetic predictor v2.5.

    Attributes:
        vision_mlp: width of the hidden layer of an MLP.
        head: layer widths of the head on the image's unit vector.
    """

    model_type: ClassVar[str] = "siglip-aesthetic"
    max_length: ClassVar[int] = 1  # prompts are ignored, see IgnoredPrompts
    vocab_size: ClassVar[int] = 1

    image_size: int = 384
    patch_size: int = 14
    vision_width: int = 1152
    vision_depth: int = 27
    vision_heads: int = 16
    vision_mlp: int = 4304
    layer_norm_eps: float = 1e-6
    head: tuple[int, ...] = (1024, 128, 64, 16, 1)

    def check(self) -> None:
        """Raise ValueError if fields have inconsistent values."""
        check_heads(self.vision_heads, self.vision_width)
        check_patches(self.image_size, self.patch_size)
        if not self.head or self.head[-1] != 1:
            raise ValueError(f"head must end with 1, got {list(self.head)!r:.80}")

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return self.vision_depth + len(self.head)

    @property
    def tokens(self) -> int:
        """Number of patches. Pixels that do not fill a patch are not seen."""
        return (self.image_size // self.patch_size) ** 2

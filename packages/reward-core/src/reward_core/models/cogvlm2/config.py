"""Sizes of a CogVLM2 model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...network.field_checks import check_heads, check_patches
from ..json_config import JsonConfig


@dataclass(frozen=True)
class CogVlm2Config(JsonConfig):
    """Sizes of a CogVLM2 model. The defaults are those of VisionReward-Image.

    Attributes:
        image_size, patch_size: sides in pixels; the image is a square.
        vision_width, vision_depth, vision_heads, vision_mlp: sizes of the vision tower. ``vision_mlp`` is the
            width of the hidden layer of an MLP.
        vision_layer_norm_eps, adapter_layer_norm_eps, rms_norm_eps: eps of the norms of the vision tower, the
            adapter and the language model.
        width, depth, heads, mlp: sizes of the language model. The adapter has an MLP of the same widths.
        kv_heads: number of heads of keys and values; each serves heads / kv_heads heads of queries.
        rope_theta: base of the rotary frequencies.
    """

    model_type: ClassVar[str] = "cogvlm2-yes-no"

    image_size: int = 1344
    patch_size: int = 14
    vision_width: int = 1792
    vision_depth: int = 63
    vision_heads: int = 16
    vision_mlp: int = 15360
    vision_layer_norm_eps: float = 1e-6
    adapter_layer_norm_eps: float = 1e-5
    width: int = 4096
    depth: int = 32
    heads: int = 32
    kv_heads: int = 8
    mlp: int = 14336
    vocab_size: int = 128256
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0

    def check(self) -> None:
        """Raise ValueError if fields have inconsistent values."""
        check_heads(self.vision_heads, self.vision_width)
        check_heads(self.heads, self.width)
        check_patches(self.image_size, self.patch_size)
        if self.image_size % (2 * self.patch_size):
            raise ValueError(
                f"image_size must be a multiple of two patches of {self.patch_size}, got {self.image_size}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} heads of keys and values")
        if self.head_width % 2:
            raise ValueError(f"the width of a head must be even, got {self.head_width}")
        if not 0 < self.rms_norm_eps < 0.1 or not self.rope_theta > 1:
            raise ValueError("rms_norm_eps must be between 0 and 0.1, and rope_theta above 1")

    @property
    def layers(self) -> int:
        """Number of layers of both parts."""
        return self.vision_depth + self.depth

    @property
    def head_width(self) -> int:
        """Width of a head of the language model."""
        return self.width // self.heads

    @property
    def patches(self) -> int:
        """Number of patches along a side of an image."""
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        """Number of tokens of an image in the language model, without begin and end of image."""
        return (self.patches // 2) ** 2

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before a question: begin of text, begin of image, the image, end of image."""
        return self.image_tokens + 3

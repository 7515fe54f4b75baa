"""A plain ViT from timm as vision encoder.

Shapes: B batch, S image side, N image tokens (patches and prefix tokens), D width.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingExtraError
from .layers import check_pixels, run_block

if TYPE_CHECKING:
    from .encoder_sizes import VisionConfig


class TimmVision(nn.Module):
    """A ViT from timm: from normalized pixels (B, 3, S, S) to all tokens (B, N, D).

    The tokens are normalized and not pooled. The class has the parts of `vision_encoder.VisionEncoder`
    (``embed``, ``blocks``, ``norm``). Its parameters have timm's names after ``tower.``.

    Attributes:
        gradient_checkpointing: run the blocks again in the backward pass instead of saving activations.

    Raises:
        MissingExtraError: timm cannot be imported.
        InputError: timm does not have this model, or it is not a plain ViT.
    """

    def __init__(self, config: VisionConfig, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.tower = create_tower(config.timm, pretrained, config.image_size, config.drop_path)

    @property
    def blocks(self) -> nn.Sequential:
        return self.tower.blocks

    @property
    def norm(self) -> nn.Module:
        return self.tower.norm

    def forward(self, pixels: Tensor) -> Tensor:
        with self._weight_precision(pixels.device):
            x = self.embed(pixels)  # (B, N, D)
            for block in self.blocks:
                x = run_block(block, x, gradient_checkpointing=self.gradient_checkpointing)  # (B, N, D)
            return self.norm(x)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return patch and prefix tokens (B, N, D) with positions for pixels (B, 3, S, S).

        Raises:
            ValueError: wrong shape of the pixels.
        """
        check_pixels(pixels, self.config.image_size)
        tower = self.tower
        return tower.norm_pre(tower.patch_drop(tower._pos_embed(tower.patch_embed(pixels))))

    def _weight_precision(self, device: torch.device) -> AbstractContextManager:
        """Return autocast to 16-bit weights, because timm's layers do not cast inputs."""
        dtype = self.tower.patch_embed.proj.weight.dtype
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def create_tower(name: str, pretrained: bool, image_size: int, drop_path: float) -> Any:
    """Create timm's model without its pooling and classifier.

    Args:
        name: name in timm, such as "vit_base_patch16_224.augreg_in21k".
        pretrained: download timm's weights.
        image_size: image side in pixels; 0 for the default of the model.
        drop_path: stochastic depth of the last block in training.

    Raises:
        MissingExtraError: timm cannot be imported.
        InputError: timm does not have this model, or it is not a plain ViT.
    """
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise MissingExtraError("timm", f"timm to build {name!r} ({str(error).splitlines()[0]})") from error
    if not timm.is_model(name.split(".")[0].removeprefix("timm/")):
        raise InputError(
            f"Cannot build {name!r}: timm {timm.__version__} has no model with this name. "
            "See timm.list_models('vit_*')."
        )
    size = {"img_size": image_size} if image_size else {}
    try:
        # The constructor reads values of tensors, which tensors on "meta" do not have.
        with torch.device("cpu"):
            tower = timm.create_model(
                name, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path, **size
            )
    except TypeError as error:
        raise InputError(f"Cannot build {name!r}: it is not a plain ViT ({error}).") from error
    if not isinstance(tower, VisionTransformer):
        raise InputError(f"Cannot build {name!r}: it is a {type(tower).__name__}, not a plain ViT.")
    if isinstance(tower.norm, nn.Identity):  # timm normalizes after pooling; we normalize all tokens
        tower.norm = tower.fc_norm
    tower.fc_norm = nn.Identity()
    tower.attn_pool = None
    return tower

"""Any plain ViT of timm as the vision encoder.

Letters in shape comments: B batch, S image side, N tokens (patches and prefix tokens), D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingExtraError
from .attention import run_block

if TYPE_CHECKING:
    from .vision_encoder import VisionConfig


class TimmVision(nn.Module):
    """Normalised pixels (B, 3, S, S) -> image tokens (B, N, D); all of timm's tokens, normed, unpooled.

    Has the methods of `vision_encoder.VisionEncoder`, and timm's own parameter names behind ``tower.``.

    Raises:
        MissingExtraError: timm cannot be imported. InputError: timm has no such model, or it is no plain ViT.
    """

    def __init__(self, config: VisionConfig, pretrained: bool = False):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.tower = create_tower(config.timm, pretrained, config.image_size, config.drop_path)

    @property
    def blocks(self) -> nn.Sequential:
        return self.tower.blocks

    def forward(self, pixels: Tensor) -> Tensor:
        return self.after(self.before(pixels, 0), 0)

    def before(self, pixels: Tensor, block: int) -> Tensor:
        """Normalised pixels (B, 3, S, S) -> the tokens (B, N, D) that enter block number ``block``."""
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ValueError(f"pixels of shape (B, 3, {size}, {size}) expected, got {tuple(pixels.shape)}")
        tower = self.tower
        with self._in_the_weights_precision(pixels):
            x = tower.norm_pre(tower.patch_drop(tower._pos_embed(tower.patch_embed(pixels))))
            for earlier in tower.blocks[:block]:
                x = earlier(x)  # (B, N, D)
        return x

    def after(self, x: Tensor, block: int) -> Tensor:
        """What ``before`` gave (B, N, D) -> image tokens (B, N, D)."""
        with self._in_the_weights_precision(x):
            for later in self.tower.blocks[block:]:
                x = run_block(later, x, gradient_checkpointing=self.gradient_checkpointing)
            return self.tower.norm(x)

    def _in_the_weights_precision(self, x: Tensor) -> Any:
        """timm's layers do not bring their inputs to 16 bits by themselves."""
        dtype = self.tower.patch_embed.proj.weight.dtype
        if dtype == torch.float32:
            return torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad()
        return torch.autocast(x.device.type, dtype)


def create_tower(name: str, pretrained: bool, image_size: int, drop_path: float) -> Any:
    """timm's model without its pooling and classifier."""
    try:
        import timm
        from timm.models.vision_transformer import VisionTransformer
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch fails with the latter
        raise MissingExtraError("timm", f"timm (to build {name!r}; {str(error).splitlines()[0]})") from error
    if not timm.is_model(name.split(".")[0].removeprefix("timm/")):
        raise InputError(f"timm {timm.__version__} has no model {name!r}; see timm.list_models('vit_*')")
    size = {"img_size": image_size} if image_size else {}
    try:
        # Its constructor reads numbers off small tensors, which "meta" ones have none of.
        with torch.device("cpu"):
            tower = timm.create_model(
                name, pretrained=pretrained, num_classes=0, drop_path_rate=drop_path, **size
            )
    except TypeError as error:
        raise InputError(f"timm's {name!r} is no plain ViT: {error}") from error
    if not isinstance(tower, VisionTransformer):
        raise InputError(f"timm's {name!r} is a {type(tower).__name__}, no plain ViT")
    if isinstance(tower.norm, nn.Identity):  # it norms after pooling; here all tokens are read
        tower.norm = tower.fc_norm
    tower.fc_norm = nn.Identity()
    tower.attn_pool = None
    return tower

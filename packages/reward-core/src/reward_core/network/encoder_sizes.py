"""Sizes of BLIP's encoders, without torch: commands list models before it loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text encoder under BERT's own names; the defaults are ImageReward-v1.0's.

    ``encoder_width`` is E, the width of the image tokens. ``pad_token_id`` is not used; the checkpoint's
    configuration file has it.
    """

    vocab_size: int = 30524
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    encoder_width: int = 1024
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    pad_token_id: int = 0


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the image encoder; the defaults are ViT-L/16 at 224 px (ImageReward-v1.0).

    ``drop_path`` is the probability of skipping a branch of the last block in training; it grows linearly
    from 0 at the first block. ``timm`` names a ViT of timm to use instead (see timm_vision.py).
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    drop_path: float = 0.1
    timm: str = ""

    @property
    def tokens(self) -> int:
        """Number of patches plus the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

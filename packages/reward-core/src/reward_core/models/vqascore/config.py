"""Configuration of VQAScore: sizes of the image encoder and of the text model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import CheckpointError
from ...network.field_checks import check_heads, check_patches
from ..json_config import JsonConfig


@dataclass(frozen=True)
class VqaConfig(JsonConfig):
    """Sizes of CLIP-FlanT5. The defaults are those of clip-flant5-xxl.

    Attributes:
        image_size, patch_size: sides of the image and of a patch, in pixels.
        vision_width, vision_depth, vision_heads, vision_mlp: sizes of CLIP's image encoder.
        text_width, text_heads, head_width, text_mlp: sizes of T5. Its heads need not add up to its width.
        encoder_depth, decoder_depth: layers of T5's encoder and decoder.
        position_buckets, position_distance: relative positions that T5 distinguishes.
        vocab_size: rows of the embeddings that are used, those of the tokenizer.
    """

    model_type: ClassVar[str] = "vqascore"
    max_length: ClassVar[int] = 2048  # tokens of the question with the prompt; the rest is cut

    image_size: int = 336
    patch_size: int = 14
    vision_width: int = 1024
    vision_depth: int = 24
    vision_heads: int = 16
    vision_mlp: int = 4096
    vision_layer_norm_eps: float = 1e-5
    text_width: int = 4096
    text_heads: int = 64
    head_width: int = 64
    text_mlp: int = 10240
    encoder_depth: int = 24
    decoder_depth: int = 24
    position_buckets: int = 32
    position_distance: int = 128
    text_layer_norm_eps: float = 1e-6
    vocab_size: int = 32100

    def check(self) -> None:
        """Raise ValueError if fields have inconsistent values."""
        check_heads(self.vision_heads, self.vision_width)
        check_patches(self.image_size, self.patch_size)
        if self.vision_depth < 2:
            raise ValueError(f"vision_depth must be at least 2, got {self.vision_depth}")
        if self.position_buckets < 4 or self.position_distance <= self.position_buckets:
            raise ValueError("position_buckets must be at least 4, and position_distance larger")

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return self.vision_depth + self.encoder_depth + self.decoder_depth

    @property
    def image_tokens(self) -> int:
        """Number of patches."""
        return (self.image_size // self.patch_size) ** 2


FLANT5_XL = VqaConfig(text_width=2048, text_heads=32, text_mlp=5120)

_TEXT = {
    "d_model": "text_width", "num_heads": "text_heads", "d_kv": "head_width", "d_ff": "text_mlp",
    "num_layers": "encoder_depth", "num_decoder_layers": "decoder_depth",
    "relative_attention_num_buckets": "position_buckets",
    "relative_attention_max_distance": "position_distance", "layer_norm_epsilon": "text_layer_norm_eps",
}  # fmt: skip
_VISION = {
    "image_size": "image_size", "patch_size": "patch_size", "hidden_size": "vision_width",
    "num_hidden_layers": "vision_depth", "num_attention_heads": "vision_heads",
    "intermediate_size": "vision_mlp", "layer_norm_eps": "vision_layer_norm_eps",
}  # fmt: skip
# The only implemented values.
_FIXED = {
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
}  # fmt: skip
_VISION_FIXED = {"hidden_act": "quick_gelu", "num_channels": 3}


def read_vqa_config(content: Any, source: str, published: VqaConfig) -> VqaConfig:
    """Return the configuration for the authors' config.json.

    Args:
        content: the JSON content, with T5's sizes at the top, and CLIP's in "vision_config" if they are not
            those of ViT-L/14 at 336 px.
        source: path of the file in errors.
        published: the configuration of the scorer, for what the file does not say.

    Raises:
        CheckpointError: a value is invalid or not implemented.
    """
    vision = content.get("vision_config", {}) if isinstance(content, dict) else None
    if not isinstance(vision, dict):
        raise CheckpointError(f"Cannot load '{source}': expected a JSON object, also as vision_config.")
    for values, fixed in ((content, _FIXED), (vision, _VISION_FIXED)):
        for key, expected in fixed.items():
            if values.get(key, expected) != expected:
                raise CheckpointError(
                    f"Cannot load '{source}': {key}={values[key]!r:.80} is not implemented. Use {expected!r}."
                )
    sizes = {field: content[key] for key, field in _TEXT.items() if key in content}
    sizes |= {field: vision[key] for key, field in _VISION.items() if key in vision}
    config = VqaConfig.from_values({**vars(published), **sizes}, source)
    if content.get("mm_hidden_size", config.vision_width) != config.vision_width:
        raise CheckpointError(f"Cannot load '{source}': mm_hidden_size must be {config.vision_width}.")
    return config

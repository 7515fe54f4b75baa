"""Configuration of scorers based on CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from ...network.field_checks import check_heads, check_patches
from ..json_config import JsonConfig

C = TypeVar("C", bound="ClipSizes")


@dataclass(frozen=True)
class ClipSizes(JsonConfig):
    """Sizes of a CLIP model. The defaults are OpenAI's ViT-L/14."""

    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1024
    vision_depth: int = 24
    vision_heads: int = 16
    vision_mlp: int = 4096
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    text_mlp: int = 3072
    vocab_size: int = 49408
    max_length: int = 77
    proj_dim: int = 768
    activation: str = "quick_gelu"

    @classmethod
    def vit_h_14(cls: type[C], **changes: Any) -> C:
        """Return the configuration of LAION's ViT-H/14, which PickScore, HPSv2 and MPS use."""
        sizes: dict[str, Any] = {
            "vision_width": 1280,
            "vision_depth": 32,
            "vision_mlp": 5120,
            "text_width": 1024,
            "text_depth": 24,
            "text_heads": 16,
            "text_mlp": 4096,
            "proj_dim": 1024,
            "activation": "gelu",
        }
        return cls(**sizes, **changes)

    def check(self) -> None:
        """Raise ValueError if fields have unknown or inconsistent values."""
        check_heads(self.vision_heads, self.vision_width)
        check_heads(self.text_heads, self.text_width)
        check_patches(self.image_size, self.patch_size)
        self.check_choice("activation", ("quick_gelu", "gelu"))
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {self.vocab_size}")

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return self.vision_depth + self.text_depth

    def build(self) -> Any:
        """Return a transformers CLIPModel with these sizes."""
        import torch
        from transformers import CLIPConfig, CLIPModel

        shared = {"hidden_act": self.activation, "projection_dim": self.proj_dim}
        vision = {
            "hidden_size": self.vision_width, "num_hidden_layers": self.vision_depth,
            "num_attention_heads": self.vision_heads, "intermediate_size": self.vision_mlp,
            "image_size": self.image_size, "patch_size": self.patch_size, **shared,
        }  # fmt: skip
        text = {
            "hidden_size": self.text_width, "num_hidden_layers": self.text_depth,
            "num_attention_heads": self.text_heads, "intermediate_size": self.text_mlp,
            "vocab_size": self.vocab_size, "max_position_embeddings": self.max_length,
            "bos_token_id": self.vocab_size - 2, "eos_token_id": self.vocab_size - 1, **shared,
        }  # fmt: skip
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=self.proj_dim)
        config._attn_implementation = "sdpa"
        model = CLIPModel(config)
        for part in (model.vision_model.embeddings, model.text_model.embeddings):
            # Constants stay on the CPU while a model is built on "meta".
            positions = torch.arange(part.position_ids.shape[-1], device="cpu")[None]
            part.register_buffer("position_ids", positions, persistent=False)
        return model


@dataclass(frozen=True)
class ClipConfig(ClipSizes):
    """Configuration of a CLIP model and of its score.

    Attributes:
        fit: "crop" resizes the shorter side to ``image_size`` and crops; "pad" resizes the longer side and
            pads with black.
        antialias: whether "pad" shrinks images with antialiasing, as HPSv2's code does with torchvision 0.17
            and later. Its code of 2023 ran with versions without. "crop" always resizes like PIL.
        text_cleaning: "ftfy" repairs, unescapes and lowercases prompts as open_clip does (text_cleaning.py);
            "" leaves them to the tokenizer.
        scaled: multiply the cosine by exp(logit_scale).
        head: layer widths of an Aesthetic head on the image's unit vector; the prompt is then ignored. Empty
            for no head.
    """

    model_type: ClassVar[str] = "clip-score"

    fit: str = "crop"
    antialias: bool = True
    text_cleaning: str = ""
    scaled: bool = False
    head: tuple[int, ...] = ()

    def check(self) -> None:
        super().check()
        self.check_choice("fit", ("crop", "pad"))
        self.check_choice("text_cleaning", ("", "ftfy"))
        if self.head and self.head[-1] != 1:
            raise ValueError(f"head must end with 1, got {list(self.head)!r:.80}")

    @property
    def layers(self) -> int:
        return super().layers + len(self.head)

"""Configuration of scorers based on CLIP."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from ...errors import CheckpointError
from ...files.format_version import FORMAT_VERSION, check_format_version
from ...network.config import MODEL_FORMAT, OLDER_MODEL
from ...network.field_checks import check_heads, check_patches, checked


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a CLIP model and of its score. The defaults are OpenAI's ViT-L/14.

    Attributes:
        fit: "crop" resizes the shorter side to ``image_size`` and crops; "pad" resizes the longer side and
            pads with black.
        scaled: multiply the cosine by exp(logit_scale).
        head: layer widths of an Aesthetic head on the image's unit vector; the prompt is then ignored. Empty
            for no head.
    """

    model_type: ClassVar[str] = "clip-score"

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
    fit: str = "crop"
    scaled: bool = False
    head: tuple[int, ...] = ()

    @classmethod
    def vit_h_14(cls, **changes: Any) -> ClipConfig:
        """Return the configuration of LAION's ViT-H/14, which PickScore and HPSv2 use."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {"model_type": self.model_type, FORMAT_VERSION: MODEL_FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any], source: str = "config") -> ClipConfig:
        """Return the configuration for the content of a config.json.

        Raises:
            CheckpointError: an unknown key, or a value of the wrong type or out of range.
        """
        if not isinstance(content, dict):
            raise CheckpointError(f"Cannot load '{source}': expected a JSON object, got {content!r:.80}.")
        check_format_version(content, MODEL_FORMAT, source, OLDER_MODEL)
        values = {key: value for key, value in content.items() if key not in ("model_type", FORMAT_VERSION)}
        known = {field.name for field in fields(cls)}
        if content.get("model_type", cls.model_type) != cls.model_type or set(values) - known:
            raise CheckpointError(
                f"Cannot load '{source}': model_type is {content.get('model_type')!r} and unknown keys are "
                f"{sorted(set(values) - known)[:8]}; expected {cls.model_type!r} with keys {sorted(known)}"
            )
        try:
            config = cls(**{key: checked(cls, key, value) for key, value in values.items()})
            config.check()
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"Cannot load '{source}': {error}.") from error
        return config

    def check(self) -> None:
        """Raise ValueError if fields have unknown or inconsistent values."""
        check_heads(self.vision_heads, self.vision_width)
        check_heads(self.text_heads, self.text_width)
        check_patches(self.image_size, self.patch_size)
        for key, known in (("activation", ("quick_gelu", "gelu")), ("fit", ("crop", "pad"))):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be {' or '.join(known)}, got {getattr(self, key)!r:.80}")
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {self.vocab_size}")
        if self.head and self.head[-1] != 1:
            raise ValueError(f"head must end with 1, got {list(self.head)!r:.80}")

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return self.vision_depth + self.text_depth + len(self.head)

    def build(self) -> Any:
        """Return a transformers CLIPModel with these sizes."""
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
        return CLIPModel(config)

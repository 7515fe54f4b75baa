"""Configuration of the vision-language scorers, read from the files of their base models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import CheckpointError

# The sizes of a base model, by their names in config.json. Everything else in it has no effect on scores.
_TEXT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
    "rope_parameters", "use_sliding_window", "sliding_window", "max_window_layers", "attention_bias",
)  # fmt: skip
_VISION = (
    "depth", "embed_dim", "hidden_size", "hidden_act", "intermediate_size", "mlp_ratio", "num_heads",
    "patch_size", "out_hidden_size", "num_position_embeddings", "deepstack_visual_indexes",
)  # fmt: skip
MOST_PATCH = 64


@dataclass(frozen=True)
class ImageSettings:
    """How images become patches.

    Attributes:
        patch: side of a patch, in pixels.
        mean, std: per RGB channel, for pixels in [0, 1].
        least_pixels, most_pixels: budget of the second resize of HPSv3++.
    """

    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    least_pixels: int
    most_pixels: int


@dataclass(frozen=True)
class VlmConfig:
    """Sizes of a vision-language scorer.

    Attributes:
        model_type: "qwen2_vl" or "qwen3_vl".
        text, vision: sizes of the base model, by their names in config.json.
        images: how images become patches.
        rows: number of embeddings, from the weights: the authors shorten the table of the base model.
        condition: width of the condition of HPSv3++, from the weights; 0 for HPSv3.
    """

    model_type: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    images: ImageSettings
    rows: int = 0
    condition: int = 0

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.text["hidden_size"])

    @property
    def max_length(self) -> int:
        """Number of positions the base model was trained with. Longer prompts are not cut."""
        return int(self.text.get("max_position_embeddings", 32768))

    @property
    def layers(self) -> int:
        """Number of layers of both encoders."""
        return int(self.text["num_hidden_layers"]) + int(self.vision["depth"])

    def to_dict(self) -> dict[str, Any]:
        """Return all values."""
        return asdict(self)

    def with_sizes(self, rows: int, condition: int) -> VlmConfig:
        """Return the configuration with the sizes that only the weights have."""
        return replace(self, rows=rows, condition=condition)


def read_vlm_config(config: Any, preprocessor: Any, model_type: str, source: str) -> VlmConfig:
    """Return the configuration for the files of a base model.

    Args:
        config: content of config.json, with the text model's sizes in "text_config" or at the top.
        preprocessor: content of preprocessor_config.json.
        model_type: type of the scorer's base model.
        source: path of config.json in errors.

    Raises:
        CheckpointError: another type of model, or a value that is missing or invalid.
    """
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != model_type:
        raise CheckpointError(
            f"Cannot load '{source}': expected the config.json of a {model_type} model, got model_type "
            f"{found!r:.80}."
        )
    try:
        vision = {key: config["vision_config"][key] for key in _VISION if key in config["vision_config"]}
        text_config = config.get("text_config") or config
        text = {key: text_config[key] for key in _TEXT if key in text_config}
        read = VlmConfig(model_type, text, vision, _image_settings(preprocessor, vision))
        if not 0 < read.layers < 10_000 or read.width < 1:
            raise ValueError("numbers of layers and hidden_size must be positive")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"Cannot load '{source}' with its preprocessor_config.json: a value is missing or invalid "
            f"({type(error).__name__}: {error})."
        ) from error
    return read


def _image_settings(preprocessor: Mapping[str, Any], vision: Mapping[str, Any]) -> ImageSettings:
    mean, std = (tuple(map(float, preprocessor[key])) for key in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3 or not all(std):
        raise ValueError(f"image_mean and image_std must have 3 numbers, got {mean} and {std}")
    size = preprocessor.get("size") or {}
    least = preprocessor.get("min_pixels") or size.get("shortest_edge") or size["min_pixels"]
    most = preprocessor.get("max_pixels") or size.get("longest_edge") or size["max_pixels"]
    patch = vision.get("patch_size", preprocessor["patch_size"])
    same = preprocessor["patch_size"] == patch and preprocessor["merge_size"] == 2
    if not same or preprocessor.get("temporal_patch_size") != 2:
        raise ValueError("patch_size, merge_size and temporal_patch_size must be the model's, 2 and 2")
    if type(patch) is not int or not 1 <= patch <= MOST_PATCH or not 0 < least <= most:
        raise ValueError(f"invalid patch_size {patch!r:.40} or size {size!r:.80}")
    return ImageSettings(patch, mean, std, int(least), int(most))

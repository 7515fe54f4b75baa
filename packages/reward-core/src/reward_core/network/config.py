"""Configuration of BLIP and of the reward model, and its JSON format."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..errors import CheckpointError
from ..files.format_version import FORMAT_VERSION, check_format_version
from ..files.json_file import read_json
from .encoder_sizes import TextConfig, VisionConfig
from .field_checks import check_heads, check_patches, checked
from .score_quantiles import ScoreQuantiles

T = TypeVar("T", bound="BlipConfig")

MAX_QUANTILES = 100_000  # score quantiles of a model; 200 are usual

# Format version of saved models. Files without a version, such as those of the original, have version 1.
MODEL_FORMAT = 1
OLDER_MODEL = "Save the model again with this version."

# Keys of config.json that are ignored; most come from other software.
_IGNORED_KEYS = {
    "architectures",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    FORMAT_VERSION,
}
# Settings of BERT's configuration with the only value that this encoder implements.
_FIXED_MED_KEYS = {"hidden_act": "gelu", "add_cross_attention": True}


@dataclass(frozen=True)
class BlipConfig:
    """Configuration of BLIP. The defaults are BLIP large at 224 px.

    Sizes are in pixels, tokens and channels. ``vocab_lines`` is the length of the vocabulary before [DEC] and
    [ENC]. ``pixel_mean`` and ``pixel_std`` apply to RGB in [0, 1]. ``timm_vision`` names a ViT of timm to use
    instead of BLIP's; ``vision_width`` is then its width, and the other ``vision_`` sizes are not used.
    """

    model_type: ClassVar[str] = "blip-cosine"

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 1024
    vision_depth: int = 24
    vision_heads: int = 16
    vision_mlp_ratio: float = 4
    vision_qkv_bias: bool = True
    vision_layer_norm_eps: float = 1e-6
    vision_drop_path: float = 0.1
    proj_dim: int = 256
    max_length: int = 35
    pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    vocab_lines: int = 30522
    dec_token_id: int = 30522
    enc_token_id: int = 30523
    timm_vision: str = ""
    text: TextConfig = field(default_factory=TextConfig)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def vision(self) -> VisionConfig:
        prefix = "vision_"
        sizes = {k[len(prefix) :]: v for k, v in vars(self).items() if k.startswith(prefix)}
        return VisionConfig(self.image_size, self.patch_size, timm=self.timm_vision, **sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        content = dataclasses.asdict(self)
        text = content.pop("text")
        for key in ("timm_vision", "head_activation"):
            if not content.get(key, True):  # earlier versions know neither of them
                del content[key]
        about = {"model_type": self.model_type, FORMAT_VERSION: MODEL_FORMAT}
        return {**about, **content, "med_config": {**_FIXED_MED_KEYS, **text}}

    @classmethod
    def from_dict(cls: type[T], content: dict[str, Any], source: str = "config") -> T:
        """Return the configuration for the content of a config.json.

        Raises:
            CheckpointError: an unknown key, or a value of the wrong type or out of range.
        """
        if not isinstance(content, dict):
            raise CheckpointError(f"Cannot use '{source}': expected a JSON object, got {content!r:.80}.")
        check_format_version(content, MODEL_FORMAT, source, OLDER_MODEL)
        values = {k: v for k, v in content.items() if k not in _IGNORED_KEYS}
        kind = values.pop("model_type", cls.model_type)
        if kind != cls.model_type:
            raise CheckpointError(
                f"Cannot use '{source}': expected a model of type {cls.model_type!r}, got {kind!r}."
            )
        med_config = values.pop("med_config", None)
        known = {f.name for f in dataclasses.fields(cls)} - {"text"}
        if unknown := sorted(set(values) - known):
            raise CheckpointError(
                f"Cannot use '{source}': unknown keys {unknown}. Known keys are {sorted(known)} and "
                "'med_config'."
            )
        text: dict[str, Any] = {}
        if med_config is not None:
            if not isinstance(med_config, dict):
                raise CheckpointError(
                    f"Cannot use '{source}': med_config must be a JSON object, got {med_config!r:.80}."
                )
            text = {"text": text_config_from_med_config(med_config, f"med_config of '{source}'")}
        try:
            config = cls(**{key: cls._decode(key, value) for key, value in values.items()}, **text)
            config.check()
            if not 2 <= config.max_length <= config.text.max_position_embeddings:
                most = config.text.max_position_embeddings
                raise ValueError(f"max_length must be 2 to {most} tokens, got {config.max_length}")
            return config
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"Cannot use '{source}': {error}.") from error

    def check(self) -> None:
        """Raise ValueError if two fields are inconsistent."""
        check_heads(self.vision_heads, self.vision_width)
        check_patches(self.image_size, self.patch_size)
        if self.text.encoder_width != self.vision_width:
            raise ValueError(
                f"encoder_width of med_config must be vision_width ({self.vision_width}), "
                f"got {self.text.encoder_width}"
            )

    @property
    def layers(self) -> int:
        """Number of layers with weights."""
        return self.vision_depth + self.text.num_hidden_layers

    @classmethod
    def _decode(cls, key: str, value: Any) -> Any:
        return checked(cls, key, value)


@dataclass(frozen=True)
class RewardConfig(BlipConfig):
    """Configuration of a reward model. The defaults are ImageReward-v1.0.

    The reward is (head output - reward_mean) / reward_std. ``head_activation`` is "gelu" for an exact GELU
    between the layers of the head, "" for none. ``score_quantiles`` is None if the distribution of scores was
    not measured.
    """

    model_type: ClassVar[str] = "image-reward"

    reward_mlp: tuple[int, ...] = (768, 1024, 128, 64, 16, 1)
    head_dropout: tuple[float, ...] = (0.2, 0.2, 0.1)
    head_activation: str = ""
    reward_mean: float = 0.16717362830052426
    reward_std: float = 1.0333394966054072
    score_quantiles: ScoreQuantiles | None = None

    @classmethod
    def imagereward_v1(cls) -> RewardConfig:
        return cls(score_quantiles=ScoreQuantiles.standard_normal())

    @classmethod
    def cyclereward(cls, **changes: Any) -> RewardConfig:
        """Return the configuration of CycleReward: other head, more tokens, and the raw output as reward."""
        head: dict[str, Any] = {"head_dropout": (), "head_activation": "gelu"}
        raw: dict[str, Any] = {"reward_mean": 0.0, "reward_std": 1.0}
        return cls(**{"max_length": 128, **head, **raw, **changes})

    @classmethod
    def _decode(cls, key: str, value: Any) -> Any:
        if key == "score_quantiles":
            if value is None:
                return None
            if not isinstance(value, dict) or value.keys() != {"values", "source"}:
                raise TypeError(
                    f"score_quantiles must be null or have 'values' and 'source', got {value!r:.80}"
                )
            return _quantiles(value["values"], value["source"])
        return super()._decode(key, value)

    def check(self) -> None:
        super().check()
        widths = self.reward_mlp
        if len(widths) < 2 or widths[0] != self.text.hidden_size or widths[-1] != 1:
            raise ValueError(
                f"reward_mlp must begin with hidden_size ({self.text.hidden_size}) and end with 1, "
                f"got {list(widths)!r:.80}"
            )
        if self.head_activation not in ("", "gelu"):
            raise ValueError(f"head_activation must be 'gelu' or '', got {self.head_activation!r:.80}")

    @property
    def layers(self) -> int:
        return super().layers + len(self.reward_mlp) - 1


def _quantiles(values: Any, source: Any) -> ScoreQuantiles:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_QUANTILES:
        raise TypeError(f"score_quantiles must have 1 to {MAX_QUANTILES:,} values, got {values!r:.80}")
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError, OverflowError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)) or list(numbers) != sorted(numbers):
        raise ValueError(f"score_quantiles must have finite numbers in ascending order, got {values!r:.80}")
    if not isinstance(source, str):
        raise TypeError(f"the source of score_quantiles must be a string, got {source!r:.80}")
    return ScoreQuantiles(numbers, source)


def text_config_from_med_config(
    med_config: dict[str, Any] | str | Path, source: str = "med_config"
) -> TextConfig:
    """Return the text configuration for a med_config.json of the original.

    Args:
        med_config: its content or its path.
        source: name of the content in error messages.

    Raises:
        CheckpointError: a setting that is not implemented, or a value of the wrong type.
    """
    if isinstance(med_config, dict):
        content = med_config
    else:
        source, content = f"'{med_config}'", read_json(Path(med_config))
    for key, only in _FIXED_MED_KEYS.items():
        if content.get(key, only) != only:
            raise CheckpointError(
                f"Cannot use {source}: {key}={content[key]!r:.80} is not implemented. Use {only!r}."
            )
    sizes = {f.name for f in dataclasses.fields(TextConfig)}
    try:
        config = TextConfig(
            **{key: checked(TextConfig, key, value) for key, value in content.items() if key in sizes}
        )
        check_heads(config.num_attention_heads, config.hidden_size)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"Cannot use {source}: {error}.") from error
    return config

"""Checks of the types and ranges of configuration fields, before a model is built."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

# Largest sizes: more than any existing model has, and too small for products to overflow.
MAX_PIXELS = 2**14  # side of an image or a patch
MAX_IMAGE_TOKENS = 2**16  # patches of one image; ViT-H at 336 px has 576
MAX_WIDTH = 2**17  # channels of a layer
MAX_LAYERS = 1000  # the deepest published ViT has 64
MAX_VOCABULARY = 2**22  # tokens; the largest published vocabularies have 256,000
MAX_POSITIONS = 2**16  # tokens of a prompt

_COUNTS = {
    ("image_size", "patch_size"): MAX_PIXELS,
    ("depth", "num_hidden_layers"): MAX_LAYERS,
    ("vocab_size", "vocab_lines"): MAX_VOCABULARY,
    ("max_length", "max_position_embeddings"): MAX_POSITIONS,
}
_RANGES = {  # suffixes of a field's name -> (smallest, largest) allowed value
    ("mlp_ratio",): (0.01, 64.0),
    ("layer_norm_eps",): (1e-20, 0.1),
    ("pixel_mean",): (-10.0, 10.0),
    ("pixel_std",): (1e-3, 100.0),
    ("reward_mean",): (-1e6, 1e6),
    ("reward_std",): (1e-6, 1e6),
    ("dropout", "dropout_prob", "drop_path"): (0.0, 0.999),
}


def checked(cls: type, key: str, value: Any) -> Any:
    """Return the value of the field ``key`` of a dataclass, with lists as tuples.

    Raises:
        TypeError: the value has the wrong type.
        ValueError: the value is out of range.
    """
    kind = str(next(f.type for f in dataclasses.fields(cls) if f.name == key))
    if not kind.startswith("tuple"):
        return _checked_one(key, kind, value)
    kinds = kind[len("tuple[") : -1].split(", ")
    if not isinstance(value, (list, tuple)) or ("..." not in kinds and len(value) != len(kinds)):
        count = "" if "..." in kinds else f"{len(kinds)} "
        raise TypeError(f"{key} must be a list of {count}numbers, got {value!r:.80}")
    if len(value) > MAX_LAYERS:
        raise ValueError(f"{key} must have at most {MAX_LAYERS} numbers, got {len(value):,}")
    return tuple(_checked_one(key, kinds[0], number) for number in value)


def _checked_one(key: str, kind: str, value: Any) -> Any:
    expected = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a string"}[
        kind
    ]
    types: Any = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
        raise TypeError(f"{key} must be {expected}, got {value!r:.80}")
    if kind == "int":
        _check_count(key, value)
    elif kind == "float":
        low, high = next((r for ends, r in _RANGES.items() if key.endswith(ends)), (-1e6, 1e6))
        if not math.isfinite(_as_float(value)) or not low <= value <= high:
            raise ValueError(f"{key} must be {low:g} to {high:g}, got {value!r:.80}")
    return value


def _check_count(key: str, value: int) -> None:
    if key.endswith("_id"):
        if not 0 <= value < MAX_VOCABULARY:
            raise ValueError(f"{key} must be 0 to {MAX_VOCABULARY - 1}, got {value!r:.80}")
        return
    most = next((m for ends, m in _COUNTS.items() if key.endswith(ends)), MAX_WIDTH)
    if value < 1:
        raise ValueError(f"{key} must be at least 1, got {value!r:.80}")
    if value > most:
        raise ValueError(f"{key} must be at most {most}, got {value!r:.80}")


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_heads(heads: int, width: int) -> None:
    """Raise ValueError unless the width is divisible by the number of attention heads."""
    if width % heads:
        raise ValueError(f"a width of {width} is not divisible by {heads} attention heads")


def check_patches(image_size: int, patch_size: int) -> None:
    """Raise ValueError unless the number of patches per image is in range."""
    if patch_size > image_size:
        raise ValueError(f"patch_size must be at most image_size ({image_size}), got {patch_size}")
    if (image_size // patch_size) ** 2 > MAX_IMAGE_TOKENS:
        raise ValueError(
            f"an image of {image_size} pixels has more than {MAX_IMAGE_TOKENS:,} patches of {patch_size}"
        )

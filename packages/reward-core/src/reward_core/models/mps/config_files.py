"""Read the sizes of MPS's cross model from a cross_model.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import CheckpointError
from ...files.json_file import read_json
from ...network.field_checks import checked
from .config import MpsConfig

_KEYS = {"layer_num": "cross_depth", "heads": "cross_heads", "dim_head": "cross_head_width"}


def with_cross_sizes(config: MpsConfig, path: Path) -> MpsConfig:
    """Return a configuration with the cross model of a file.

    Args:
        config: configuration for everything else.
        path: JSON file with the arguments of the authors' class: "layer_num", "heads", "dim_head", "ff_mult".
            Each may be missing.

    Raises:
        CheckpointError: a value of the wrong type or out of range.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"Cannot load '{path}': expected a JSON object, got {content!r:.80}.")
    try:
        values = {field: content[key] for key, field in _KEYS.items() if key in content}
        if "ff_mult" in content:
            values["cross_ff"] = config.proj_dim * content["ff_mult"]
        changed = replace(config, **{key: checked(MpsConfig, key, value) for key, value in values.items()})
        changed.check()
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"Cannot load '{path}': {error}.") from error
    return changed

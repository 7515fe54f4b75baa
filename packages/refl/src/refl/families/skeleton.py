"""Pipelines without weights, created from configuration files on the "meta" device."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reward_core.errors import HubError
from reward_core.files.json_file import read_json
from reward_core.hub.downloads import fetch_repository

from ..checks.hub_checks import INDEX_FILE, UNUSED_PARTS, check_pipeline_folder
from ..errors import ModelError

CONFIG_FILES = (INDEX_FILE, "*/config.json", "*/scheduler_config.json")


def load_skeleton(model: str, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """Return a diffusers pipeline whose models have shapes and no data.

    Only configuration files are read: of a folder, or of a hub repository, from which they are downloaded.
    Tokenizers are left out.

    Args:
        model: hub id or pipeline folder.
        revision: branch, tag or commit on the hub.
        dtype: dtype of all weights except the VAE's, which are float32.

    Raises:
        ModelError: a configuration file is missing or not valid, or the classes are unknown.
    """
    import diffusers

    folder = _config_folder(model, revision)
    index = read_json(folder / INDEX_FILE, error=ModelError)
    pipeline_class = getattr(diffusers, str(index.get("_class_name")), None)
    if pipeline_class is None:
        raise ModelError(
            f"Cannot use the model {model!r}: diffusers has no pipeline {index.get('_class_name')!r}. Check "
            f"its {INDEX_FILE}."
        )
    parts: dict[str, Any] = {}
    accepted = inspect.signature(pipeline_class.__init__).parameters
    for name, value in index.items():
        if name.startswith("_") or name not in accepted:
            continue
        if not isinstance(value, list):
            parts[name] = value
        elif name in UNUSED_PARTS or value[0] is None:
            parts[name] = None
        else:
            parts[name] = _part(folder / name, *value)
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            # diffusers' own to() warns that it may keep modules in float32; these models have none.
            nn.Module.to(part, dtype=torch.float32 if name == "vae" else dtype)
    try:
        return pipeline_class(**parts)
    except TypeError as error:  # the index does not list a part
        raise ModelError(f"Cannot use the {INDEX_FILE} of {model!r}: {error}") from error


def _config_folder(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        check_pipeline_folder(model)
        return Path(model)
    try:
        return fetch_repository(model, CONFIG_FILES, revision=revision)
    except HubError as error:
        raise ModelError(str(error)) from error


def _part(folder: Path, library: str, class_name: str) -> Any:
    """Return a part of a pipeline: a model on "meta", a scheduler, or None for a tokenizer."""
    import diffusers
    import transformers

    kind = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), class_name, None)
    if kind is None:
        raise ModelError(
            f"Cannot use the part '{folder.name}' of the model: {library} has no class {class_name!r}. "
            "Update it, or choose another model."
        )
    try:
        if not issubclass(kind, nn.Module):
            return kind.from_pretrained(folder) if issubclass(kind, diffusers.SchedulerMixin) else None
        with torch.device("meta"):
            if library == "diffusers":
                return kind.from_config(kind.load_config(folder))
            return kind(kind.config_class.from_pretrained(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"Cannot read the configuration in '{folder}': {error}") from error

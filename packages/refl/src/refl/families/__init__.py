"""Families of diffusion models: how each encodes, denoises and decodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from reward_core.files.json_file import read_json
from reward_core.hub.local_files import how_to_copy_repo
from reward_core.hub.reachability import hub_failure

from ..errors import ModelError
from .base import Condition, Family, Guidance
from .flux import Flux
from .sd import StableDiffusion
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL

__all__ = ["Condition", "Family", "Guidance", "family_of", "load_family"]

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}


def family_of(pipeline: Any) -> Family:
    """The family of a diffusers pipeline.

    Raises:
        ModelError: a pipeline of a class that has none.
    """
    name = type(pipeline).__name__
    if name not in FAMILIES:
        raise ModelError(f"a {name} cannot be trained yet; these can: {', '.join(FAMILIES)}")
    return FAMILIES[name](pipeline)


def load_family(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Family:
    """Load a diffusion model through diffusers.

    Args:
        model: hub id, folder of a pipeline, or a single .safetensors or .ckpt file.
        revision: branch, tag or commit on the hub.
        variant: of the weight files, such as "fp16".
        dtype: of all weights but the VAE's, which stays float32 (in half precision those of Stable
            Diffusion overflow).

    Raises:
        ModelError: nothing there, no such repository, no network, or a model of an unknown family.
    """
    from diffusers import DiffusionPipeline

    name = os.fspath(model)
    unreachable = None if os.path.exists(name) else hub_failure()  # diffusers would retry for half a minute
    try:
        if Path(name).is_file():
            pipeline = _single_file(name, dtype)
        else:
            if os.path.isdir(name) and not Path(name, "model_index.json").is_file():
                raise ModelError(f"{name}: no pipeline's folder (it has no model_index.json)")
            extra = {} if variant is None else {"variant": variant}
            pipeline = DiffusionPipeline.from_pretrained(
                name,
                revision=revision,
                dtype={"default": dtype, "vae": torch.float32},
                local_files_only=unreachable is not None,
                **extra,
                **_without_safety_checker(name, revision, unreachable is not None),
            )
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if unreachable is not None:
            raise ModelError(
                f"Cannot load {name!r}: it is neither a folder or file nor in the hub's cache, and the hub "
                f"cannot be reached ({unreachable}). {how_to_copy_repo(name)}"
            ) from error
        raise ModelError(f"{name}: cannot be loaded as a diffusion model: {error}") from error
    family = family_of(pipeline)
    if pipeline.vae.dtype != torch.float32:  # a single file knows one dtype alone
        pipeline.vae.to(dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return family


def _single_file(path: str, dtype: torch.dtype) -> Any:
    from diffusers import (
        FluxPipeline,
        StableDiffusion3Pipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    kind = infer_diffusers_model_type(load_single_file_checkpoint(path))
    for prefix, pipeline_class in (
        ("xl_", StableDiffusionXLPipeline),
        ("sd3", StableDiffusion3Pipeline),
        ("flux", FluxPipeline),
        ("v1", StableDiffusionPipeline),
        ("v2", StableDiffusionPipeline),
    ):
        if kind.startswith(prefix):
            return pipeline_class.from_single_file(path, torch_dtype=dtype)
    raise ModelError(f"{path}: a checkpoint of kind {kind!r}, which cannot be trained yet")


def _without_safety_checker(name: str, revision: str | None, local_files_only: bool) -> dict[str, Any]:
    """Training needs none, and it is larger than the UNet; other pipelines do not know the argument."""
    from huggingface_hub import hf_hub_download

    if os.path.isdir(name):
        path = Path(name, "model_index.json")
    else:
        path = Path(
            hf_hub_download(name, "model_index.json", revision=revision, local_files_only=local_files_only)
        )
    parts = read_json(path)
    return {"safety_checker": None} if "safety_checker" in parts else {}

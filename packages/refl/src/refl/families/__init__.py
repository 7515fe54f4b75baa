"""Families of diffusion models: prompt encoding, denoising and decoding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from reward_core.files.json_file import read_json
from reward_core.hub.reachability import hub_failure

from ..checks.hub_checks import INDEX_FILE, check_pipeline_folder, pipeline_index, unavailable_model
from ..errors import ModelError
from .base import Condition, Family, Guidance
from .flux import Flux
from .flux2 import Flux2Klein
from .qwen_image import QwenImage
from .sd import StableDiffusion
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL
from .z_image import ZImage

__all__ = ["Condition", "Family", "Guidance", "family_of", "load_family"]

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "Flux2KleinPipeline": Flux2Klein,
    "QwenImagePipeline": QwenImage,
    "ZImagePipeline": ZImage,
}


def family_of(pipeline: Any) -> Family:
    """Wrap a diffusers pipeline in its family.

    Raises:
        ModelError: the pipeline's class is not supported.
    """
    name = type(pipeline).__name__
    if name not in FAMILIES:
        raise ModelError(
            f"Cannot use a {name}: its class is not supported. Use one of {', '.join(FAMILIES)}."
        )
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
        model: Hub id, pipeline folder, or a single .safetensors or .ckpt file.
        revision: branch, tag or commit on the Hub.
        variant: variant of the weight files, such as "fp16".
        dtype: dtype of all weights except the VAE's, which stay float32 (validation images are decoded in
            float32, and SDXL's VAE overflows in float16).

    Raises:
        ModelError: the model is missing, cannot be downloaded, or belongs to an unsupported family.
    """
    from diffusers import DiffusionPipeline

    name = os.fspath(model)
    unreachable = None if os.path.exists(name) else hub_failure()  # diffusers would retry for half a minute
    try:
        if Path(name).is_file():
            pipeline = _single_file(name, dtype)
        else:
            check_pipeline_folder(name)
            extra = {} if variant is None else {"variant": variant}
            pipeline = DiffusionPipeline.from_pretrained(
                name,
                revision=revision,
                dtype={"default": dtype, "vae": torch.float32},
                local_files_only=unreachable is not None,
                **extra,
                **_without_safety_checker(name, revision),
            )
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if unreachable is not None:
            raise unavailable_model(name, unreachable) from error
        raise ModelError(f"Cannot load the diffusion model {name!r}: {error}") from error
    family = family_of(pipeline)
    if pipeline.vae.dtype != torch.float32:  # from_single_file uses one dtype for all parts
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
    raise ModelError(
        f"Cannot use the checkpoint {path!r}: models of kind {kind!r} are not supported. Use a checkpoint of "
        "Stable Diffusion 1, 2, XL or 3, or of FLUX.1."
    )


def _without_safety_checker(name: str, revision: str | None) -> dict[str, Any]:
    """Return the argument that omits the safety checker, if the pipeline has one.

    Training does not use it, and it is larger than the UNet.
    """
    path = Path(name, INDEX_FILE) if os.path.isdir(name) else pipeline_index(name, revision)
    parts = read_json(path)
    return {"safety_checker": None} if "safety_checker" in parts else {}

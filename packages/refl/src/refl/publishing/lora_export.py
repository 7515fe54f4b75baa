"""LoRA files for ComfyUI and the Stable Diffusion WebUI, in the format of kohya's scripts.

Such a file has three tensors for each layer: ``lora_unet_LAYER.lora_down.weight`` (rank, inputs),
``lora_unet_LAYER.lora_up.weight`` (outputs, rank) and ``lora_unet_LAYER.alpha``, a scalar. A program adds
``alpha / rank * up @ down`` to the layer's weight.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward_core.files.atomic_write import atomic_write

from ..config import TrainConfig
from ..families import Family
from ..families.flux import Flux
from ..families.flux2 import Flux2Klein
from ..families.qwen_image import QwenImage
from ..families.sd3 import StableDiffusion3
from ..families.sdxl import StableDiffusionXL
from ..families.z_image import ZImage
from ..trainable import ADAPTER, Trainable
from ..version import __version__
from .lora_layers import FLUX, FLUX2, SD3, Z_IMAGE, LayerTable, original_layer
from .published_names import base_model, public_name

Pair = tuple[Tensor, Tensor]
"""(down (rank, inputs, ...), up (outputs, rank, ...)) of a layer."""

TABLES: dict[type[Family], LayerTable] = {
    StableDiffusion3: SD3,
    Flux: FLUX,
    Flux2Klein: FLUX2,
    ZImage: Z_IMAGE,
}


def comfyui_file(out: Path) -> str:
    """Return the name of the LoRA file of a run: NAME_comfyui.safetensors, with NAME of its folder."""
    return f"{safe_name(out.resolve().name)}_comfyui.safetensors"


def safe_name(name: str) -> str:
    """Return a name without characters that the prompts of the WebUI or file systems reserve."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "refl"


def write_comfyui_lora(
    trainable: Trainable, config: TrainConfig, prompts: Sequence[str], step: int, folder: Path
) -> Path:
    """Write the LoRA of a run for ComfyUI and the WebUI.

    Args:
        trainable: the trained LoRA; its moving average is written, if there is one.
        config: settings of the run.
        prompts: training prompts.
        step: optimizer step of the weights.
        folder: folder of the file.

    Returns:
        The path of the file.

    Raises:
        ModelError: other programs have no name for a trained layer.
    """
    from safetensors.torch import save_file

    family = trainable.family
    with trainable.ema_weights():
        layers = lora_layers(family.denoiser)
        tensors = kohya_tensors(family, layers, lora_scale(family.denoiser))
    path = folder / comfyui_file(Path(config.run.out))
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, lora_metadata(family, config, prompts, step, path.stem))
    return path


def lora_layers(denoiser: nn.Module) -> dict[str, Pair]:
    """Return the LoRA of a denoiser: name of a layer -> (down, up), float32 on the CPU."""
    from peft.utils import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER)
    state = {name: weight.detach().float().cpu() for name, weight in state.items()}
    names = [name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")]
    return {name: (state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]) for name in names}


def lora_scale(denoiser: Any) -> float:
    """Return the factor of the LoRA's output: its alpha, divided by its rank."""
    settings = denoiser.peft_config[ADAPTER]
    return float(settings.lora_alpha) / settings.r


def kohya_tensors(family: Family, layers: Mapping[str, Pair], scale: float) -> dict[str, Tensor]:
    """Return the tensors of a file by their keys.

    Args:
        family: model of the LoRA.
        layers: name of a layer in diffusers -> (down, up).
        scale: factor of the LoRA's output.

    Raises:
        ModelError: other programs have no name for a layer.
    """
    from diffusers.utils import convert_state_dict_to_kohya

    table = TABLES.get(type(family))
    if table is not None:
        layers = original_layers(table, family.denoiser, layers)
    peft = {}
    for name, (down, up) in layers.items():
        peft[f"unet.{name}.lora_A.weight"], peft[f"unet.{name}.lora_B.weight"] = down, up
    tensors: dict[str, Tensor] = convert_state_dict_to_kohya(peft)
    for key in tensors:
        if key.endswith(".alpha"):  # diffusers' converter assumes a scale of 1
            rank = len(tensors[key.removesuffix(".alpha") + ".lora_down.weight"])
            tensors[key] = torch.tensor(scale * rank)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def original_layers(table: LayerTable, denoiser: Any, layers: Mapping[str, Pair]) -> dict[str, Pair]:
    """Return the LoRA of the layers of the original code, exactly equal to that of diffusers' layers."""
    last_block = len(denoiser.transformer_blocks) - 1 if table is SD3 else -1
    groups: dict[str, tuple[tuple[str, ...], bool]] = {}
    for name in layers:
        original = original_layer(table, name, last_block)
        groups[original.name] = original.parts, original.swapped
    result = {}
    for name, (parts, swapped) in groups.items():
        down, up = layers[parts[0]] if len(parts) == 1 else _joined(denoiser, parts, layers)
        if swapped:
            up = torch.cat(up.chunk(2)[::-1])
        result[name] = down, up
    return result


def _joined(denoiser: Any, parts: Sequence[str], layers: Mapping[str, Pair]) -> Pair:
    """Return the LoRA of a layer whose outputs are those of several layers, one after another.

    Its rank is the sum of their ranks: ``up`` is block-diagonal, with zeros for layers without LoRA.
    """
    sizes = [denoiser.get_submodule(part).out_features for part in parts]
    trained = [part for part in parts if part in layers]
    down = torch.cat([layers[part][0] for part in trained])
    up = down.new_zeros(sum(sizes), len(down))
    column = 0
    for part in trained:
        row, part_up = sum(sizes[: parts.index(part)]), layers[part][1]
        up[row : row + part_up.shape[0], column : column + part_up.shape[1]] = part_up
        column += part_up.shape[1]
    return down, up


def lora_metadata(
    family: Family, config: TrainConfig, prompts: Sequence[str], step: int, name: str
) -> dict[str, str]:
    """Return the metadata of a file: what programs recognize the base model by, and how it was trained.

    Args:
        family: model of the LoRA.
        config: settings of the run.
        prompts: training prompts; their SHA-256 is part of the metadata.
        step: optimizer step of the weights.
        name: name of the LoRA in programs.
    """
    settings = family.denoiser.peft_config[ADAPTER]
    base = base_model(config.model.id) or public_name(config.model.id)
    rewards = [{"name": public_name(r.name), "weight": r.weight} for r in config.rewards if r.weight]
    base_version, architecture = _architecture(family)
    return {
        "ss_base_model_version": base_version,
        "ss_v2": str(base_version == "sd_v2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(settings.r),
        "ss_network_alpha": str(settings.lora_alpha),
        "ss_output_name": name,
        "ss_sd_model_name": base,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.title": name,
        "refl.version": __version__,
        "refl.base_model": base,
        "refl.rank": str(settings.r),
        "refl.strategy": config.strategy.name,
        "refl.rewards": json.dumps(rewards),
        "refl.prompts_sha256": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        "refl.step": str(step),
    }


def _architecture(family: Family) -> tuple[str, str]:
    """Return the name of the architecture for kohya's scripts and in Stability AI's ModelSpec."""
    if isinstance(family, StableDiffusionXL):
        return "sdxl_base_v1-0", "stable-diffusion-xl-v1-base"
    if isinstance(family, StableDiffusion3):
        return "sd3", "stable-diffusion-3"
    if isinstance(family, Flux):
        return "flux1", "flux-1-dev" if family.denoiser.config.guidance_embeds else "flux-1-schnell"
    if isinstance(family, Flux2Klein):
        return "flux2", "flux-2"
    if isinstance(family, ZImage):
        return "zimage", "z-image"
    if isinstance(family, QwenImage):
        return "qwen_image", "qwen-image"
    if family.denoiser.config.cross_attention_dim == 1024:
        return "sd_v2", "stable-diffusion-v2"
    return "sd_v1", "stable-diffusion-v1"

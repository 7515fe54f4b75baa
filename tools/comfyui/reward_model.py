"""A reward model under ComfyUI's memory management."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import comfy.model_management as memory
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

import reward_core

from .images import to_pixels

FOLDERS = "reward_models"  # under ComfyUI's models/, and a key of extra_model_paths.yaml
BATCH = 16  # images computed at once; fewer when memory runs out

folder_paths.add_model_folder_path(FOLDERS, os.path.join(folder_paths.models_dir, FOLDERS))


def model_names() -> list[str]:
    """What reward-core knows by name, and the saved folders in models/reward_models."""
    return [*reward_core.available_models(), *_saved_folders()]


class _Parameters(nn.Module):
    """The model as the patcher handles it: ``device`` is its to set, which the model's own is not."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class ManagedRewardModel:
    """Loads to ComfyUI's offload device; goes to the graphics card when it scores, and off it for others.

    Args:
        name: a name of ``model_names()``, a folder, a file or a hub repository.
        precision: "exact", "fast" or "auto" (reward_core.load).
    """

    def __init__(self, name: str, precision: str):
        self.name = name
        device, rest = memory.get_torch_device(), memory.text_encoder_offload_device()
        path = _saved_folders().get(name, name)
        # Loaded where it computes, as the precision depends on that; the patcher takes it from there.
        self.model = reward_core.load(path, device=device, precision=precision).to(rest)
        self.patcher = comfy.model_patcher.ModelPatcher(_Parameters(self.model), device, rest)

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
        """Rewards of images (H, W, C), any sizes, each with its prompt; through the differentiable method.

        Raises:
            ValueError: a reward that is no finite number (pixels that are none).
        """
        memory.load_models_gpu([self.patcher], force_full_load=True)
        bar = comfy.utils.ProgressBar(len(images))
        rewards: list[float] = []
        size = BATCH
        while len(rewards) < len(images):
            memory.throw_exception_if_processing_interrupted()
            start = len(rewards)
            try:
                batch = self._batch(images[start : start + size], prompts[start : start + size])
            except memory.OOM_EXCEPTION:
                if size == 1:
                    raise
                size //= 2
                memory.soft_empty_cache()
                continue
            rewards += batch
            bar.update(len(batch))
        for i, reward in enumerate(rewards):
            if reward != reward or reward in (float("inf"), float("-inf")):
                raise ValueError(f"the reward of picture {i} is {reward}: its pixels are not finite numbers")
        return rewards

    @torch.no_grad()
    def _batch(self, images: Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
        device = self.model.device
        # Brought to the encoder's square one by one: images may differ in size.
        pixels = [self.model.transform(to_pixels(image)[None].to(device)) for image in images]
        token_ids, mask = self.model.tokenizer(list(prompts))
        return self.model(torch.cat(pixels), token_ids.to(device), mask.to(device)).float().tolist()


def fingerprint(name: str) -> str:
    """Changes when the files behind a folder or file do, so that ComfyUI loads them again."""
    path = Path(_saved_folders().get(name, name)).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return f"{name} {[(file.name, file.stat().st_mtime_ns) for file in files]}"


def _saved_folders() -> dict[str, str]:
    """Name -> path of the models in models/reward_models (and what extra_model_paths.yaml adds)."""
    found: dict[str, str] = {}
    for root in map(Path, folder_paths.get_folder_paths(FOLDERS)):
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if (folder / "config.json").is_file():
                    found.setdefault(folder.name, str(folder))
    return found

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

FOLDERS = "reward_models"  # folder in ComfyUI's models/, and key in extra_model_paths.yaml
BATCH = 16  # images per batch; halved when memory runs out

folder_paths.add_model_folder_path(FOLDERS, os.path.join(folder_paths.models_dir, FOLDERS))


def model_names() -> list[str]:
    """Return the names of known models and of folders in models/reward_models."""
    return [*reward_core.available_models(), *_saved_folders()]


class _Parameters(nn.Module):
    """Wraps a model for ComfyUI's patcher, which needs to set ``device``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class ManagedRewardModel:
    """A reward model that ComfyUI moves to the graphics card and back.

    Args:
        name: a name of ``model_names()``, a folder, a file or a Hub repository.
        precision: "exact", "fast" or "auto" (see reward_core.load).
    """

    def __init__(self, name: str, precision: str):
        self.name = name
        device, offload_device = memory.get_torch_device(), memory.text_encoder_offload_device()
        path = _saved_folders().get(name, name)
        # Loaded onto the compute device, because the precision depends on it; the patcher moves it later.
        self.model = reward_core.load(path, device=device, precision=precision).to(offload_device)
        self.patcher = comfy.model_patcher.ModelPatcher(_Parameters(self.model), device, offload_device)

    def score(self, images: Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
        """Score images (H, W, C) of any sizes, each for its prompt.

        Raises:
            ValueError: a reward is not finite, because pixels are not.
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
                raise ValueError(
                    f"Cannot score picture {i}: its reward is {reward}, because its pixels are not finite "
                    "numbers. Check the nodes that make it."
                )
        return rewards

    @torch.no_grad()
    def _batch(self, images: Sequence[Tensor], prompts: Sequence[str]) -> list[float]:
        device = self.model.device
        # Resized one by one, because images may differ in size.
        pixels = [self.model.transform(to_pixels(image)[None].to(device)) for image in images]
        token_ids, mask = self.model.tokenizer(list(prompts))
        return self.model(torch.cat(pixels), token_ids.to(device), mask.to(device)).float().tolist()


def fingerprint(name: str) -> str:
    """Return a text that changes with a model's files, so that it is reloaded."""
    path = Path(_saved_folders().get(name, name)).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return f"{name} {[(file.name, file.stat().st_mtime_ns) for file in files]}"


def _saved_folders() -> dict[str, str]:
    """Return name -> path of saved models in all configured folders."""
    folders: dict[str, str] = {}
    for root in map(Path, folder_paths.get_folder_paths(FOLDERS)):
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if (folder / "config.json").is_file():
                    folders.setdefault(folder.name, str(folder))
    return folders

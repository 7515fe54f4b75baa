"""The loaded reward model, kept in memory until it is unloaded or replaced."""

from __future__ import annotations

import gc
import importlib.util
import os
import threading
from typing import Any

NOT_INSTALLED = (
    "the package reward-core is not installed in the WebUI's Python; see Install in the extension's README"
)
CPU_FALLBACK = "ImageReward: the graphics memory is full, scoring pictures on the CPU"


def model_names() -> list[str]:
    """Return the model names to choose from; paths are typed in."""
    if importlib.util.find_spec("reward_core") is None:
        return []
    import reward_core

    return reward_core.available_models()


class ModelHolder:
    """Loads a model on first use, scores single images, and unloads on request."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._model: Any = None
        self.name = ""

    @property
    def model(self) -> Any:
        """The loaded model, or None."""
        return self._model

    def score(self, name: str, prompt: str, image: Any, device: Any) -> float:
        """Score one PIL image.

        The model runs on ``device``, or on the CPU if the device is out of memory.

        Raises:
            ImportError: reward-core is not installed.
            reward_core.RewardCoreError: the model cannot be loaded, or the image cannot be scored.
        """
        import torch

        with self._lock:
            model = self._load(name, device)
            try:
                return model.score(prompt, image)
            except (RuntimeError, MemoryError) as error:
                if model.device.type == "cpu" or "out of memory" not in str(error).lower():
                    raise
            print(CPU_FALLBACK)
            with torch.inference_mode(False):
                model.to("cpu")
            _release_memory()
            return model.score(prompt, image)

    def unload(self) -> float:
        """Unload the model; return its size in megabytes, 0 if none was loaded."""
        with self._lock:
            size = megabytes(self._model)
            self._model, self.name = None, ""
            _release_memory()
            return size

    def _load(self, name: str, device: Any) -> Any:
        if self._model is not None and self.name == name:
            return self._model
        if importlib.util.find_spec("reward_core") is None:
            raise ImportError(NOT_INSTALLED)
        import torch

        import reward_core

        self.unload()
        print(f"ImageReward: loading {name}")
        path = os.path.expanduser(name)
        # The host runs scripts in inference mode, whose tensors cannot be moved later.
        with torch.inference_mode(False):
            try:
                model = reward_core.load(path, device=device)
            except (RuntimeError, MemoryError) as error:
                if "out of memory" not in str(error).lower():
                    raise
                _release_memory()
                print(CPU_FALLBACK)
                model = reward_core.load(path, device="cpu")
        self._model, self.name = model, name
        return model


def megabytes(model: Any) -> float:
    """Return the size of a model's parameters and buffers in 10**6 bytes; 0 for None."""
    if model is None:
        return 0.0
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 1e6


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


HOLDER = ModelHolder()

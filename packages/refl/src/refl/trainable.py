"""What a run trains: LoRA adapters or all the denoiser's weights; their average; how they are saved."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .errors import ConfigError
from .families import Family

ADAPTER = "default"
EMA_NUMBERS = ("decay", "optimization_step")


class Trainable:
    """The trained parameters of a family's denoiser, float32, and their moving average.

    Attributes:
        family: its ``denoiser`` is the module that holds the parameters.
        is_lora: adapters rather than all weights.
        names: the parameters' names in the denoiser.
        parameters: the parameters.
    """

    def __init__(
        self, family: Family, config: ModelConfig, ema_decay: float = 0.0, keep_reference: bool = False
    ):
        self.family, self.is_lora = family, config.lora_rank > 0
        denoiser = family.denoiser
        self._reference: nn.Module | None = None
        if self.is_lora:
            _add_adapter(denoiser, config, config.lora_targets or family.lora_targets)
        else:
            if keep_reference:
                self._reference = copy.deepcopy(denoiser).requires_grad_(False)
            denoiser.requires_grad_(True)
        trained = [(name, p) for name, p in denoiser.named_parameters() if p.requires_grad]
        for _, parameter in trained:
            parameter.data = parameter.data.float()
        self.names = [name for name, _ in trained]
        self.parameters = [parameter for _, parameter in trained]
        self.ema: Any = None
        if ema_decay:
            from diffusers.training_utils import EMAModel

            self.ema = EMAModel(self.parameters, decay=ema_decay)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the family's denoiser is the one that training started from."""
        denoiser = self.family.denoiser
        if self.is_lora:
            denoiser.disable_adapters()
            try:
                yield
            finally:
                denoiser.enable_adapters()
        elif self._reference is None:
            raise RuntimeError("no reference was kept")
        else:
            self.family.denoiser = self._reference
            try:
                yield
            finally:
                self.family.denoiser = denoiser

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within it the parameters are their moving average, where one is kept."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def update_ema(self) -> None:
        if self.ema is not None:
            self.ema.to(self.parameters[0].device)
            self.ema.step(self.parameters)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a checkpoint must hold: the parameters, and their average as ``ema.NAME``."""
        held = {name: p.detach() for name, p in zip(self.names, self.parameters)}
        if self.ema is not None:
            held |= {f"ema.{name}": p for name, p in zip(self.names, self.ema.shadow_params)}
        return {name: tensor.cpu().contiguous() for name, tensor in held.items()}

    @torch.no_grad()
    def load_tensors(self, held: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` returned; ValueError for names or shapes of another run."""
        targets = dict(zip(self.names, self.parameters))
        if self.ema is not None:
            targets |= {f"ema.{name}": p for name, p in zip(self.names, self.ema.shadow_params)}
        if {k: v.shape for k, v in held.items()} != {k: v.shape for k, v in targets.items()}:
            raise ValueError("it holds other parameters than this run trains")
        for name, parameter in targets.items():
            parameter.copy_(held[name])

    def numbers(self) -> dict[str, Any] | None:
        """Return the moving average's own state, for JSON; None where there is no average."""
        return None if self.ema is None else {name: getattr(self.ema, name) for name in EMA_NUMBERS}

    def load_numbers(self, numbers: dict[str, Any] | None) -> None:
        """Put back what ``numbers`` returned."""
        for name, value in (numbers or {}).items():
            setattr(self.ema, name, value)

    def save(self, folder: Path) -> None:
        """Write what plain diffusers loads: a LoRA folder (``pipe.load_lora_weights``) or a pipeline."""
        with self.ema_weights():
            if not self.is_lora:
                self.family.pipeline.save_pretrained(folder)
                return
            from diffusers.utils import convert_state_dict_to_diffusers
            from peft.utils import get_peft_model_state_dict

            denoiser, part = self.family.denoiser, self.family.part
            layers = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER)
            layers = {name: weight.detach().cpu().contiguous() for name, weight in layers.items()}
            if part == "unet":
                layers = convert_state_dict_to_diffusers(layers)
            self.family.pipeline.save_lora_weights(
                folder,
                **{
                    f"{part}_lora_layers": layers,
                    f"{part}_lora_adapter_metadata": _metadata(denoiser),
                },
            )


def _add_adapter(denoiser: Any, config: ModelConfig, targets: tuple[str, ...]) -> None:
    from peft import LoraConfig

    alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )
    try:
        denoiser.add_adapter(lora, adapter_name=ADAPTER)
    except ValueError as error:  # no layer has such a name
        raise ConfigError(f"model.lora_targets: {error}") from error


def _metadata(denoiser: Any) -> dict[str, Any]:
    """The adapter's configuration; its sets in order, so that equal runs write equal files."""
    settings = denoiser.peft_config[ADAPTER].to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}

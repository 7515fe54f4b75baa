"""The trained parameters (LoRA or all weights) and their moving average."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .errors import ConfigError, ModelError
from .families import Family

ADAPTER = "default"
EMA_NUMBERS = ("decay", "optimization_step")


class Trainable:
    """The trained parameters of a denoiser in float32, and their average.

    Args:
        family: model whose denoiser is trained.
        config: LoRA settings; rank 0 trains all weights.
        ema_decay: decay of the moving average (EMA), in [0, 1); 0: no average.
        keep_reference: keep what ``reference`` needs: a copy of the denoiser, if all weights are trained.
        keep_old: keep a frozen second set of the trained parameters, which ``old`` switches to.

    Attributes:
        family: model whose denoiser is trained.
        is_lora: whether LoRA adapters or all weights are trained.
        names: names of the trained parameters in the denoiser.
        parameters: the trained parameters.
        ema: diffusers' EMAModel, or None.

    Raises:
        ModelError: the denoiser does not support LoRA.
        ConfigError: no layer has a name in the LoRA targets.
    """

    def __init__(
        self,
        family: Family,
        config: ModelConfig,
        ema_decay: float = 0.0,
        keep_reference: bool = False,
        keep_old: bool = False,
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
        self._old = [p.detach().clone() for p in self.parameters] if keep_old else []

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the family's denoiser to the base model's weights within the context."""
        denoiser = self.family.denoiser
        if self.is_lora:
            denoiser.disable_adapters()
            try:
                yield
            finally:
                denoiser.enable_adapters()
        elif self._reference is None:
            raise RuntimeError("Cannot switch to the base weights: no copy was kept. Set keep_reference.")
        else:
            self.family.denoiser = self._reference
            try:
                yield
            finally:
                self.family.denoiser = denoiser

    @contextmanager
    def old(self) -> Iterator[None]:
        """Switch the parameters to the old weights, if any, in the context, for passes without gradient.

        Nothing is copied: each parameter gets the old tensor and afterwards its own again. End autocast
        before and in the context, since it caches weights.
        """
        if not self._old:
            yield
            return
        trained = [parameter.data for parameter in self.parameters]
        for parameter, old in zip(self.parameters, self._old, strict=True):
            parameter.data = old
        try:
            yield
        finally:
            for parameter, data in zip(self.parameters, trained):
                parameter.data = data

    @contextmanager
    def inputs_uncast(self) -> Iterator[None]:
        """Let LoRA layers not cast their inputs in the context, for passes under autocast, which casts them.

        peft casts inputs to the float32 of the factors. Autocast casts these back, so nothing is gained, and
        autograd keeps a copy for every layer.
        """
        if not self.is_lora:
            yield
            return
        from peft.helpers import disable_input_dtype_casting

        with disable_input_dtype_casting(self.family.denoiser):
            yield

    @torch.no_grad()
    def update_old(self, kept: float) -> None:
        """Move the old weights, if any, toward the trained ones; they keep a share ``kept`` of themselves."""
        if not self._old:
            return
        for old, parameter in zip(self._old, self.parameters, strict=True):
            old.lerp_(parameter, 1 - kept)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Switch the parameters to their moving average, if any, in the context."""
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
        """Update the moving average, if there is one."""
        if self.ema is not None:
            device = self.parameters[0].device
            self.ema.to(device)
            # A few launches instead of three per parameter. It needs memory for one more copy of the
            # parameters, which is little only for LoRA.
            self.ema.foreach = self.is_lora and device.type == "cuda"
            self.ema.step(self.parameters)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint by name; with averages (ema.NAME), old weights (old.NAME)."""
        tensors = {name: p.detach() for name, p in zip(self.names, self.parameters)}
        tensors |= {f"old.{name}": old for name, old in zip(self.names, self._old)}
        if self.ema is not None:
            tensors |= {f"ema.{name}": p for name, p in zip(self.names, self.ema.shadow_params)}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load what ``tensors`` returned.

        Raises:
            ValueError: names or shapes differ from those of this run.
        """
        targets = dict(zip(self.names, self.parameters))
        targets |= {f"old.{name}": old for name, old in zip(self.names, self._old)}
        if self.ema is not None:
            targets |= {f"ema.{name}": p for name, p in zip(self.names, self.ema.shadow_params)}
        if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in targets.items()}:
            raise ValueError("its parameters differ from those that this run trains")
        for name, parameter in targets.items():
            parameter.copy_(tensors[name])

    def numbers(self) -> dict[str, Any] | None:
        """Return the state of the moving average for JSON, or None without one."""
        return None if self.ema is None else {name: getattr(self.ema, name) for name in EMA_NUMBERS}

    def load_numbers(self, numbers: dict[str, Any] | None) -> None:
        """Load what ``numbers`` returned."""
        for name, value in (numbers or {}).items():
            setattr(self.ema, name, value)

    def save(self, folder: Path) -> None:
        """Save a LoRA folder or a pipeline folder for diffusers."""
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
    if not hasattr(denoiser, "add_adapter"):
        raise ModelError(
            f"Cannot add LoRA layers to {type(denoiser).__name__}: it has no add_adapter() (see "
            "PeftAdapterMixin of diffusers). Set model.lora_rank=0 to train all weights."
        )
    from peft import LoraConfig

    alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )
    try:
        denoiser.add_adapter(lora, adapter_name=ADAPTER)
    except ValueError as error:  # no layer has this name
        raise ConfigError(f"Cannot use model.lora_targets={list(targets)}: {error}") from error


def _metadata(denoiser: Any) -> dict[str, Any]:
    """Return the adapter's config with sorted sets, for reproducible files."""
    settings = denoiser.peft_config[ADAPTER].to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}

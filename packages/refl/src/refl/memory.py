"""An estimate of the GPU memory that a run needs, from its sizes; nothing is computed at full size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .dtypes import DTYPES
from .objective import Objective
from .rollout_plan import RolloutPlan

GB = 2**30
CARDS = (24, 80)  # GB
MARGIN, CONTEXT = 1.15, 1.0  # fragmentation and temporary tensors; GB of CUDA and its libraries


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of a training step by part.

    Attributes:
        parts: name of a part that stays -> bytes.
        activations: peak of the activations and other temporary tensors, without the margin.
        accumulates: whether gradients are kept from one microstep to the next. Otherwise they appear while
            the activations are freed, and do not add to the peak.
    """

    parts: dict[str, float]
    activations: float
    accumulates: bool = True

    @property
    def peak(self) -> float:
        """Return the estimated peak in bytes, without CUDA's own memory."""
        activations = MARGIN * self.activations
        gradients = self.parts.get("gradients", 0.0)
        shared = 0.0 if self.accumulates else min(gradients, activations)
        return sum(self.parts.values()) + activations - shared

    @property
    def total(self) -> float:
        """Return the estimated peak in GB, with CUDA's own memory."""
        return self.peak / GB + CONTEXT

    def __str__(self) -> str:
        parts = {**self.parts, "activations": MARGIN * self.activations}
        listed = ", ".join(f"{value / GB:.1f} {name}" for name, value in parts.items() if value)
        cards = ", ".join(f"{size} GB: {'fits' if self.total <= size else 'too small'}" for size in CARDS)
        return f"memory (estimate, not measured): {self.total:.1f} GB ({listed}). GPU of {cards}"


def estimate_memory(objective: Objective, plan: RolloutPlan) -> Memory:
    """Estimate the peak memory of a training step with a plan.

    Activations are counted on the "meta" device, which has shapes and no data. Those of rewards are
    counted in a forward pass on gray images.
    """
    config, family, trainable = objective.config, objective.family, objective.trainable
    trained = 4.0 * sum(p.numel() for p in trainable.parameters)
    copy = objective.no_grad_copy
    full_reference = config.loss.distance_weight > 0 and not trainable.is_lora
    parts = {
        "weights": _size(m for m in family.pipeline.components.values() if isinstance(m, nn.Module)),
        "rewards": _size(_modules_of_rewards(objective)),
        "copy for steps without gradient": 0.0 if copy is None else float(copy.nbytes),
        "reference": _size([family.denoiser]) if full_reference else 0.0,
        "old weights": trained if config.strategy.keeps_old_weights else 0.0,
        "gradients": trained,
        "optimizer": trained * (0.5 if config.optimizer.eight_bit else 2),
        "moving average": trained if config.optimizer.ema_decay else 0.0,
    }
    rollout, run = config.rollout, config.run
    guided = rollout.guidance_scale != 1 and rollout.negative_gradient and not family.scale_is_input
    passes, images = len(plan.gradient) + plan.copies, run.batch_size * (1 + plan.copies)
    held, block = _denoiser_bytes(objective, run.batch_size * (1 + guided))
    if not config.strategy.needs_reward_gradient:  # images and rewards are computed without gradient
        activations = held + block
    else:
        activations = _with_rewards(objective, images, passes, held, block)
    if objective.captioned is not None:  # its activations are kept beside those of the rollout
        activations += sum(_denoiser_bytes(objective, config.loss.pretraining_batch_size))
    return Memory(parts, activations, accumulates=run.accumulation > 1)


def _with_rewards(objective: Objective, images: int, passes: int, held: float, block: float) -> float:
    """Return the peak of the activations of the gradient steps, the decoder and the rewards."""
    config, rollout = objective.config, objective.config.rollout
    decoder, rewards = _decoder_bytes(objective, images), _reward_bytes(objective, images)
    if not rollout.gradient_checkpointing:
        return passes * held + block + decoder + rewards
    if config.model.gradient_checkpointing and passes == 1:
        return held + max(block, decoder, rewards)
    return max(held + block, decoder, rewards)


def _modules_of_rewards(objective: Objective) -> Iterable[nn.Module]:
    for reward in (*objective.rewards.trained, *objective.rewards.held_out):
        owner = getattr(reward.function, "__self__", reward.function)
        if isinstance(owner, nn.Module):
            yield owner


def _size(modules: Iterable[nn.Module]) -> float:
    return float(sum(p.numel() * p.element_size() for module in modules for p in module.parameters()))


def _denoiser_bytes(objective: Objective, batch: int) -> tuple[float, float]:
    """Return the bytes that a pass with gradient keeps, and those of the largest block it recomputes."""
    family = objective.family
    latents = torch.empty(batch, *family.latent_shape(objective.height, objective.width), device="meta")
    shapes = family.condition_shapes()
    on_meta = {name: torch.empty(batch, *shape, device="meta") for name, shape in shapes.items()}
    half = DTYPES[objective.config.run.mixed_precision]
    saved = _Saved()
    with _recorded_blocks(family.denoiser, saved) as largest, _Autocast(half):
        _on_meta(family.denoiser, lambda: family.predict(latents, 0.0, on_meta, 1.0), saved)
    return saved.bytes, largest[0]


def _decoder_bytes(objective: Objective, batch: int) -> float:
    family = objective.family
    shape = family.latent_shape(objective.height, objective.width)
    latents = torch.empty(batch, *shape, device="meta", requires_grad=True)
    half = objective.decode_dtype
    if half == torch.float16 and getattr(family.pipeline.vae.config, "force_upcast", False):
        half = torch.float32
    saved = _Saved()
    with _Autocast(half):
        _on_meta(family.pipeline.vae, lambda: family.pipeline.vae.decode(latents), saved)
    return saved.bytes


def _reward_bytes(objective: Objective, batch: int) -> float:
    saved = _Saved(p for module in _modules_of_rewards(objective) for p in module.parameters())
    shape = (2, 3, objective.height, objective.width)
    pixels = torch.full(shape, 0.5, device=objective.accelerator.device, requires_grad=True)
    with saved.hooks():
        for reward in objective.rewards.trained:
            saved.graphs.append(reward(pixels, ["a prompt"] * 2))
    return saved.bytes * batch / 2


class _Saved:
    """Bytes of the tensors that autograd saves; shared storage counts once, that of weights never.

    Args:
        weights: tensors that do not count.
    """

    def __init__(self, weights: Iterable[Tensor] = ()):
        self.bytes = 0.0
        self.storages: dict[int, Any] = {}  # holds storages, so that none is freed and counted twice
        self.graphs: list[Any] = []
        self.ignore(weights)

    def ignore(self, weights: Iterable[Tensor]) -> None:
        """Do not count these tensors."""
        for storage in (weight.untyped_storage() for weight in weights):
            self.storages[storage._cdata] = storage

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor; return it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor

    def hooks(self) -> Any:
        """Return the context in which saved tensors are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor)


class _Call(nn.Module):
    def __init__(self, module: nn.Module, call: Callable[[], Any]):
        super().__init__()
        self.module, self.call = module, call

    def forward(self) -> Any:
        return self.call()


def _on_meta(module: nn.Module, call: Callable[[], Any], saved: _Saved) -> None:
    """Call a function that uses the module, with meta tensors as the module's parameters and buffers."""
    wrapper = _Call(module, call)
    tensors = {}
    for name, tensor in (*wrapper.named_parameters(), *wrapper.named_buffers()):
        meta = torch.empty_like(tensor, device="meta")
        tensors[name] = nn.Parameter(meta, tensor.requires_grad) if tensor.is_floating_point() else meta
    saved.ignore(tensors.values())
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"), saved.hooks():
        saved.graphs.append(torch.func.functional_call(wrapper, tensors, ()))


@contextmanager
def _recorded_blocks(denoiser: nn.Module, saved: _Saved) -> Any:
    """Count checkpointed blocks by their inputs; yield a list with the bytes of the largest block."""
    largest = [0.0]

    def run(block: Callable[..., Any], *inputs: Any, use_reentrant: bool = False, **options: Any) -> Any:
        inner = _Saved()
        inner.storages |= saved.storages
        with inner.hooks():
            result = block(*inputs, **options)
        for value in (*inputs, *options.values()):
            if isinstance(value, Tensor):
                saved.add(value)
        saved.graphs += [inner, result]
        largest[0] = max(largest[0], inner.bytes)
        return result

    changed = [m for m in denoiser.modules() if getattr(m, "gradient_checkpointing", False)]
    before = [module._gradient_checkpointing_func for module in changed]
    for module in changed:
        module._gradient_checkpointing_func = run  # type: ignore[assignment]
    try:
        yield largest
    finally:
        for module, function in zip(changed, before):
            module._gradient_checkpointing_func = function


class _Attention(torch.autograd.Function):
    """Attention as GPU kernels do it: keeps queries, keys, values and the result, but no weights."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = q.new_empty(*q.shape[:-1], v.shape[-1])
        context.save_for_backward(q, k, v, result)
        return result


class _Autocast(TorchFunctionMode):
    """Autocast for meta tensors: linear layers in half precision, norms in float32."""

    def __init__(self, half: torch.dtype):
        super().__init__()
        self.half = half

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_attention = function is F.scaled_dot_product_attention
        if is_attention or function in (F.linear, F.conv2d, torch.matmul, torch.bmm, torch.baddbmm):
            args, kwargs = (
                self._cast(args, self.half),
                {k: self._cast([v], self.half)[0] for k, v in kwargs.items()},
            )
        elif function in (F.group_norm, F.layer_norm) and self.half != torch.float32:
            args = self._cast(args, torch.float32)
        if is_attention:
            names = ("query", "key", "value")
            given = [*args, *(kwargs[name] for name in names[len(args) :])]
            return _Attention.apply(*given[:3])
        return function(*args, **kwargs)

    @staticmethod
    def _cast(values: Iterable[Any], dtype: torch.dtype) -> list[Any]:
        return [v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]

"""An estimate of the GPU memory that a run needs, from its sizes; nothing is computed at full size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..denoising.rollout_plan import RolloutPlan
from ..dtypes import DTYPES
from ..families import Family
from ..families.text_encoders import is_text_encoder
from ..objectives.objective import Objective
from .saved_bytes import MetaAutocast, SavedBytes, on_meta, recorded_blocks

GB = 2**30
CARDS = {24: 23.5, 80: 79.2}  # GB in the name of a GPU -> GB that programs can use, about
MARGIN, CONTEXT = 1.15, 1.0  # fragmentation and temporary tensors; GB of CUDA and its libraries
GRAPHS_MARGIN = 1.5  # graphs reuse each other's memory badly: measured with SD 1.5's size on an H200


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
        fits = {size: "fits" if self.total <= usable else "too small" for size, usable in CARDS.items()}
        cards = ", ".join(f"{size} GB: {answer}" for size, answer in fits.items())
        return f"memory (estimate, not measured): {self.total:.1f} GiB ({listed}). GPU of {cards}"


def estimate_memory(objective: Objective, plan: RolloutPlan) -> Memory:
    """Estimate the peak memory of a training step with a plan.

    Activations are counted on the "meta" device, which has shapes and no data. Those of rewards are
    counted in a forward pass on gray images.
    """
    config, family, trainable = objective.config, objective.family, objective.trainable
    trained = 4.0 * sum(p.numel() for p in trainable.parameters)
    copy = objective.no_grad_copy
    full_reference = config.loss.distance_weight > 0 and not trainable.is_lora
    modules = {n: m for n, m in family.pipeline.components.items() if isinstance(m, nn.Module)}
    encoders = [m for name, m in modules.items() if is_text_encoder(name, m)]
    offloads = config.model.offload_text_encoders
    parts = {
        "weights": _size(m for m in modules.values() if not offloads or m not in encoders),
        "rewards": _size(_modules_of_rewards(objective)),
        "copy for steps without gradient": 0.0 if copy is None else float(copy.nbytes),
        "reference": _size([family.denoiser]) if full_reference else 0.0,
        "old weights": trained if config.strategy.keeps_old_weights else 0.0,
        "gradients": 0.0,
        "optimizer": trained * (0.5 if config.optimizer.eight_bit else 2),
        "moving average": trained if config.optimizer.ema_decay else 0.0,
    }
    rollout, run = config.rollout, config.run
    recorded = () if objective.gradient_graphs is None else objective.gradient_graphs.parts
    guided = rollout.guidance_scale != 1 and rollout.negative_gradient and not family.scale_is_input
    passes, images = len(plan.gradient) + plan.copies, run.batch_size * (1 + plan.copies)
    passes = passes or 1  # of srpo, after the rollout
    held, block = _denoiser_bytes(objective, run.batch_size * (1 + guided))
    recomputes_blocks = config.model.gradient_checkpointing and passes == 1 and "forward" not in recorded
    keeps = not rollout.gradient_checkpointing or recomputes_blocks
    graphs = _reward_bytes(objective, images, recorded=True)
    if not config.strategy.needs_reward_gradient:  # images and rewards are computed without gradient
        activations = held + block
    elif "denoiser" in recorded:
        graphs += held + block
        activations = _image_bytes(objective, images)
        if "decoder" in recorded:
            graphs += sum(_decoder_bytes(objective, images))
            activations = _reward_bytes(objective, images, recorded=False)
    elif keeps:
        activations = passes * held + max(block, _image_bytes(objective, images))
    else:  # gradient steps are recomputed as a whole, after the backward pass of the images
        activations = max(held + block, _image_bytes(objective, images))
    parts["CUDA graphs"] = GRAPHS_MARGIN * graphs
    if objective.captioned is not None:  # its activations are kept beside those of the rollout
        activations += sum(_pass_bytes(objective, objective.family, config.loss.pretraining_batch_size))
    if offloads:  # while prompts are encoded, there are no activations but those of graphs
        activations = max(activations, _size(encoders))
    accumulates = objective.microsteps_per_step > 1
    summed = "denoiser" in recorded and (accumulates or passes > 1)
    parts["gradients"] = _gradient_bytes(objective, summed)
    return Memory(parts, activations, accumulates or "denoiser" in recorded)


def _gradient_bytes(objective: Objective, summed: bool) -> float:
    """Return the bytes of the gradients.

    Args:
        objective: what is trained.
        summed: whether gradients of graphs, whose memory stays, are added to others.
    """
    weights, singles = objective.half_weights, objective.trainable.parameters
    halves = singles if weights is None else weights.parameters.values()
    kept = _bytes_of(halves if objective.keeps_half_gradients else singles)
    return kept + (_bytes_of(halves) if summed else 0.0)


def _bytes_of(parameters: Iterable[Tensor]) -> float:
    return float(sum(parameter.numel() * parameter.element_size() for parameter in parameters))


def _image_bytes(objective: Objective, images: int) -> float:
    """Return the peak of the activations of the decoder and of rewards that are not recorded.

    The rewards are backpropagated first, then the decoder block by block.
    """
    kept, block = _decoder_bytes(objective, images)
    return kept + max(block, _reward_bytes(objective, images, recorded=False))


def _modules_of_rewards(objective: Objective) -> Iterable[nn.Module]:
    for reward in (*objective.rewards.trained, *objective.rewards.held_out):
        owner = getattr(reward.function, "__self__", reward.function)
        if isinstance(owner, nn.Module):
            yield owner


def _size(modules: Iterable[nn.Module]) -> float:
    return _bytes_of(parameter for module in modules for parameter in module.parameters())


def _denoiser_bytes(objective: Objective, batch: int) -> tuple[float, float]:
    """Return the bytes that a pass with gradient keeps, and those of the largest block it recomputes."""
    weights = objective.half_weights
    return _pass_bytes(objective, objective.family if weights is None else weights.family, batch)


def _pass_bytes(objective: Objective, family: Family, batch: int) -> tuple[float, float]:
    latents = torch.empty(batch, *family.latent_shape(objective.height, objective.width), device="meta")
    shapes = family.condition_shapes()
    condition = {name: torch.empty(batch, *shape, device="meta") for name, shape in shapes.items()}
    half = DTYPES[objective.config.run.mixed_precision]
    saved = SavedBytes()
    with recorded_blocks(family.denoiser, saved), MetaAutocast(half):
        on_meta(family.denoiser, lambda: family.predict(latents, 0.0, condition, 1.0), saved)
    family.clear_caches()
    return saved.bytes, saved.largest_block


def _decoder_bytes(objective: Objective, batch: int) -> tuple[float, float]:
    """Return the bytes that decoding with gradient keeps, and those of the largest block it recomputes."""
    family, vae = objective.family, objective.family.pipeline.vae
    shape = family.latent_shape(objective.height, objective.width)
    latents = torch.empty(batch, *shape, device="meta", requires_grad=True)
    saved = SavedBytes()
    recompute = saved.block if objective.config.rollout.gradient_checkpointing else None
    with MetaAutocast(family.decoder_dtype(objective.decode_dtype)):
        on_meta(vae, lambda: family.run_decoder(family.unscale(latents), recompute), saved)
    return saved.bytes, saved.largest_block


def _reward_bytes(objective: Objective, batch: int, recorded: bool) -> float:
    """Return the bytes that trained rewards keep, of those that become CUDA graphs or of the others."""
    rewards = [r for r in objective.rewards.trained if (r.recorded is not None) == recorded]
    saved = SavedBytes(p for module in _modules_of_rewards(objective) for p in module.parameters())
    shape = (2, 3, objective.height, objective.width)
    pixels = torch.full(shape, 0.5, device=objective.accelerator.device, requires_grad=True)
    with saved.hooks():
        for reward in rewards:
            saved.graphs.append(reward(pixels, ["a prompt"] * 2))
    # A graph has no activations after a call, so two calls need no more memory than one.
    calls = 1 if recorded else objective.config.strategy.prompts_per_image
    return saved.bytes * calls * batch / 2

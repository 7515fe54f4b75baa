"""Parts of a training step as CUDA graphs: one launch forward and one backward.

On a fast GPU, launching the thousands of kernels of a gradient step takes longer than computing them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reward_core.runs.cuda import tf32, upload
from reward_core.scoring.cuda_graph import LazyMemory
from reward_core.scoring.scoring_model import ScoringModel

from ..config import TrainConfig
from ..dtypes import DTYPES, autocast
from ..errors import ConfigError
from ..families import Condition, Family, Guidance
from ..families.base import batch_of
from ..rewards import Reward
from .no_grad_copy import NoGradCopy
from .recorded_gradient import RecordedGradient
from .replaced_forward import with_forward

# A pass of a larger denoiser takes longer than launching it.
MOST_PARAMETERS = 4e9
# The decoder and its memory grow with the images, but the time to launch it does not.
MOST_PIXELS = 512 * 512
PARTS = {
    "no": (),
    "rewards": ("rewards",),
    "forward": ("rewards", "forward"),
    "denoiser": ("rewards", "denoiser"),
    "all": ("rewards", "denoiser", "decoder"),
}


def is_small(family: Family) -> bool:
    """Return whether launching the denoiser takes longer than computing it on a fast GPU."""
    return sum(parameter.numel() for parameter in family.denoiser.parameters()) <= MOST_PARAMETERS


def no_fixed_shapes(setting: str, family: Family) -> ConfigError:
    """Return the error about a setting that needs fixed shapes."""
    return ConfigError(
        f"Cannot use rollout.{setting} with {type(family).__name__}: CUDA graphs cannot replay its denoiser. "
        "Remove the setting."
    )


def recorded_parts(config: TrainConfig, family: Family) -> tuple[str, ...]:
    """Return the parts of a training step that become CUDA graphs on a GPU.

    These are: rewards, forward (the copy for steps without gradient computes the denoiser's forward pass),
    denoiser (both its passes), decoder.

    Raises:
        ConfigError: ``rollout.gradient_graphs`` does not fit the model.
    """
    chosen = config.rollout.gradient_graphs
    if not config.strategy.needs_reward_gradient:
        return ()
    if chosen is None and _everything_pays(config, family):
        chosen = "all"
    elif chosen is None:
        chosen = "forward" if _forward_of_copy_pays(config, family) else "rewards"
    if chosen in ("forward", "denoiser", "all") and not family.fixed_shapes:
        raise no_fixed_shapes("gradient_graphs", family)
    return PARTS[chosen]


def _everything_pays(config: TrainConfig, family: Family) -> bool:
    """Return whether recording every part saves much time without too much memory.

    With all weights trained, launched backward passes use the same memory for activations and then for
    gradients; text encoders that come and go would use that of activations.
    """
    rollout, model = config.rollout, config.model
    height, width = family.image_size(rollout.height, rollout.width)
    small = is_small(family) and height * width <= MOST_PIXELS
    is_lora = model.lora_rank > 0 and not model.offload_text_encoders
    return small and is_lora and _recomputes_once(config) and family.fixed_shapes


def _recomputes_once(config: TrainConfig) -> bool:
    """Return whether the backward pass computes a whole gradient step again, and no block once more."""
    model = config.model
    blocks = model.gradient_checkpointing or model.compile
    return config.rollout.gradient_checkpointing and not blocks


def _forward_of_copy_pays(config: TrainConfig, family: Family) -> bool:
    """Return whether the copy for steps without gradient is to compute forward passes with gradient too.

    Where these are computed again in the backward pass, it saves time and costs no memory. The distance to
    the base model would contain the rounding of the copy.
    """
    is_as_precise = config.rollout.no_grad_dtype == config.run.mixed_precision
    fits = is_as_precise and not config.loss.distance_weight
    return fits and _recomputes_once(config) and copy_is_recorded(config, family)


def copy_is_recorded(config: TrainConfig, family: Family) -> bool:
    """Return whether the copy for steps without gradient becomes CUDA graphs on a GPU."""
    rollout = config.rollout
    if not rollout.no_grad_dtype or rollout.no_grad_graphs is not None:
        return bool(rollout.no_grad_dtype and rollout.no_grad_graphs)
    return family.fixed_shapes and is_small(family) and not rollout.no_grad_compile


class GradientGraphs:
    """Gradient steps of the denoiser, the decoder and rewards as CUDA graphs.

    On a CPU, nothing is recorded; forward passes by the copy are launched.

    Args:
        family: the model.
        parameters: name within the denoiser -> parameter that gets a gradient.
        dtype: dtype of the denoiser's autocast; float32: no autocast.
        decode_dtype: dtype of the decoder's autocast.
        parts: what to record (see ``recorded_parts``).
        tf32: whether TF32 is allowed in backward passes.
        copy: copy for the steps without gradient, which "forward" needs. Its memory is used for the graphs
            too, unless the backward pass of the denoiser is recorded, whose gradients stay there until the
            optimizer takes them.
    """

    def __init__(
        self,
        family: Family,
        parameters: Mapping[str, nn.Parameter],
        dtype: torch.dtype,
        decode_dtype: torch.dtype,
        parts: Collection[str],
        tf32: bool,
        copy: NoGradCopy | None = None,
    ):
        self.family, self.dtype, self.decode_dtype = family, dtype, decode_dtype
        self.parts, self.tf32 = parts, tf32
        self.memory = LazyMemory() if copy is None or "denoiser" in parts else copy.memory
        self.copy = copy
        # It is recorded first, and later recordings leave its gradients alone; a reward that is called
        # several times in a step waits for it.
        self.denoiser = self._recorded("denoiser", family.denoiser, parameters)
        self.decoder = self._recorded("decoder", family.pipeline.vae, {})

    def _recorded(
        self, part: str, module: nn.Module, parameters: Mapping[str, nn.Parameter]
    ) -> RecordedGradient | None:
        return RecordedGradient(module, parameters, self.memory, self.tf32) if part in self.parts else None

    def denoise(
        self,
        launched: Callable[[], Tensor],
        latents: Tensor,
        timestep: float | Tensor,
        condition: Condition,
        guidance: Guidance,
    ) -> Tensor:
        """Run the denoiser with guidance and gradient; return its output (B, C, h, w), float32.

        Args:
            launched: computes the output without graphs.
            latents: (B, C, h, w) noisy latents.
            timestep: one number or (B,) numbers.
            condition: encoded prompts.
            guidance: guidance of the rollout.
        """
        recorded = self.denoiser is not None and self.denoiser.works_on(latents.device)
        if not recorded and "forward" not in self.parts:
            return launched()
        names = condition.names

        def denoise(latents: Tensor, timesteps: Tensor, *encoded: Tensor) -> Tensor:
            # Weights that were cast outside of a graph would not follow the trained ones.
            with autocast(latents.device, self.dtype, cache=False):
                condition = Condition.from_tensors(names, encoded)
                return self.family.denoise(latents, timesteps, condition, guidance)

        # A graph reads the timestep from memory.
        tensors = latents, batch_of(timestep, latents), *condition.tensors
        if self.denoiser is not None:
            return self.denoiser(lambda *_: launched(), denoise, (*names, guidance), *tensors)
        copy = self.copy

        def with_copy(latents: Tensor, timesteps: Tensor, *encoded: Tensor) -> Tensor:
            assert copy is not None  # the settings are checked
            return copy.denoise(latents, timesteps, Condition.from_tensors(names, encoded), guidance)

        return with_forward(with_copy, denoise, *tensors)

    def decode(self, latents: Tensor, recompute: bool) -> Tensor:
        """Decode clean latents (B, C, h, w) to pixels (B, 3, H, W) in [0, 1], float32, differentiably.

        Args:
            latents: the latents.
            recompute: recompute activations in the backward pass; a graph always does.
        """

        def decode(latents: Tensor) -> Tensor:
            return self.family.decode(latents, recompute, self.decode_dtype)

        decoder = self.decoder
        if decoder is None or not decoder.works_on(latents.device) or not latents.requires_grad:
            return decode(latents)
        return decoder(decode, decode, (), latents)

    def record(self, rewards: Iterable[Reward]) -> None:
        """Record rewards whose prompts become tensors before the images are needed."""
        for reward in rewards if "rewards" in self.parts else ():
            model = getattr(reward.function, "__self__", None)
            if not isinstance(model, ScoringModel) or not model.can_be_recorded:
                continue
            if getattr(reward.function, "__func__", None) is ScoringModel.rewards_from_pixels:
                gradient = RecordedGradient(model, {}, self.memory, self.tf32, after=self.denoiser)
                reward.recorded = _RecordedReward(model, DTYPES[reward.config.dtype], gradient)


class _RecordedReward:
    """A reward model as CUDA graphs, with prompts padded to its largest number of tokens."""

    def __init__(self, model: ScoringModel, dtype: torch.dtype, gradient: RecordedGradient):
        self.model, self.dtype, self.gradient = model, dtype, gradient
        self.matrices: Sequence[Tensor] = ()  # of the resize, which the graphs read

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return rewards (N,) of pixels (N, 3, H, W) and N prompts."""
        model = self.model
        usual = len(pixels) == len(prompts) and pixels.device == model.device and pixels.requires_grad
        if not usual or not self.gradient.works_on(pixels.device):
            return model.rewards_from_pixels(pixels, prompts)

        def launched(*_: Tensor) -> Tensor:
            return model.rewards_from_pixels(pixels, prompts)

        def rewards(pixels: Tensor, token_ids: Tensor, mask: Tensor) -> Tensor:
            # Weights that were cast outside of the graph would be freed.
            with tf32(False), autocast(pixels.device, self.dtype, cache=False):
                return model(model.transform(pixels), token_ids, mask).float()

        if not self.matrices:
            height, width = pixels.shape[-2:]
            self.matrices = model.transform.resize_matrices(height, width, pixels.device)
        token_ids, mask = model.tokenizer(prompts, length=model.tokenizer.max_length)
        tensors = pixels, upload(token_ids, model.device), upload(mask, model.device)
        return self.gradient(launched, rewards, (), *tensors)

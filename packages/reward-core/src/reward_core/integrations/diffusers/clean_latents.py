"""The image a denoising step is heading for: x0 from the denoiser's output, and its pixels.

Every sampler of diffusers keeps its latents in one of three ways (x0 clean, noise standard normal):

    alpha * x0 + sigma * noise, alpha^2 + sigma^2 = 1     DDIM, DDPM, PNDM, LCM, DPM-Solver, UniPC, ...
    x0 + s * noise                                        Euler, Heun, LMS, KDPM2, ... (k-diffusion)
    (1 - sigma) * x0 + sigma * noise                      rectified flows

Schedulers keep a step index that a second call of theirs would spoil, so x0 is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError

if TYPE_CHECKING:
    from PIL import Image


#: What a denoiser may predict: the noise, v, x0 itself, or the flow (noise - x0).
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


def predicted_clean(scheduler: Any, output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """x0, shaped as ``sample``, from the arguments of a call of ``scheduler.step`` that is about to run.

    Args:
        scheduler: of diffusers, in the middle of its run.
        output: the denoiser's output, guidance included.
        timestep: of the step.
        sample: the latents that the denoiser saw, as the scheduler keeps them.

    Raises:
        InputError: a scheduler or kind of prediction that is none of the three.
    """
    alpha, sigma, scale = _levels(scheduler, timestep)
    x, output = sample.float() / scale, output.float()
    prediction = _prediction(scheduler)
    if prediction not in PREDICTIONS:
        raise InputError(
            f"{type(scheduler).__name__}: x0 of prediction type {prediction!r} is not known here"
        )
    return clean(x, output, alpha, sigma, prediction)


def clean(x: Tensor, output: Tensor, alpha: Any, sigma: Any, prediction: str) -> Tensor:
    """Return x0 from latents x = alpha * x0 + sigma * noise and the denoiser's output.

    Args:
        x: latents (B, ...).
        output: of the denoiser, as x.
        alpha, sigma: numbers, or tensors that broadcast to x.
        prediction: one of `PREDICTIONS`.
    """
    if prediction == "epsilon":
        return (x - sigma * output) / alpha
    if prediction == "v_prediction":
        return alpha * x - sigma * output
    if prediction == "flow":
        return x - sigma * output
    return output


def _prediction(scheduler: Any) -> str:
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    prediction = scheduler.config.get("prediction_type", "epsilon")
    return "flow" if prediction == "flow_prediction" else prediction


def _levels(scheduler: Any, timestep: Any) -> tuple[float, float, float]:
    """alpha, sigma, and by what the scheduler's latents are larger than alpha * x0 + sigma * noise."""
    name, sigmas = type(scheduler).__name__, getattr(scheduler, "sigmas", None)
    if name.startswith("EDM") or name.startswith("CosineDPM"):
        raise InputError(f"{name}: its noise levels are not known here")
    if sigmas is not None and hasattr(scheduler, "step_index"):
        index = scheduler.step_index
        if index is None:  # before the first step
            index = scheduler.begin_index or scheduler.index_for_timestep(timestep)
        s = float(sigmas[index])
        if _prediction(scheduler) == "flow" or scheduler.config.get("use_flow_sigmas"):
            return 1 - s, s, 1.0
        norm = (s**2 + 1) ** 0.5
        # Only those that keep x0 + s * noise begin with noise of another size than 1.
        enlarged = float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0
        return 1 / norm, s / norm, norm if enlarged else 1.0
    if hasattr(scheduler, "alphas_cumprod"):
        alpha_cumprod = float(scheduler.alphas_cumprod[int(timestep)])
        return alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5, 1.0
    raise InputError(f"{name}: its noise levels are not known here")


@torch.no_grad()
def preview_images(
    pipe: Any, latents: Tensor, height: int | None, width: int | None, vae: Any
) -> list[Image.Image]:
    """Clean latents, as the pipeline keeps them, -> PIL images.

    Args:
        pipe: the pipeline.
        latents: (B, C, h, w), or FLUX's packed (B, tokens, 4 C).
        height, width: of the images in pixels, where packed latents are not of the default size.
        vae: decodes instead of the pipeline's own, None for that.
    """
    if latents.ndim == 3 and hasattr(pipe, "_unpack_latents"):
        side = pipe.default_sample_size * pipe.vae_scale_factor
        latents = pipe._unpack_latents(latents, height or side, width or side, pipe.vae_scale_factor)
    if latents.ndim != 4:
        raise InputError(f"{type(pipe).__name__}: latents of shape {tuple(latents.shape)} are no images'")
    vae = vae or pipe.vae
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        latents = latents * std / config.scaling_factor + mean
    else:
        latents = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)
    # SDXL's VAE overflows in half precision; the pipeline widens it for its last step, too.
    widened = vae.dtype == torch.float16 and getattr(config, "force_upcast", False)
    if widened:
        vae.to(torch.float32)
    try:
        # One at a time: previews must not need more memory than the pipeline itself.
        decoded = [vae.decode(x[None].to(vae.dtype), return_dict=False)[0].float() for x in latents]
    finally:
        if widened:
            vae.to(torch.float16)
    return pipe.image_processor.postprocess(torch.cat(decoded), output_type="pil")

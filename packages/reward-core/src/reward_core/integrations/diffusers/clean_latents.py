"""Predict the clean latents x0 from a denoiser's output, and decode them.

Every scheduler of diffusers stores its latents in one of three forms (noise is standard normal):

    alpha * x0 + sigma * noise, alpha^2 + sigma^2 = 1     DDIM, DDPM, PNDM, LCM, DPM-Solver, UniPC, ...
    x0 + s * noise                                        Euler, Heun, LMS, KDPM2, ... (k-diffusion)
    (1 - sigma) * x0 + sigma * noise                      rectified flows

A second call of ``scheduler.step`` would advance its step index, so x0 is computed in this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError

if TYPE_CHECKING:
    from PIL import Image


#: Predictions of denoisers: the noise, v, x0 itself, or the flow (noise - x0).
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")


def predicted_clean(scheduler: Any, output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """Return x0, of the shape of ``sample``, from the arguments of the next ``scheduler.step``.

    Args:
        scheduler: a scheduler of diffusers during its run.
        output: the denoiser's output, after guidance.
        timestep: the timestep of the step.
        sample: the latents of the step, in the scheduler's form.

    Raises:
        InputError: the scheduler or its type of prediction is not supported.
    """
    alpha, sigma, scale = _levels(scheduler, timestep)
    x, output = sample.float() / scale, output.float()
    prediction = _prediction(scheduler)
    if prediction not in PREDICTIONS:
        raise InputError(
            f"Cannot predict x0 with {type(scheduler).__name__}: unsupported prediction type {prediction!r}. "
            f"Supported are {', '.join(PREDICTIONS)}."
        )
    return clean(x, output, alpha, sigma, prediction)


def clean(x: Tensor, output: Tensor, alpha: Any, sigma: Any, prediction: str) -> Tensor:
    """Return x0 from latents x = alpha * x0 + sigma * noise and the denoiser's output.

    Args:
        x: latents (B, ...).
        output: the denoiser's output, of the shape of x.
        alpha, sigma: numbers, or tensors that broadcast to x.
        prediction: one of ``PREDICTIONS``.
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
    """Return alpha, sigma, and the ratio of the scheduler's latents to alpha * x0 + sigma * noise."""
    name, sigmas = type(scheduler).__name__, getattr(scheduler, "sigmas", None)
    if name.startswith("EDM") or name.startswith("CosineDPM"):
        raise InputError(f"Cannot predict x0 with {name}: unsupported noise levels. Use another scheduler.")
    if sigmas is not None and hasattr(scheduler, "step_index"):
        index = scheduler.step_index
        if index is None:  # before the first step
            index = scheduler.begin_index or scheduler.index_for_timestep(timestep)
        s = float(sigmas[index])
        if _prediction(scheduler) == "flow" or scheduler.config.get("use_flow_sigmas"):
            return 1 - s, s, 1.0
        norm = (s**2 + 1) ** 0.5
        # Only schedulers with latents x0 + s * noise start with noise of a standard deviation other than 1.
        is_scaled = float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0
        return 1 / norm, s / norm, norm if is_scaled else 1.0
    if hasattr(scheduler, "alphas_cumprod"):
        alpha_cumprod = float(scheduler.alphas_cumprod[int(timestep)])
        return alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5, 1.0
    raise InputError(f"Cannot predict x0 with {name}: unsupported noise levels. Use another scheduler.")


@torch.no_grad()
def preview_images(
    pipe: Any, latents: Tensor, height: int | None, width: int | None, vae: Any
) -> list[Image.Image]:
    """Decode clean latents of a pipeline to PIL images.

    Args:
        pipe: the pipeline.
        latents: (B, C, h, w), or packed (B, tokens, 4 C) of FLUX and Qwen-Image.
        height, width: image size in pixels; needed for packed latents if it is not the default.
        vae: the VAE to use; None for the pipeline's.
    """
    vae = vae or pipe.vae
    latents = _unpacked(pipe, latents, height, width, vae)
    if latents.ndim != 4:
        raise InputError(
            f"Cannot decode the latents of {type(pipe).__name__}: expected 4 dimensions, got shape "
            f"{tuple(latents.shape)}."
        )
    config = vae.config
    scale = getattr(config, "scaling_factor", None) or 1
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        latents = latents * std / scale + mean
    else:
        latents = latents / scale + (getattr(config, "shift_factor", None) or 0)
    if hasattr(config, "temperal_downsample"):  # Qwen-Image's VAE is for videos
        latents = latents.unsqueeze(2)
    # SDXL's VAE overflows in half precision; the pipeline upcasts it for its last step too.
    upcast = vae.dtype == torch.float16 and getattr(config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        # Batch size 1, because previews must not need more memory than the pipeline itself.
        decoded = [vae.decode(x[None].to(vae.dtype), return_dict=False)[0].float() for x in latents]
    finally:
        if upcast:
            vae.to(torch.float16)
    images = torch.cat(decoded)
    if images.ndim == 5:
        images = images[:, :, 0]
    return pipe.image_processor.postprocess(images, output_type="pil")


def _unpacked(pipe: Any, latents: Tensor, height: int | None, width: int | None, vae: Any) -> Tensor:
    """Return packed latents (B, tokens, 4 C) as (B, C, h, w); others unchanged."""
    patched = hasattr(pipe, "_unpatchify_latents")  # FLUX.2
    if latents.ndim != 3 or not (patched or hasattr(pipe, "_unpack_latents")):
        return latents
    factor = pipe.vae_scale_factor
    side = pipe.default_sample_size * factor
    height, width = height or side, width or side
    rows, columns = height // (2 * factor), width // (2 * factor)
    if latents.shape[1] != rows * columns:
        raise InputError(
            f"Cannot decode {latents.shape[1]} tokens of {type(pipe).__name__}: an image of {width} x "
            f"{height} pixels has {rows * columns}. Pass its height and width."
        )
    if not patched:
        latents = pipe._unpack_latents(latents, height, width, factor)
        return latents[:, :, 0] if latents.ndim == 5 else latents  # Qwen-Image's have one frame
    latents = latents.transpose(1, 2).unflatten(2, (rows, columns))
    norm = getattr(vae, "bn", None)  # a preview VAE without it decodes the normalized latents
    if norm is not None:
        mean, variance = (x.view(1, -1, 1, 1).to(latents) for x in (norm.running_mean, norm.running_var))
        latents = latents * torch.sqrt(variance + vae.config.batch_norm_eps) + mean
    return pipe._unpatchify_latents(latents)

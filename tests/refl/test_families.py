"""Every family generates the same images as its diffusers pipeline."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from refl.config import ModelConfig
from refl.denoising.rollout import rollout
from refl.denoising.rollout_plan import RolloutPlan
from refl.errors import ModelError
from refl.families import Guidance, load_family
from refl.trainable import Trainable

PROMPTS = ["a red house by the sea", "two cats"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampler", "scale"),
    [("sd", "ddim", 1.0), ("sd", "ddim", 5.0),
     ("sd-v", "ddim", 5.0), ("sdxl", "euler", 5.0), ("sdxl", "euler", 1.0),
     ("sd3", "flow", 5.0), ("flux", "flow", 3.5),
     ("flux2", "flow", 4.0), ("flux2", "flow", 1.0), ("z-image", "flow", 4.0), ("z-image", "flow", 1.0),
     ("qwen-image", "flow", 4.0), ("qwen-image", "flow", 1.0)],
)  # fmt: skip
def test_images_equal_those_of_the_diffusers_pipeline(pipelines, name, sampler, scale):
    height, width = 48, 24
    family = load_family(pipelines(name))
    noise = torch.randn(2, *family.latent_shape(height, width), generator=torch.Generator().manual_seed(4))
    pipeline = DiffusionPipeline.from_pretrained(pipelines(name))
    pipeline.set_progress_bar_config(disable=True)
    given = noise
    if name in ("flux", "qwen-image"):
        given = pipeline._pack_latents(noise, *noise.shape)
    options = {"guidance_scale": scale}
    if name == "z-image":  # counts from 0
        options = {"guidance_scale": scale - 1}
    elif name == "qwen-image":
        options = {"true_cfg_scale": scale, "negative_prompt": ["", ""]}
    theirs = pipeline(
        prompt=list(PROMPTS),
        height=height,
        width=width,
        num_inference_steps=4,
        **options,
        latents=given.clone(),
        output_type="np",
    ).images

    schedule = family.schedule(4, sampler, height, width)
    condition = family.encode(PROMPTS, "" if scale != 1 else None)
    guidance = Guidance(scale)
    with torch.no_grad():
        latents = rollout(
            lambda x, i: family.denoise(x, schedule.timesteps[i], condition, guidance),
            schedule,
            RolloutPlan(3, (), read="latents"),
            noise,
            lambda: None,
        ).latents
        ours = family.decode(latents).permute(0, 2, 3, 1).numpy()
    assert ours.shape == (2, height, width, 3)
    assert np.abs(ours - theirs).max() < 1e-4  # measured: 1e-5 at most


def test_saturated_pixels_get_gradient(pipelines):
    family = load_family(pipelines("sd"))
    latents = (50 * torch.randn(1, 4, 8, 8)).requires_grad_()
    pixels = family.decode(latents)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    outside = (pixels <= 0) | (pixels >= 1)
    assert outside.any()
    pixels[outside].sum().backward()
    assert latents.grad.abs().sum() > 0


def test_the_negative_branch_gets_no_gradient_if_disabled(pipelines):
    family = load_family(pipelines("sd"))
    family.denoiser.requires_grad_(True)
    condition = family.encode(PROMPTS, "blurry")
    latents = torch.randn(2, 4, 8, 8)
    outputs, gradients = [], []
    for negative_gradient in (True, False):
        output = family.denoise(latents, 500.0, condition, Guidance(3.0, negative_gradient))
        gradients.append(torch.autograd.grad(output.sum(), family.denoiser.conv_out.bias)[0])
        outputs.append(output.detach())
    assert torch.allclose(*outputs, atol=1e-5)
    # d/db of n + 3 (p - n) is 1 with both branches and 3 with the positive one only.
    assert torch.allclose(3 * gradients[0], gradients[1], rtol=1e-4)


def test_encoding_inverts_decoding(pipelines, tmp_path):
    """Also with an autoencoder that has latent means and deviations, such as Playground v2.5's."""
    folder = shutil.copytree(pipelines("sd"), tmp_path / "moments")
    config = json.loads((folder / "vae" / "config.json").read_text())
    config |= {"latents_mean": [1.0, -2.0, 0.5, 3.0], "latents_std": [0.5, 2.0, 4.0, 1.0]}
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    pixels = torch.rand(2, 3, 16, 16)
    for model in (pipelines("sd"), folder):
        family = load_family(model)
        vae = family.pipeline.vae
        with torch.no_grad():
            latents = family.encode_pixels(pixels, torch.zeros(2, 4, 8, 8))
            decoded = vae.decode(vae.encode(pixels * 2 - 1).latent_dist.mean).sample
            assert torch.allclose(family.decode(latents), (decoded / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["flux2", "qwen-image", "z-image"])
def test_encoded_pixels_are_latents_that_decode_to_them(pipelines, name):
    """With the autoencoder's noise, which has its shape, and without clamped gradients."""
    family = load_family(pipelines(name))
    pixels, shape = torch.rand(2, 3, 16, 32), family.latent_shape(16, 32)
    clean, noisy = (
        family.encode_pixels(pixels, noise) for noise in (torch.zeros(2, *shape), torch.randn(2, *shape))
    )
    assert clean.shape == noisy.shape == (2, *shape)
    assert (clean - noisy).abs().max() > 1e-3
    vae, given = family.pipeline.vae, pixels * 2 - 1
    if name == "qwen-image":  # a video of one frame
        given = given.unsqueeze(2)
    with torch.no_grad():
        expected = vae.decode(vae.encode(given).latent_dist.mean).sample.view_as(pixels)
    assert torch.allclose(family.decode(clean), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)
    family.pipeline.vae.decoder.conv_out.weight.data *= 1000
    outside = torch.randn(1, *shape).requires_grad_()
    saturated = family.decode(outside)
    saturated = saturated[(saturated <= 0) | (saturated >= 1)]
    assert saturated.numel()
    saturated.sum().backward()
    assert outside.grad.abs().sum() > 0


def test_invalid_models_are_refused_by_name(tmp_path, pipelines, monkeypatch):
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        load_family(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"Cannot load the diffusion model .*model\.safetensors"):
        load_family(tmp_path / "model.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="no-such-model"):
        load_family("no-such-model")


def test_a_denoiser_without_lora_support_is_refused_by_class(pipelines):
    family = load_family(pipelines("sd"))

    class PlainDenoiser(torch.nn.Module):
        """A denoiser that does not use diffusers."""

    family.pipeline.unet = family.denoiser = PlainDenoiser()
    with pytest.raises(ModelError, match=r"Cannot add LoRA layers to PlainDenoiser.*model\.lora_rank=0"):
        Trainable(family, ModelConfig(lora_rank=4))

"""Decoding in chunks, whose activations are recomputed, changes memory only."""

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch.utils.checkpoint import checkpoint

from refl.families import decoding, load_family
from refl.kernels import split_group_norm

TOOLS = Path(__file__).parents[2] / "tools"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SIDE = 16  # pixels; the tiny autoencoder has half as many latents along a side


def make_family(pipelines, vae="kl"):
    family = load_family(pipelines("sd"))
    if vae == "tiny":
        torch.manual_seed(0)
        tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                               num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
        family.pipeline.vae = tiny.requires_grad_(False).eval()
    elif vae == "tiled":
        family.pipeline.vae.enable_tiling()
        family.pipeline.vae.tile_latent_min_size = 4
        family.pipeline.vae.tile_sample_min_size = 8
    elif vae == "half":
        family.pipeline.vae.to(torch.bfloat16)
    return family


def make_latents(count, side=SIDE):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, side // 2, side // 2, generator=generator, requires_grad=True)


def as_one_batch(family, latents, dtype):
    """Decode all images at once and keep all activations; return pixels without the clamp."""
    vae = family.pipeline.vae
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        decoded = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample
    return decoded.float() / 2 + 0.5


def gradient_of(pixels, latents):
    weights = torch.linspace(-1, 1, pixels[0].numel(), device=pixels.device).view_as(pixels[0])
    return torch.autograd.grad((pixels * weights).sum(), latents)[0]


@pytest.mark.parametrize("gradient_checkpointing", [True, False])
@pytest.mark.parametrize(
    ("vae", "dtype"),
    [
        ("kl", torch.float32),
        ("kl", torch.bfloat16),
        ("half", torch.float32),
        ("tiny", torch.float32),
        ("tiled", torch.float32),
    ],
)
def test_pixels_and_gradients_equal_those_of_one_batch(
    pipelines, monkeypatch, vae, dtype, gradient_checkpointing
):
    monkeypatch.setattr(decoding, "CHUNK_PIXELS", 2 * SIDE * SIDE)
    family, latents = make_family(pipelines, vae), make_latents(5)  # chunks of 2, 2 and 1 images
    expected = as_one_batch(family, latents, dtype)
    pixels = family.decode(latents, gradient_checkpointing, dtype)
    with torch.no_grad():
        without_gradient = family.decode(latents, gradient_checkpointing, dtype)
    tolerance = 1e-5 if dtype == torch.float32 and vae != "half" else 0.02
    assert (pixels - expected.clamp(0, 1)).abs().max() < tolerance
    assert (without_gradient - pixels).abs().max() < tolerance
    expected, gradient = gradient_of(expected, latents), gradient_of(pixels, latents)
    assert (gradient - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("chunks_by_block", [3, 2], ids=["by block", "whole decoder"])
def test_each_block_is_computed_twice_and_the_autoencoder_stays_as_it_was(
    pipelines, monkeypatch, chunks_by_block
):
    monkeypatch.setattr(decoding, "CHUNK_PIXELS", 2 * SIDE * SIDE)
    monkeypatch.setattr(decoding, "CHUNKS_BY_BLOCK", chunks_by_block)
    family, latents = make_family(pipelines), make_latents(5)
    vae, images = family.pipeline.vae, []
    resnet = vae.decoder.up_blocks[-1].resnets[-1]
    original = resnet.forward

    def replaced(x, *args, **kwargs):
        images.append(len(x))
        return original(x, *args, **kwargs)

    resnet.forward = replaced  # as libraries that offload weights do
    gradient_of(family.decode(latents), latents)
    assert sorted(images) == [1, 1, 2, 2, 2, 2]
    assert resnet.forward is replaced
    images.clear()
    gradient_of(as_one_batch(family, latents, torch.float32), latents)
    assert images == [5]


@pytest.mark.parametrize("chunks_by_block", [3, 2], ids=["by block", "whole decoder"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_split_group_norms_change_rounding_only(pipelines, monkeypatch, device, dtype, chunks_by_block):
    """The split function runs in both passes of every block, also on a CPU, where it is unused otherwise."""
    monkeypatch.setattr(decoding, "CHUNK_PIXELS", 2 * SIDE * SIDE)
    monkeypatch.setattr(decoding, "CHUNKS_BY_BLOCK", chunks_by_block)
    monkeypatch.setattr(split_group_norm, "LEAST_VALUES", 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it would enlarge the difference
    calls, original = [], split_group_norm.split_group_norm

    def counted(x, *args, **kwargs):
        calls.append(len(x))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(split_group_norm, "split_group_norm", counted)
    family = make_family(pipelines)
    family.pipeline.vae.to(device)
    latents = make_latents(5).detach().to(device).requires_grad_()
    found = []
    for devices in (set(), {device}):
        monkeypatch.setattr(split_group_norm, "DEVICES", devices)
        pixels = family.decode(latents, dtype=dtype)
        found.append((pixels, gradient_of(pixels, latents)))
    (plain, plain_gradient), (pixels, gradient) = found
    norms = sum(isinstance(module, torch.nn.GroupNorm) for module in family.pipeline.vae.decoder.modules())
    kept = 0 if chunks_by_block == 2 else 1  # the last norm is outside the blocks
    assert sorted(calls) == sorted([1, 2, 2] * (2 * norms - kept))
    tolerance = 1e-4 if dtype == torch.float32 else 0.03  # measured on a CPU: 7e-7, 0.011
    assert (pixels - plain).abs().max() < tolerance
    assert (gradient - plain_gradient).norm() < tolerance * plain_gradient.norm()


def test_an_error_leaves_the_autoencoder_as_it_was(pipelines):
    family = make_family(pipelines)
    with pytest.raises(RuntimeError):
        family.decode(torch.zeros(1, 3, 8, 8, requires_grad=True))  # three channels instead of four
    assert not any("forward" in vars(module) for module in family.pipeline.vae.modules())


@pytest.mark.parametrize(("images", "limit"), [(2, 0.5), (6, 0.25)])
def test_memory_of_the_backward_pass_falls(pipelines, monkeypatch, images, limit):
    monkeypatch.syspath_prepend(str(TOOLS))
    from memory_peak import peak_of

    side = 64
    monkeypatch.setattr(decoding, "CHUNK_PIXELS", side * side)
    family, latents = make_family(pipelines), make_latents(images, side)
    one_batch = partial(checkpoint, as_one_batch, family, latents, torch.float32, use_reentrant=False)
    before = peak_of(lambda: gradient_of(one_batch(), latents))
    assert peak_of(lambda: gradient_of(family.decode(latents), latents)) < limit * before

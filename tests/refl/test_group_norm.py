"""Channels-last GroupNorm compared with torch. Without a GPU, Triton's interpreter runs the kernels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_unet import small_unet
from torch import nn

from refl.kernels.channels_last_norm import group_norm, keep_channels_last

BF16, FP16 = torch.bfloat16, torch.float16

# Channels, groups, images, height, width: every group size of Stable Diffusion 1.5, and others.
SHAPES = [
    (320, 32, 2, 7, 9),
    (640, 32, 1, 8, 8),
    (960, 32, 1, 5, 13),
    (1280, 32, 4, 3, 3),
    (1920, 32, 1, 9, 9),
    (2560, 32, 1, 8, 8),
    (30, 3, 1, 91, 91),  # several tiles per chunk, the last one shorter
    (12, 4, 2, 1, 1),
    (300, 1, 1, 11, 11),
]
# Each group size and dtype is compiled by itself, so not all combinations are tested.
CASES = [(shape, FP16, True) for shape in SHAPES]
CASES += [(shape, BF16, silu) for shape in (SHAPES[0], SHAPES[5]) for silu in (False, True)]


def channels_last(channels, images, height, width, dtype, device, mean=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, height, width, generator=generator) + mean
    return x.to(device, dtype, memory_format=torch.channels_last)


def check(x, groups, weight, bias, silu, mean=0.0):
    with torch.no_grad():
        ours = group_norm(x, groups, weight, bias, 1e-5, silu)
    assert ours.dtype == x.dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)
    parameters = (None if p is None else p.double() for p in (weight, bias))
    exact = F.group_norm(x.double(), groups, *parameters, 1e-5)
    exact = F.silu(exact) if silu else exact
    # Half the distance to the next number; the interpreter cuts off bits of bf16 instead of rounding.
    rounding = torch.finfo(x.dtype).eps / (1 if x.dtype == BF16 and not x.is_cuda else 2)
    # Measured with the interpreter: at most 2e-6 beyond the rounding; 7e-5 with a mean of 100.
    error = (ours.double() - exact).abs() - rounding * exact.abs()
    assert error.max() < 1e-5 + 2e-6 * mean


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "dtype", "silu"), CASES, ids=str)
def test_the_kernels_compute_group_norm(triton_device, shape, dtype, silu):
    channels, groups, *size = shape
    x = channels_last(channels, *size, dtype, triton_device)
    weight, bias = torch.randn(2, channels, device=triton_device).to(dtype)
    check(x, groups, weight, bias, silu)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("size", [(4, 8, 8), (1, 33, 65)], ids=str)
def test_a_large_mean_does_not_cancel(triton_device, size, dtype):
    check(channels_last(320, *size, dtype, triton_device, mean=100.0), 32, None, None, False, mean=100.0)


@pytest.mark.gpu
@pytest.mark.parametrize("given", ["weight", "bias"])
def test_parameters_may_be_missing_or_float32(triton_device, given):
    x = channels_last(64, 2, 6, 6, BF16, triton_device)
    parameter = torch.randn(64, device=triton_device)
    check(x, 8, *((parameter, None) if given == "weight" else (None, parameter)), True)


@pytest.mark.gpu
def test_other_inputs_are_left_to_torch(triton_device):
    norm = nn.GroupNorm(4, 16, device=triton_device)
    patched = copy.deepcopy(norm)
    keep_channels_last(patched)
    images = channels_last(16, 2, 4, 4, torch.float32, triton_device)
    with torch.no_grad():
        for x in (images, images.contiguous(), images.flatten(2)):
            assert torch.equal(patched(x), norm(x))
    x = images.half().requires_grad_()
    patched.half()(x).square().sum().backward()
    assert x.grad is not None


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [{}, {"use_linear_projection": True}, {"resnet_time_scale_shift": "scale_shift"}, {"act_fn": "gelu"}],
    ids=str,
)
def test_a_unet_computes_the_same(triton_device, options):
    unet = small_unet(triton_device, **options)
    latents, prompts = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 16)

    def output(module, dtype):
        with torch.no_grad():
            inputs = (latents.to(triton_device, dtype), 500.0, prompts.to(triton_device, dtype))
            return module(*inputs).sample.double()

    half = copy.deepcopy(unet).to(FP16, memory_format=torch.channels_last)
    ours = copy.deepcopy(half)
    keep_channels_last(ours)
    shapes = [{name: p.shape for name, p in module.named_parameters()} for module in (ours, half)]
    assert shapes[0] == shapes[1]
    exact = output(unet.double(), torch.float64)
    layouts = []
    for module in ours.modules():
        if type(module).__name__ in ("ResnetBlock2D", "GroupNorm"):
            module.register_forward_hook(
                lambda *call: layouts.append(call[2].is_contiguous(memory_format=torch.channels_last))
            )
    fused, plain = output(ours, FP16), output(half, FP16)
    assert len(layouts) > 20
    assert all(layouts)
    error, usual = ((x - exact).square().mean().sqrt() for x in (fused, plain))
    assert 0 < error < 1.5 * usual < 0.01 * exact.std(), (error, usual)

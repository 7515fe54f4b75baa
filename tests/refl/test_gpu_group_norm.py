"""Channels-last GroupNorm at full size on a CUDA GPU, and in the copy for steps without gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from small_unet import small_unet
from toy_runs import PROMPTS, redness, settings

import refl
from refl.families import Guidance
from refl.kernels.channels_last_norm import group_norm, keep_channels_last

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(autouse=True)
def needs_triton():
    pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture
def fresh_accelerate():
    """Reset accelerate, which allows one device and one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("mean", [0, 100])
@pytest.mark.parametrize(
    ("channels", "side"),
    [(320, 64), (960, 64), (640, 32), (1920, 32), (1280, 16), (2560, 8), (320, 128), (960, 127)],
)
def test_full_sizes(channels, side, mean):
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(2, channels, side, side, device="cuda", generator=generator) + mean
    x = x.to(torch.float16, memory_format=torch.channels_last)
    weight, bias = torch.randn(2, channels, device="cuda", generator=generator).half()
    with torch.no_grad():
        ours = group_norm(x, 32, weight, bias, 1e-5, silu=True)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    exact = F.silu(F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5))
    error = (ours.double() - exact).abs() - torch.finfo(torch.float16).eps / 2 * exact.abs()
    assert error.max() < 1e-5 + 2e-6 * mean


@pytest.mark.parametrize("linear", [False, True], ids=["convolutions", "linear"])
def test_a_unet_in_bf16_computes_the_same_and_can_be_recorded(linear):
    like_sd = {"block_out_channels": (320, 640), "norm_num_groups": 32, "attention_head_dim": 8}
    exact = small_unet("cuda", use_linear_projection=linear, **like_sd)
    plain = copy.deepcopy(exact).to(torch.bfloat16, memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    keep_channels_last(ours)
    latents, text = torch.randn(2, 4, 32, 32, device="cuda"), torch.randn(2, 7, 16, device="cuda")
    timesteps = torch.tensor([500, 20], device="cuda")
    static = latents.bfloat16().clone()

    def output(module, x):
        return module(x, timesteps, text.to(x.dtype)).sample

    with torch.no_grad():
        true = output(exact.double(), latents.double())
        usual, launched = output(plain, static), output(ours, static)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                output(ours, static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = output(ours, static)
        static.zero_()
        graph.replay()
        assert (recorded.float() - launched.float()).abs().max() > 0.1 * true.std()  # it reads its input
        static.copy_(latents)
        graph.replay()
    rms, ordinary = ((x - true).square().mean().sqrt() for x in (launched, usual))
    assert 0 < rms < 1.5 * ordinary < 0.1 * true.std(), (rms, ordinary)
    assert (recorded.float() - launched.float()).abs().max() < 0.05 * true.std()


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_copy_for_steps_without_gradient_stays_channels_last(
    pipelines, tmp_path, fresh_accelerate, family
):
    config = settings(tmp_path, "model.lora_rank=4", "rollout.no_grad_dtype=bf16")
    trainer = refl.Trainer(pipelines(family), PROMPTS, config, {"red": redness})
    half, layouts = trainer.objective.no_grad_copy, []
    for module in half.module.modules():
        if isinstance(module, torch.nn.GroupNorm):  # torch's own returns NCHW
            module.register_forward_hook(
                lambda *call: layouts.append(call[2].is_contiguous(memory_format=torch.channels_last))
            )
    latents = torch.randn(2, *trainer.family.latent_shape(16, 16), device=trainer.accelerator.device)
    with torch.no_grad():
        half.refresh()
        condition = trainer.family.encode(PROMPTS[:2])
        exact = trainer.family.denoise(latents, 500.0, condition, Guidance())
        ours = half.denoise(latents, 500.0, condition, Guidance())
    assert layouts
    assert all(layouts)
    assert 0 < (ours - exact).square().mean().sqrt() < 0.04 * exact.std()

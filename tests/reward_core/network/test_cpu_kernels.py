"""Kernels of the fused encoders on a CPU: compiled ones agree with torch's; products in int8."""

import shlex
from functools import cache
from pathlib import Path

import pytest
import torch

from reward_core.network.attention import MultiHeadAttention
from reward_core.network.compiled_kernels import CompiledKernels, compile_kernels
from reward_core.network.cpu_kernels import Scaled, TorchKernels
from reward_core.network.cpu_library import cpp_compiler
from reward_core.network.int8_ops import int8_linear, int8_works, quantized_weight

TORCH = TorchKernels()


BUILDS = {
    "all instructions": "",
    "no AMX": "-mno-amx-bf16",
    "no bfloat16": "-mno-avx512bf16",  # and no AMX
    "no AVX-512": "-mno-avx512f",
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Return a function that compiles kernels for this CPU, or for one without some instructions."""
    folder = tmp_path_factory.mktemp("cache")

    @cache
    def compile_for(instructions: str) -> CompiledKernels:
        if cpp_compiler() is None:
            pytest.skip("the kernels need x86 Linux and a C++ compiler")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
            if instructions == "no AMX" and not compile_for("all instructions").has_tiles:
                pytest.skip("this CPU has no AMX")
            if flag := BUILDS[instructions]:
                patch.setenv("CXX", compiler_with(folder / f"c++{flag}", flag))
            return compile_kernels.__wrapped__()

    return compile_for


@pytest.fixture(params=BUILDS)
def compiled(request, build):
    return build(request.param)


@pytest.fixture
def attention_kernels(compiled):
    if not compiled.has_attention:
        pytest.skip("torch computes the attention on this CPU")
    return compiled


@pytest.fixture
def one_thread():
    """Use one thread, which reuses its buffers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compiler_with(path: Path, flag: str) -> str:
    """Write a C++ compiler that adds a flag to every command; return its path."""
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(cpp_compiler())} "$@" {flag}\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def numbers(x: Scaled) -> torch.Tensor:
    values = levels(x).float()
    return values if x.steps is None else values * x.steps.view(*values.shape[:-1], 1)


def levels(x: Scaled) -> torch.Tensor:
    """Return values (B, N, D), also of those in tile order."""
    if not x.tiled:
        return x.values
    *_, width = x.values.shape
    rows = x.values.numel() // width
    memory = x.values.as_strided(((rows + 31) // 32 * 32 * width,), (1,))
    tiles = memory.view(-1, width // 64, 16, 64).transpose(1, 2)
    return tiles.reshape(-1, width)[:rows].view(x.values.shape)


def product(*shape: int) -> Scaled:
    """Return a product (B, N, D) that is not scaled yet, with a shift for each image."""
    rows = torch.Size(shape[:-1]).numel()
    return Scaled(torch.randn(shape).bfloat16(), torch.rand(rows) + 0.5, torch.randn(shape[0], shape[-1]))


def assert_same_means(one: Scaled, other: Scaled, of: torch.Tensor) -> None:
    """Check the means over tokens of numbers (B, N, D) that were quantized."""
    step = float(one.means.steps.max())
    rounding = 0.51 * step + 0.5 * float(one.steps.max())  # of the means, of the numbers
    assert torch.allclose(numbers(one.means), of.mean(-2), atol=rounding, rtol=0)
    assert torch.allclose(numbers(one.means), numbers(other.means), atol=1.1 * step, rtol=0)


# torch computes a width of 40, which is not a multiple of 16.
@pytest.mark.parametrize("width", [64, 1024, 40])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("keep_sum", [False, True])
def test_compiled_sum_and_norm_agree_with_torch(compiled, width, int8, keep_sum):
    norm = torch.nn.LayerNorm(width, eps=1e-6)
    norm.weight.copy_(torch.randn(width)), norm.bias.copy_(torch.randn(width))
    # 21 tokens: more than one part of an image (cpp/rows.cpp).
    for branch in (None, Scaled(torch.randn(2, 21, width).bfloat16()), product(2, 21, width)):
        streams = [torch.randn(2, 21, width)] * 2
        streams = [stream.clone() for stream in streams]
        one, other = (
            kernels.add_norm(stream, branch, norm, keep_sum, int8)
            for kernels, stream in zip((TORCH, compiled), streams)
        )
        assert torch.allclose(*streams, atol=1e-5)
        # One level, or the rounding of bfloat16, where the order of additions decides.
        tolerance = float(one.steps.max()) if int8 else 0.004 * float(numbers(one).abs().max())
        assert other.values.dtype == (torch.int8 if int8 else torch.bfloat16)
        assert torch.allclose(numbers(one), numbers(other), atol=1.01 * tolerance, rtol=0)
        if int8:
            assert_same_means(one, other, norm(streams[0]) if keep_sum else streams[0])


@pytest.mark.parametrize("width", [64, 4096, 40])
def test_compiled_quantization_agrees_with_torch(compiled, width):
    for x, gelu in ((Scaled(torch.randn(3, 20, width).bfloat16()), False), (product(3, 20, width), True)):
        one, other = TORCH.quantize(x, gelu), compiled.quantize(x, gelu)
        assert other.values.dtype == one.values.dtype == (torch.uint8 if gelu else torch.int8)
        # GELU's polynomial differs by up to 0.00015.
        assert torch.allclose(one.steps, other.steps, rtol=1e-3)
        assert torch.allclose(numbers(one), numbers(other), atol=1.1 * float(one.steps.max()), rtol=0)
        assert (levels(other).abs().amax(-1) == (255 if gelu else 127)).all()
        assert_same_means(one, other, numbers(one))
    x = product(3, 4, width)
    expected = TORCH.rescale(x)
    assert torch.allclose(compiled.rescale(x), expected, rtol=0.008)  # changes x


@pytest.mark.parametrize("tokens", [197, 32, 17, 1])
@pytest.mark.parametrize("scaled", [False, True])
def test_compiled_attention_agrees_with_torch(attention_kernels, tokens, scaled):
    attend = MultiHeadAttention(3)
    qkv = product(2, tokens, 3 * 192) if scaled else Scaled(3 * torch.randn(2, tokens, 3 * 192).bfloat16())
    kept = Scaled(qkv.values.clone(), qkv.steps, qkv.shift)
    expected = attend(*(numbers(kept) + (0 if kept.shift is None else kept.shift[:, None])).chunk(3, dim=-1))
    by_torch = (TORCH.self_attention(kept, attend).float() - expected).abs()
    ours = (attention_kernels.self_attention(qkv, attend).float() - expected).abs()
    # The weights times the steps of values are rounded, which matters with one token (measured: 1.21 times).
    assert ours.mean() <= 1.3 * by_torch.mean() + 1e-4
    assert ours.max() <= 2 * by_torch.max() + 1e-3


def test_one_score_far_above_the_others_decides_the_attention(attention_kernels):
    attend = MultiHeadAttention(1)
    q, k, v = (torch.zeros(1, 40, 64, dtype=torch.bfloat16) for _ in range(3))
    q[..., 0], k[0, 33, 0], v[0, 33] = 100.0, 100.0, 2.0  # scores of 1250, others 0
    qkv = Scaled(torch.cat([q, k, v], -1), torch.ones(40), torch.zeros(3 * 64))
    assert (attention_kernels.attention(attend, q, k, v, None) == 2).all()
    assert (attention_kernels.self_attention(qkv, attend) == 2).all()


# Queries and keys as texts that attend to themselves and to an image have them: parts of larger tensors.
@pytest.mark.parametrize(("queries", "keys"), [(1, 35), (35, 35), (50, 197), (5, 3)])
@pytest.mark.parametrize("padded", [False, True])
def test_compiled_attention_to_other_tokens_agrees_with_torch(attention_kernels, queries, keys, padded):
    attend = MultiHeadAttention(2)
    q = 3 * torch.randn(3, queries + 1, 128).bfloat16()[:, :queries]
    k, v = torch.randn(3, keys, 256).bfloat16().chunk(2, dim=-1)
    mask = (torch.arange(keys) < torch.tensor([keys, 1, 2])[:, None])[:, None, None] if padded else None
    expected = attend(q.float(), k.float(), v.float(), mask)
    by_torch = (TORCH.attention(attend, q, k, v, mask).float() - expected).abs()
    ours = (attention_kernels.attention(attend, q, k, v, mask).float() - expected).abs()
    assert ours.mean() <= 1.1 * by_torch.mean() + 1e-4
    assert ours.max() <= 2 * by_torch.max() + 1e-3


def test_a_nan_key_spoils_only_its_head_and_image(attention_kernels, one_thread):
    attend = MultiHeadAttention(2)
    q, k, v = torch.randn(3, 3, 40, 128).bfloat16().unbind(0)
    k[0, 7, 3] = torch.nan  # of the first image
    bad = attention_kernels.attention(attend, q, k, v, None).isnan()
    assert bad[0, :, :64].all()
    assert not bad[0, :, 64:].any()
    assert not bad[1:].any()
    qkv = product(3, 40, 3 * 128)
    qkv.steps[7] = torch.nan
    assert attention_kernels.self_attention(qkv, attend).isnan().all(-1).all(-1).tolist() == [
        True,
        False,
        False,
    ]


def test_a_row_that_is_nan_stays_nan(kernels):
    x = torch.randn(4, 64)
    x[2, 7] = torch.nan
    x = x.view(2, 2, 64)
    bad = [[False, False], [True, False]]
    for int8 in (False, True):
        normalized = kernels.add_norm(x.clone(), None, torch.nn.LayerNorm(64), True, int8)
        y = numbers(normalized)
        assert y.isnan().all(-1).tolist() == bad
        assert y.isnan().any(-1).tolist() == bad
    assert numbers(normalized.means).isnan().any(-1).tolist() == [False, True]
    assert numbers(kernels.quantize(Scaled(x.bfloat16()))).isnan().any(-1).tolist() == bad


def test_unknown_widths_of_heads_are_left_to_torch(compiled):
    attend, qkv = MultiHeadAttention(2), Scaled(torch.randn(2, 9, 3 * 32).bfloat16())
    assert torch.equal(compiled.self_attention(qkv, attend), TORCH.self_attention(qkv, attend))


@pytest.fixture(params=["torch", *BUILDS])
def kernels(request, build):
    if not int8_works():
        pytest.skip("torch cannot multiply int8 matrices here")
    return TORCH if request.param == "torch" else build(request.param)


# Of cpp/products.cpp: several groups of rows and depths; several panels in a task; results that are not
# cached. oneDNN multiplies 96 inputs.
@pytest.mark.parametrize(
    ("tokens", "inner", "outputs"),
    [(5, 96, 80), (1, 64, 80), (450, 1216, 80), (5, 1216, 640), (1100, 64, 1024)],
)
@pytest.mark.parametrize("after_gelu", [False, True])
def test_products_in_int8_are_those_of_the_linear_layer(
    kernels, one_thread, tokens, inner, outputs, after_gelu
):
    x, weight, bias = torch.randn(2, tokens, inner), torch.randn(outputs, inner), torch.randn(outputs)
    layer = quantized_weight(weight, bias, kernels)
    if after_gelu:
        rows = kernels.quantize(Scaled(x.bfloat16(), torch.ones(2 * tokens), torch.zeros(inner)), gelu=True)
        x = torch.nn.functional.gelu(x)
    else:
        rows = kernels.quantize(Scaled(x.bfloat16()))
    y = kernels.rescale(int8_linear(layer, rows, kernels, after_gelu)).float()
    expected = x @ weight.T + bias
    # Measured: 0.9% of the deviation.
    assert (y - expected).pow(2).mean().sqrt() < 0.02 * expected.std()


def test_products_of_many_images_in_int8_are_corrected_for_each(kernels):
    x, weight, bias = torch.randn(11, 3, 64), torch.randn(80, 64), torch.randn(80)
    layer, rows = quantized_weight(weight, bias, kernels), kernels.quantize(Scaled(x.bfloat16()))
    y = kernels.rescale(int8_linear(layer, rows, kernels)).float()
    expected = x @ weight.T + bias
    assert (y - expected).pow(2).mean((1, 2)).sqrt().max() < 0.02 * expected.std()


@pytest.mark.parametrize("after_gelu", [False, True])
def test_rounding_of_weights_does_not_change_the_mean_over_tokens(kernels, after_gelu):
    # Tokens that have most in common; what differs spreads the rounding errors of the inputs.
    x = torch.randn(2, 1, 512) + 0.1 * torch.randn(2, 60, 512)
    weight, bias = torch.randn(96, 512), torch.randn(96)
    layer = quantized_weight(weight, bias, kernels)
    if after_gelu:
        rows = kernels.quantize(Scaled(x.bfloat16(), torch.ones(120), torch.zeros(512)), gelu=True)
        x = torch.nn.functional.gelu(x)
    else:
        rows = kernels.quantize(Scaled(x.bfloat16()))
    y = kernels.rescale(int8_linear(layer, rows, kernels, after_gelu)).float()
    rounded = (weight / layer.levels.scale[:, None]).round() * layer.levels.scale[:, None]
    exact, uncorrected = ((x @ matrix.T + bias).mean(1) for matrix in (weight, rounded))
    assert (y.mean(1) - exact).abs().mean() < 0.5 * (uncorrected - exact).abs().mean()

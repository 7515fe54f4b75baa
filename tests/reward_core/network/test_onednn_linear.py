"""Float32 products by oneDNN: as exact as torch's own, and only where nothing else is asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.network.onednn_linear import ONEDNN, linear, onednn_is_faster


@pytest.fixture
def decided(monkeypatch):
    """Says 0 or 1 for this test; skips where this torch has no oneDNN."""

    def decide(wanted: str) -> bool:
        monkeypatch.setenv(ONEDNN, wanted)
        onednn_is_faster.cache_clear()
        return onednn_is_faster()

    if not decide("1"):
        pytest.skip("oneDNN's product is not in this torch")
    yield decide
    onednn_is_faster.cache_clear()


def layer_and_input(rows: int, inner: int, columns: int, bias: bool):
    torch.manual_seed(0)
    return torch.nn.Linear(inner, columns, bias).requires_grad_(False), torch.randn(2, rows, inner)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(197, 96, 288), (35, 768, 768), (577, 1024, 64)])
def test_it_is_as_exact_as_torchs_own(decided, shape, bias):
    layer, x = layer_and_input(*shape, bias)
    true = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    own = (layer(x) - true).abs().max()
    made = linear(layer, x)
    assert made.dtype == torch.float32
    # Errors of both measured: 3e-7 to 2e-6 at these shapes, oneDNN's up to 3 times torch's.
    assert (made - true).abs().max() < 6 * own + 1e-7
    decided("0")
    assert torch.equal(linear(layer, x), layer(x))


def test_any_layout_of_the_input_will_do(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    turned = x.transpose(0, 1)  # (300, 2, 128), not contiguous
    assert torch.allclose(linear(layer, turned), layer(turned), atol=1e-5)
    assert torch.allclose(linear(layer, x[:, ::2]), layer(x[:, ::2]), atol=1e-5)


def test_weights_that_are_views_are_left_to_torch(decided):
    """Expanded ones took oneDNN a hundred times as long."""
    layer, x = layer_and_input(300, 128, 96, True)
    for weight in (torch.randn(1, 128).expand(96, 128), torch.randn(128, 96).T):
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        assert torch.equal(linear(layer, x), layer(x))


def test_gradients_are_torchs_own(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    x.requires_grad_()
    linear(layer, x).square().sum().backward()
    assert x.grad.abs().min() > 0
    layer.requires_grad_()
    linear(layer, x.detach()).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_what_is_put_upon_a_layer_is_not_passed_over(decided):
    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    layer, x = layer_and_input(300, 128, 96, True)
    adapted = Adapted(128, 96).requires_grad_(False)
    assert torch.equal(linear(adapted, x), adapted(x))
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        seen = []
        handle = register(lambda module, *given, seen=seen: seen.append(module))
        linear(layer, x)
        handle.remove()
        assert seen == [layer]


def test_forward_mode_derivatives_are_torchs_own(decided):
    layer, x = layer_and_input(300, 128, 96, False)
    with torch.no_grad():
        _, derivative = torch.func.jvp(lambda x: linear(layer, x), (x,), (x,))
        torch.testing.assert_close(derivative, layer(x), atol=1e-5, rtol=1e-5)  # of a linear map


def test_autocast_is_obeyed(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(layer, x).dtype == torch.bfloat16


def test_scores_are_the_same(decided):
    model = RM.load("tiny", device="cpu")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(16)]
    prompts = ["a red circle above a blue star"] * 16
    by_onednn = model.score_pairs(prompts, images, batch_size=16)
    decided("0")
    # Rewards deviate by about 1; measured: 4e-7.
    assert (model.score_pairs(prompts, images, batch_size=16) - by_onednn).abs().max() < 1e-5

"""Float32 linear layers with oneDNN: as exact as torch, and used only where valid."""

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.network.onednn_linear import ONEDNN, OneDNNLinear, onednn_is_faster, use_onednn


@pytest.fixture
def decided(monkeypatch):
    """Return a function that sets REWARD_CORE_ONEDNN; skip if torch has no oneDNN."""

    def decide(wanted: str) -> bool:
        monkeypatch.setenv(ONEDNN, wanted)
        onednn_is_faster.cache_clear()
        return onednn_is_faster()

    if not decide("1"):
        pytest.skip("oneDNN's linear operation is not in this torch")
    yield decide
    onednn_is_faster.cache_clear()


def layer_and_input(rows: int, inner: int, columns: int, bias: bool):
    """Return a frozen layer that oneDNN computes, and an input (2, rows, inner)."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(inner, columns, bias).requires_grad_(False)
    use_onednn(layer)
    return layer, torch.randn(2, rows, inner)


def by_torch(layer, x):
    return torch.nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(197, 96, 288), (35, 768, 768), (577, 1024, 64)])
def test_onednn_is_as_exact_as_torch(decided, shape, bias):
    layer, x = layer_and_input(*shape, bias)
    true = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    torch_error = (by_torch(layer, x) - true).abs().max()
    computed = layer(x)
    assert computed.dtype == torch.float32
    # Measured errors at these shapes: 3e-7 to 2e-6; those of oneDNN are up to 3 times those of torch.
    assert (computed - true).abs().max() < 6 * torch_error + 1e-7
    decided("0")
    plain, x = layer_and_input(*shape, bias)
    assert type(plain) is torch.nn.Linear
    assert torch.equal(plain(x), by_torch(plain, x))


def test_onednn_computes_large_products_of_loaded_models(decided):
    layer, x = layer_and_input(577, 1024, 64, True)
    with torch.profiler.profile() as profile:
        layer(x)
        layer(x[0, :1])  # small: torch is faster
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["mkldnn::_linear_pointwise"] == 1
    assert counts["aten::linear"] == 1
    model = RM.load("tiny", device="cpu")
    assert type(model.blip.visual_encoder.blocks[0].mlp.fc1) is OneDNNLinear
    assert type(model.blip.text_encoder.encoder.layer[0].output.dense) is OneDNNLinear


def test_inputs_of_any_layout_work(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    turned = x.transpose(0, 1)  # (300, 2, 128), not contiguous
    assert torch.allclose(layer(turned), by_torch(layer, turned), atol=1e-5)
    assert torch.allclose(layer(x[:, ::2]), by_torch(layer, x[:, ::2]), atol=1e-5)


def test_torch_computes_layers_whose_weights_are_views(decided):
    """oneDNN took a hundred times as long for expanded weights."""
    layer, x = layer_and_input(300, 128, 96, True)
    for weight in (torch.randn(1, 128).expand(96, 128), torch.randn(128, 96).T):
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        assert torch.equal(layer(x), by_torch(layer, x))


def test_torch_computes_gradients(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.abs().min() > 0
    layer.requires_grad_()
    layer(x.detach()).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_a_bias_gets_its_gradient_if_only_biases_are_trained(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    layer.bias.requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((96,), 600.0))


def test_subclasses_and_hooks_of_layers_are_kept(decided):
    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    layer, x = layer_and_input(300, 128, 96, True)
    adapted = Adapted(128, 96).requires_grad_(False)
    use_onednn(adapted)
    assert type(adapted) is Adapted
    assert torch.equal(adapted(x), by_torch(adapted, x) + 1)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        seen = []
        handle = register(lambda module, *arguments, seen=seen: seen.append(module))
        layer(x)
        handle.remove()
        assert seen == [layer]


def test_parametrized_and_substituted_weights_are_used(decided):
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer, x = layer_and_input(300, 128, 96, False)
    expected = 2 * by_torch(layer, x)
    substituted = torch.func.functional_call(layer, {"weight": 2 * layer.weight}, (x,))
    torch.testing.assert_close(substituted, expected)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_torch_computes_forward_mode_derivatives(decided):
    layer, x = layer_and_input(300, 128, 96, False)
    with torch.no_grad():
        _, derivative = torch.func.jvp(layer, (x,), (x,))
        torch.testing.assert_close(
            derivative, layer(x), atol=1e-5, rtol=1e-5
        )  # the derivative of a linear map


def test_autocast_is_respected(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_torch_computes_layers_in_other_precisions(decided):
    layer, x = layer_and_input(300, 128, 96, True)
    layer, x = layer.bfloat16(), x.bfloat16()
    assert torch.equal(layer(x), by_torch(layer, x))
    layer, x = layer.double(), x.double()
    assert torch.equal(layer(x), by_torch(layer, x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_unpickled_layers_depend_on_the_current_processor(decided, copied):
    layer, x = layer_and_input(300, 128, 96, True)
    assert torch.equal(copied(layer)(x), layer(x))
    decided("0")  # as on a machine where oneDNN is not faster
    elsewhere = copied(layer)
    assert type(elsewhere) is torch.nn.Linear
    assert torch.equal(elsewhere(x), by_torch(layer, x))


def test_scores_are_the_same(decided):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(16)]
    prompts = ["a red circle above a blue star"] * 16
    model = RM.load("tiny", device="cpu")
    by_onednn = model.score_pairs(prompts, images, batch_size=16)
    decided("0")
    plain = RM.load("tiny", device="cpu")
    assert list(plain.state_dict()) == list(model.state_dict())
    # The standard deviation of rewards is about 1. Measured: 4e-7.
    assert (plain.score_pairs(prompts, images, batch_size=16) - by_onednn).abs().max() < 1e-5

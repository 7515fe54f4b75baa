"""Group normalization with split groups equals torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from refl.kernels import split_group_norm as module
from refl.kernels.split_group_norm import split_group_norm, split_group_norms

TOLERANCE = 1e-5  # measured: 2.3e-6, where the sums of a gradient cancel out
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


def make_inputs(*shape, device="cpu", dtype=torch.float32, mean=0.5):
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator).to(device, dtype)

    x = (3 * normal(*shape) + mean).requires_grad_()
    return x, (normal(shape[1]) + 1).requires_grad_(), normal(shape[1]).requires_grad_()


def results(function, x, weight, bias, groups=4):
    """Return values, and gradients of the inputs that are tensors."""
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
    values = function(x, groups, weight, bias, 0.1)
    weights = torch.linspace(-1, 1, values.numel(), device=x.device).view_as(values)
    return values, *torch.autograd.grad((values.float().square() * weights).sum(), inputs)


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("affine", ["weight and bias", "weight", "none"])
def test_gradients_equal_finite_differences(affine):
    x, weight, bias = make_inputs(2, 4, 3, 2, dtype=torch.float64)
    weight, bias = weight if "weight" in affine else None, bias if "bias" in affine else None
    assert torch.autograd.gradcheck(lambda *tensors: split_group_norm(tensors[0], 2, *tensors[1:]),
                                    (x, weight, bias))  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 8, 32, 32), (3, 8, 50), (2, 16, 4, 8, 8)], ids=str)
def test_values_and_gradients_equal_those_of_torch(device, shape):
    inputs = make_inputs(*shape, device=device)
    assert_close(results(split_group_norm, *inputs), results(F.group_norm, *inputs), TOLERANCE)
    inputs = [inputs[0], None, None]
    assert_close(results(split_group_norm, *inputs), results(F.group_norm, *inputs), TOLERANCE)


def test_inputs_that_are_not_contiguous():
    x, weight, bias = make_inputs(2, 8, 12, 12)
    for other in (x.detach().transpose(2, 3), x.detach().to(memory_format=torch.channels_last)):
        inputs = other.requires_grad_(), weight, bias
        assert_close(results(split_group_norm, *inputs), results(F.group_norm, *inputs), TOLERANCE)


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_mean_costs_no_more_precision_than_in_torch(device):
    x, weight, bias = (tensor.detach() for tensor in make_inputs(1, 8, 256, 256, device=device, mean=1000))
    exact = F.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-6)
    errors = [
        float((function(x, 4, weight, bias, 1e-6) - exact).norm() / exact.norm())
        for function in (split_group_norm, F.group_norm)
    ]
    assert errors[0] < max(2 * errors[1], 2e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_computes_in_float32(device):
    x, weight, bias = make_inputs(1, 8, 16, 16, device=device)
    half = x.detach().bfloat16().requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        found = results(split_group_norm, half, weight, bias)
    assert found[0].dtype == torch.float32
    expected = results(lambda x, *more: F.group_norm(x.float(), *more), half, weight, bias)
    assert_close(found, expected, TOLERANCE)
    if device == "cuda":
        with torch.autocast(device, torch.bfloat16):
            assert_close(found, results(F.group_norm, half, weight, bias), TOLERANCE)


def test_saves_what_torch_saves():
    inputs = make_inputs(1, 8, 16, 16)

    def saved(function):
        sizes = []

        def count(tensor):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            function(inputs[0], 4, *inputs[1:])
        return sorted(sizes)

    assert saved(split_group_norm) == saved(F.group_norm)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Split groups on a CPU too; yield the numbers of groups of the calls."""
    calls, original = [], module.split_group_norm

    def counted(x, groups, *args, **kwargs):
        calls.append(len(x) * groups)
        return original(x, groups, *args, **kwargs)

    monkeypatch.setattr(module, "DEVICES", {"cpu"})
    monkeypatch.setattr(module, "split_group_norm", counted)
    return calls


def test_only_few_large_groups_are_split(on_a_cpu):
    norm = nn.GroupNorm(32, 64)
    large = torch.randn(4, 64, 128, 128)
    with split_group_norms(norm, large.device):
        split = norm(large[:3])
        F.group_norm(large, 32)
        F.group_norm(large[:3, :, :64], 32)
        norm.double()(large[:1].double())
        norm.bfloat16()(large[:1].bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            norm(large[:1].bfloat16())
    F.group_norm(large[:1], 32)
    assert torch.allclose(split, F.group_norm(large[:3], 32), atol=1e-5)
    assert on_a_cpu == [96, 32]


def test_recomputed_with_a_checkpoint(on_a_cpu):
    norm, (x, *_) = nn.GroupNorm(4, 8), make_inputs(1, 8, 256, 256)

    def block(x):
        with split_group_norms(norm, x.device):
            return F.silu(norm(x))

    values = checkpoint(block, x, use_reentrant=False)
    found = values, *torch.autograd.grad(values.square().mean(), (x, norm.weight))
    assert on_a_cpu == [4, 4]
    values = F.silu(norm(x))
    assert_close(found, (values, *torch.autograd.grad(values.square().mean(), (x, norm.weight))), TOLERANCE)

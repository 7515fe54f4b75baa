"""Uploads, fused optimizers and TF32: what changes on a GPU, tested as far as a CPU can."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from reward_core.runs.cuda import fused_option, load_optimizer, tf32, upload
from reward_core.scoring.precision import encoder_dtype, number_format


def test_an_upload_to_the_cpu_is_the_tensor_itself():
    tensor = torch.arange(6).view(2, 3)
    assert torch.equal(upload(tensor, "cpu"), tensor)


def test_adam_is_not_fused_on_a_cpu():
    assert fused_option([torch.zeros(2)]) == {}
    assert fused_option([torch.zeros(2, device="meta")]) == {}


def test_the_dtype_of_an_encoder_depends_on_its_own_gpu(monkeypatch):
    current = [torch.device("cuda:0")]

    @contextmanager
    def device(chosen):  # stands for torch.cuda.device on a machine whose first GPU alone has bfloat16
        current.append(chosen)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1].index == 0)
    assert encoder_dtype("fast", torch.device("cuda:0")) == torch.bfloat16
    assert encoder_dtype("fast", torch.device("cuda:1")) == torch.float16
    assert number_format("auto", torch.device("cuda:1")) == "float16"
    assert encoder_dtype("exact", torch.device("cuda:1")) == torch.float32


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("loaded", [True, False])
def test_a_checkpoint_resumes_with_a_fused_and_a_plain_optimizer(saved, loaded):
    def make(fused):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, **({"fused": True} if fused else {}))

    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(torch.tensor([[1.0, 2.0, 3.0]])).pow(2).sum().backward()
        optimizer.step()

    before, optimizer = make(saved)
    step(before, optimizer)
    after, resumed = make(loaded)
    after.load_state_dict(before.state_dict())
    load_optimizer(resumed, copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["fused"] == (True if loaded else None)
    for layer, one in ((before, optimizer), (after, resumed)):
        step(layer, one)
    assert torch.allclose(before.weight, after.weight, rtol=1e-6)


def setting():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def other_thread():
    """A function that runs a generator to its next yield in another thread, always the same one."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda steps: pool.submit(next, steps).result(30)


def exact_block():
    """Forbid TF32 up to the second step."""
    with tf32(False):
        yield
    yield


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_contexts_of_two_threads_may_end_in_any_order(allowed, other_thread):
    before = setting()
    with tf32(allowed):
        first, second = exact_block(), exact_block()
        with tf32(False):
            other_thread(first)
        assert setting() == (False, False)  # the other thread is still in its block
        other_thread(first)
        assert setting() == (allowed, allowed)
        with tf32(False):
            other_thread(second)
            other_thread(second)
            assert setting() == (False, False)
        assert setting() == (allowed, allowed)
    assert setting() == before


def test_training_with_tf32_is_exact_while_another_thread_needs_it(other_thread):
    before = setting()
    last = exact_block()
    with tf32(True):
        for rewards in (exact_block(), exact_block()):
            other_thread(rewards)
            with tf32(True):
                assert setting() == (False, False)
            other_thread(rewards)
            assert setting() == (True, True)
        other_thread(last)
    assert setting() == (False, False)
    other_thread(last)
    assert setting() == before


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_restored_after_the_context(allowed):
    before = setting()
    with tf32(allowed):
        assert setting() == (allowed, allowed)
        with tf32(not allowed):
            assert setting() == (not allowed, not allowed)
        assert setting() == (allowed, allowed)
    assert setting() == before

    @tf32(not before[0])
    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert setting() == before

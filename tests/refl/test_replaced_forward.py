"""Gradient steps whose forward pass the copy for steps without gradient computes."""

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from toy_runs import PROMPTS, redness, settings

import refl
from refl.errors import ConfigError
from refl.fast_steps.replaced_forward import with_forward


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_result_is_that_of_the_faster_function_and_the_gradient_that_of_the_other():
    weight = nn.Parameter(torch.tensor([2.0, 3.0]))
    first, second = torch.tensor([1.0, 5.0], requires_grad=True), torch.tensor([7.0, 11.0])
    seen = []

    def function(x, y):
        seen.append(torch.is_grad_enabled())
        return weight * x * y

    def faster(x, y):
        seen.append(torch.is_grad_enabled())
        return x + y

    output = with_forward(faster, function, first, second)
    assert output.tolist() == [8.0, 16.0]
    output.backward(torch.tensor([1.0, 10.0]))
    assert seen == [False, True]  # the function is called in the backward pass only
    assert weight.grad.tolist() == [7.0, 550.0]
    assert first.grad.tolist() == [14.0, 330.0]
    assert second.grad is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more", "tolerance"),
    [
        # The trained denoiser is in float32, so that gradients differ by the rounding of the copy only.
        ("sd", ("model.lora_rank=0",), 0.01),  # measured: at most 0.0013
        ("sd3", ("model.lora_rank=4",), 0.01),
        ("sd", ("model.lora_rank=4", "strategy.name=draft", "strategy.k=2"), 0.01),
        ("sd", ("model.lora_rank=4", "strategy.name=srpo", "strategy.discount_inversion=[]"), 0.01),
        ("sd3", ("model.lora_rank=0", "run.mixed_precision=bf16", "run.cpu=true"), 0.1),
    ],
    ids=str,
)
def test_the_copy_computes_forward_passes_with_gradient(
    pipelines, tmp_path, monkeypatch, family, more, tolerance
):
    more = ("rollout.no_grad_dtype=bf16", "optimizer.lr=0.01", *more)
    results, calls = {}, {}
    for parts in ("no", "forward"):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = settings(tmp_path / parts, f"rollout.gradient_graphs={parts}", *more)
        trainer = refl.Trainer(pipelines(family), PROMPTS, config, {"red": redness})
        copy, calls[parts] = trainer.objective.no_grad_copy, 0
        original = copy.denoise

        def counted(*args, original=original, parts=parts):
            calls[parts] += 1
            return original(*args)

        monkeypatch.setattr(copy, "denoise", counted)
        start = [parameter.detach().clone() for parameter in trainer.trainable.parameters]
        steps = [trainer.step(number) for number in range(3)]
        assert all(step.finite for step in steps)
        moved = [p.detach() - before for p, before in zip(trainer.trainable.parameters, start)]
        results[parts] = [s.gradient_norm for s in steps], torch.cat([m.flatten() for m in moved])
    passes = 2 if "strategy.k=2" in more else 1
    assert calls["forward"] == calls["no"] + 3 * passes
    (norms, changes), (copied_norms, copied_changes) = results.values()
    assert copied_norms == pytest.approx(norms, rel=tolerance)
    assert torch.cosine_similarity(changes, copied_changes, dim=0) > 1 - tolerance


def test_forward_passes_of_the_copy_need_a_copy(tmp_path):
    with pytest.raises(ConfigError, match=r"gradient_graphs=forward: .* Set rollout\.no_grad_dtype"):
        settings(tmp_path, "rollout.gradient_graphs=forward")

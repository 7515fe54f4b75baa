"""Training steps of refl on a CUDA GPU, in half precision."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings

import refl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one device and one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_changes_the_weights(pipelines, tmp_path, precision, rank):
    config = settings(tmp_path, f"run.mixed_precision={precision}", f"model.lora_rank={rank}")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": redness})
    assert trainer.accelerator.device.type == "cuda"
    assert (trainer.accelerator.scaler is not None) == (precision == "fp16")
    parameters = trainer.trainable.parameters
    before = [parameter.detach().clone() for parameter in parameters]
    metrics = trainer.step(0)
    for number in range(1, 12):  # a scaler starts high and skips steps until gradients are finite
        if metrics.finite or precision == "bf16":
            break
        metrics = trainer.step(number)
    assert metrics.finite
    assert math.isfinite(metrics.loss)
    assert metrics.gradient_norm > 0
    assert metrics.peak_memory_mb > 0
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    assert all(torch.isfinite(parameter).all() for parameter in parameters)
    assert any(not torch.equal(parameter, old) for parameter, old in zip(parameters, before))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_reward_model_trains_a_pipeline(pipelines, tmp_path, precision):
    config = settings(tmp_path, f"run.mixed_precision={precision}", reward="{name: tiny}")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config)
    trainer.train()
    rows = [row for row in trainer.metrics.read() if "loss" in row]
    assert len(rows) == 2
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["reward/tiny"]) for row in rows)


def test_recorded_steps_equal_launched_ones(pipelines, tmp_path):
    """The graph replays after two steps, and follows the weights."""
    options = ("run.mixed_precision=bf16", "model.lora_rank=4", "rollout.no_grad_dtype=bf16")
    rewards = []
    for more in ((), ("rollout.no_grad_graphs=true",)):
        config = settings(tmp_path / str(len(more)), *options, *more)
        trainer = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": redness})
        rewards.append([trainer.step(number).rewards["red"].mean for number in range(6)])
    assert rewards[0] == pytest.approx(rewards[1], abs=0.01)

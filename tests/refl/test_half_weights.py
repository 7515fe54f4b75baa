"""Gradient steps with weights in half precision compute what autocast computes, and update all weights."""

import gc
import weakref

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings

import refl
import refl.fast_steps.half_weights

FULL = ("run.cpu=true", "run.mixed_precision=bf16", "model.lora_rank=0")
# No steps without gradient, whose copy would change the images; steps in proportion to the gradients.
FIRST_STEP = (
    "strategy.first=0", "strategy.last=0", "optimizer.epsilon=1.0", "optimizer.lr=1e-2",
    "rollout.gradient_graphs=rewards",
)  # fmt: skip
SRPO = ("strategy.name=srpo", "strategy.first=1", "strategy.last=3")


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(pipelines, folder, *more, family="sd"):
    AcceleratorState._reset_state(reset_partial_state=True)
    return refl.Trainer(pipelines(family), PROMPTS, settings(folder, *FULL, *more), {"red": redness})


def weights_of(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.trainable.parameters])


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("sd", ()),
        ("sd3", ("optimizer.max_grad_norm=0.1",)),
        pytest.param("sd3", ("run.accumulation=2",), marks=pytest.mark.slow),
        pytest.param("sd", SRPO, marks=pytest.mark.slow),
        pytest.param("sd", ("model.gradient_checkpointing=true",), marks=pytest.mark.slow),
        pytest.param("sd", ("rollout.guidance_scale=3", "model.channels_last=true"), marks=pytest.mark.slow),
        *(
            pytest.param(name, (), marks=pytest.mark.slow)
            for name in ("sdxl", "flux", "flux2", "z-image", "qwen-image")
        ),
    ],
    ids=str,
)
def test_steps_equal_those_of_autocast(pipelines, tmp_path, family, more):
    trainers = [
        make(pipelines, tmp_path, *FIRST_STEP, f"rollout.no_grad_dtype={copy}", *more, family=family)
        for copy in ("no", "bf16")
    ]
    assert [trainer.objective.half_weights is not None for trainer in trainers] == [False, True]
    start = weights_of(trainers[0])
    metrics = [[trainer.step(number) for number in range(3)] for trainer in trainers]
    for number in range(3):
        one, two = (steps[number] for steps in metrics)
        # Measured: equal for transformers; a UNet's copy has its convolutions channels-last.
        assert two.loss == pytest.approx(one.loss, abs=2e-3)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=0.01)
    changes = [weights_of(trainer) - start for trainer in trainers]
    assert (changes[0] - changes[1]).norm() < 0.03 * changes[0].norm()


def test_each_weight_is_updated_once_a_step(pipelines, tmp_path, monkeypatch):
    """Gradients are in float32 for a chunk of the weights at a time."""
    weights, largest = [], []
    for size in (refl.fast_steps.half_weights.CHUNK_BYTES, 20_000):
        monkeypatch.setattr(refl.fast_steps.half_weights, "CHUNK_BYTES", size)
        trainer = make(pipelines, tmp_path, "optimizer.max_grad_norm=0.1")
        assert trainer.objective.keeps_half_gradients
        adam, seen = trainer.optimizer.optimizer, []
        parameters = trainer.trainable.parameters
        adam.register_step_pre_hook(
            lambda *_, seen=seen, parameters=parameters: seen.append(
                [p.numel() for p in parameters if p.grad is not None]
            )
        )
        for number in range(2):
            assert trainer.step(number).finite
        assert {int(adam.state[parameter]["step"]) for parameter in parameters} == {2}
        assert sum(map(sum, seen)) == 2 * sum(p.numel() for p in parameters)
        assert all(p.grad is None for p in (*parameters, *trainer.objective.half_weights.parameters.values()))
        weights.append(weights_of(trainer))
        largest.append(max(sum(sizes) for sizes in seen if len(sizes) > 1))
    assert torch.equal(*weights)
    assert largest[1] < 0.2 * largest[0]


def test_gradients_are_added_in_float32_as_they_arrive(pipelines, tmp_path):
    """With several microsteps, so that there are never all of them in both precisions."""
    trainer = make(pipelines, tmp_path, "run.accumulation=2")
    weights, seen = trainer.objective.half_weights, []
    for half, _ in weights.pairs:
        half.register_post_accumulate_grad_hook(
            lambda _: seen.append(sum(half.grad is not None for half, _ in weights.pairs))
        )
    assert trainer.step(0).finite
    assert len(seen) == 2 * len(weights.pairs)
    assert max(seen) == 0


@pytest.mark.parametrize(
    "more",
    [
        ("model.lora_rank=4",),
        ("run.mixed_precision=no",),
        ("rollout.no_grad_dtype=fp16",),
        ("strategy.name=draft", "strategy.k=2"),  # the sum of two gradients needs float32
        ("strategy.name=draft-lv",),
        ("strategy.name=nft", "run.accumulation=4", "rewards=[{name: red, input: pixels}]"),
    ],
    ids=str,
)
def test_other_runs_train_without(pipelines, tmp_path, more):
    trainer = make(pipelines, tmp_path, *more)
    assert trainer.objective.half_weights is None
    assert not trainer.objective.keeps_half_gradients


@pytest.mark.parametrize("more", [(), ("run.accumulation=2",), ("model.lora_rank=4",)], ids=str)
def test_a_trainer_gives_its_memory_back(pipelines, tmp_path, more):
    trainer = make(pipelines, tmp_path, *more)
    trainer.step(0)
    parameters = [weakref.ref(parameter) for parameter in trainer.trainable.parameters]
    del trainer
    gc.collect()
    assert not any(parameter() is not None for parameter in parameters)


def test_a_step_that_is_not_finite_leaves_nothing(pipelines, tmp_path):
    trainer = make(pipelines, tmp_path)
    before, weights = weights_of(trainer), trainer.objective.half_weights
    for reward in trainer.objective.rewards.trained:
        reward.function = lambda pixels, prompts: redness(pixels, prompts) * float("inf")
    assert not trainer.step(0).finite
    assert torch.equal(weights_of(trainer), before)
    assert all(parameter.grad is None for parameter in weights.parameters.values())

"""Half precision: gradients match float32, and skipped steps change nothing."""

import copy
from itertools import pairwise

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings

import refl
from refl.denoising.rollout_plan import RolloutPlan


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def trainer_of(pipelines, folder, precision, *more, reward=redness):
    AcceleratorState._reset_state(reset_partial_state=True)
    config = settings(folder, "run.cpu=true", f"run.mixed_precision={precision}", *more)
    return refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": reward})


def gradient(trainer, plan):
    """Return the gradients of all parameters as one vector."""
    if trainer.objective.no_grad_copy is not None:
        trainer.objective.no_grad_copy.refresh()
    trainer.objective.loss(0, [0, 1], PROMPTS[:2], plan, []).loss.backward()
    if trainer.objective.half_weights is not None:
        trainer.objective.half_weights.add_gradients()
    parameters = trainer.trainable.parameters
    vector = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )
    trainer.optimizer.zero_grad(set_to_none=True)
    return vector


PLANS = {
    "refl": RolloutPlan(3, (3,)),
    "drtune": RolloutPlan(3, (1, 3), detach_input=True),  # with a step without gradient in between
    "draft": RolloutPlan(3, (2, 3), read="latents"),
}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0], ids=["lora", "full"])
@pytest.mark.parametrize("guidance", [(), ("rollout.guidance_scale=3.0", "rollout.negative_gradient=false")])
@pytest.mark.parametrize("gradient_checkpointing", ["true", "false"])
def test_gradients_in_bf16_match_float32(pipelines, tmp_path, rank, guidance, gradient_checkpointing):
    gradients = {}
    for precision in ("no", "bf16"):
        more = (
            f"model.lora_rank={rank}",
            f"rollout.gradient_checkpointing={gradient_checkpointing}",
            *guidance,
        )
        trainer = trainer_of(pipelines, tmp_path, precision, *more)
        with torch.no_grad():
            for number, parameter in enumerate(trainer.trainable.parameters):  # LoRA's B is 0 at first
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter += 0.02 * noise
        gradients[precision] = {name: gradient(trainer, plan) for name, plan in PLANS.items()}
    for name in PLANS:
        exact, rounded = gradients["no"][name], gradients["bf16"][name]
        assert exact.norm() > 0
        assert torch.cosine_similarity(exact, rounded, dim=0) > 0.97, name
        assert 0.9 < rounded.norm() / exact.norm() < 1.1, name


@pytest.mark.slow
def test_lora_layers_do_not_cast_inputs_in_training(pipelines, tmp_path):
    trainer = trainer_of(pipelines, tmp_path, "bf16", "model.lora_rank=4")
    seen = set()
    for layer in trainer.family.denoiser.modules():
        if hasattr(layer, "lora_A"):
            layer.lora_A["default"].register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype))
    assert trainer.step(0).finite
    assert torch.bfloat16 in seen  # outputs of attention
    seen.clear()
    trainer.objective.generate(PROMPTS[:2], [0, 1])
    assert seen == {torch.float32}  # other passes may run without autocast


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(
            ("rollout.guidance_scale=3.0", "rollout.negative_gradient=false"), marks=pytest.mark.slow
        ),
    ],
)
def test_the_autocast_cache_is_cleared_before_gradient_steps(pipelines, tmp_path, monkeypatch, more):
    """Up to torch 2.9, casts cached under no_grad would cut off the gradient of the next step."""
    more = ("model.lora_rank=0", "rollout.no_grad_dtype=no", *more)
    trainer = trainer_of(pipelines, tmp_path, "bf16", *more)
    seen, clear = [], torch.clear_autocast_cache
    trainer.family.denoiser.register_forward_pre_hook(
        lambda *_: seen.append("gradient" if torch.is_grad_enabled() else "none")
    )
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: (seen.append("cleared"), clear()))
    for plan in PLANS.values():
        gradient(trainer, plan)
    trainer.step(0)
    assert seen.count("none") > 3
    assert seen.count("gradient") > 3
    for before, after in pairwise(seen):
        assert (before, after) != ("none", "gradient"), seen


def with_scaler(trainer):
    """Build a trainer with a gradient scaler, as on a GPU in fp16; accelerate gives CPUs none."""
    accelerator = trainer.accelerator
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=1024.0), True
    trainer.take_step.optimizer = accelerator.prepare(trainer.optimizer.optimizer)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nan", pytest.param("inf", marks=pytest.mark.slow)])
def test_a_skipped_fp16_step_does_not_change_weights_or_optimizer(pipelines, tmp_path, kind):
    broken = False

    def sometimes(pixels, prompts):
        if not broken:
            return redness(pixels, prompts)
        if kind == "nan":  # while its gradient is finite
            return redness(pixels, prompts) + float("nan")
        return redness(pixels, prompts) * 1e38  # its gradient overflows

    trainer = with_scaler(trainer_of(pipelines, tmp_path, "fp16", "model.lora_rank=0", reward=sometimes))
    parameters, adam = trainer.trainable.parameters, trainer.optimizer.optimizer

    def held():
        return [p.detach().clone() for p in parameters], copy.deepcopy(adam.state_dict()["state"])

    assert trainer.step(0).finite
    weights, state = held()
    assert state
    broken, scale = True, trainer.accelerator.scaler.get_scale()
    assert not trainer.step(1).finite
    after, state_after = held()
    assert all(torch.equal(one, two) for one, two in zip(weights, after))
    for number, values in state.items():
        assert all(torch.equal(value, state_after[number][name]) for name, value in values.items())
    backed_off = trainer.accelerator.scaler.get_scale() < scale
    assert backed_off == (kind == "inf")  # a smaller scale does not fix a reward
    broken = False
    assert trainer.step(2).finite  # the next step is normal
    after, _ = held()
    assert not any(torch.equal(one, two) for one, two in zip(weights, after) if one.numel() > 1000)
    assert all(torch.isfinite(weight).all() for weight in after)

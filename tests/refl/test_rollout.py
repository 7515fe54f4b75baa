"""Denoising steps equal diffusers' schedulers; gradients of strategies equal plain autograd."""

import random
from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn

from refl.config import StrategyConfig
from refl.config.rollout_plans import PLANNERS, plan_rollout
from refl.config.strategy_checks import check_strategy
from refl.denoising.noise_schedule import make_schedule, training_levels
from refl.denoising.rollout import SampleNoise, rollout
from refl.errors import ConfigError, ModelError
from refl.families.decoding import recompute_in_backward

# The scheduler configuration of Stable Diffusion.
STABLE_DIFFUSION = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    num_train_timesteps=1000,
    steps_offset=1,
    clip_sample=False,
)
SHAPE = (2, 4, 8, 8)


def answer(x: torch.Tensor, t: float) -> torch.Tensor:
    """A smooth, nonlinear denoiser that depends on the timestep and keeps the scale of its input."""
    return torch.sin(1.3 * x + t / 300) + 0.2 * x.flip(-1)


def trajectory(schedule, x, noises):
    for i, t in enumerate(schedule.timesteps):
        x = schedule.step(x, answer(x, t), i, noises[i])
        yield x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("sampler", "kind"), [("ddim", DDIMScheduler), ("ddpm", DDPMScheduler), ("euler", EulerDiscreteScheduler)]
)
@pytest.mark.parametrize("steps", [1, 10, 40])
def test_steps_equal_those_of_diffusers(sampler, kind, prediction, steps, monkeypatch):
    config = {**STABLE_DIFFUSION, "prediction_type": prediction}
    if kind is EulerDiscreteScheduler:
        config.pop("clip_sample")
    if kind is DDIMScheduler:
        config["set_alpha_to_one"] = False
    scheduler = kind(**config)
    scheduler.set_timesteps(steps)
    schedule = make_schedule(scheduler, steps, sampler)
    assert schedule.timesteps == tuple(float(t) for t in scheduler.timesteps)
    noises = torch.randn(steps + 1, *SHAPE, generator=torch.Generator().manual_seed(3))
    theirs = noises[-1] * scheduler.init_noise_sigma
    ours = trajectory(schedule, noises[-1] * schedule.initial_scale, noises)
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(theirs, t)
        extra = {}
        if kind is DDPMScheduler:  # draws its noise itself, so replace that
            monkeypatch.setattr(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, noise=noises[i], **k: noise
            )
        theirs = scheduler.step(answer(seen, float(t)), t, theirs, **extra).prev_sample
        scale = 1.0
        if kind is EulerDiscreteScheduler:  # diffusers keeps latents at x0 + s * noise
            scale = float((scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5)
        difference = (next(ours) * scale - theirs).pow(2).mean().sqrt() / theirs.pow(2).mean().sqrt()
        assert difference < 1e-5, (i, float(difference))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_steps_equal_those_of_diffusers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(28)
    schedule = make_schedule(scheduler, 28, "flow")
    theirs = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    ours = trajectory(schedule, theirs, [None] * 28)
    for t in scheduler.timesteps:
        theirs = scheduler.step(answer(theirs, float(t)), t, theirs).prev_sample
        difference = (next(ours) - theirs).pow(2).mean().sqrt() / theirs.pow(2).mean().sqrt()
        assert difference < 1e-5


def test_a_sampler_for_other_models_is_refused():
    with pytest.raises(ConfigError, match=r"rollout\.sampler='ddim': it must be flow for this model"):
        make_schedule(FlowMatchEulerDiscreteScheduler(), 10, "ddim")
    with pytest.raises(
        ConfigError, match=r"rollout\.sampler='flow': it must be ddim, ddpm or euler for this model"
    ):
        make_schedule(DDIMScheduler(**STABLE_DIFFUSION), 10, "flow")
    with pytest.raises(ConfigError, match=r"sampler='heun': it must be one of"):
        make_schedule(DDIMScheduler(**STABLE_DIFFUSION), 10, "heun")


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMDPMSolverMultistepScheduler(),  # Playground v2.5's
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
)
def test_a_model_of_another_noise_process_is_refused(scheduler):
    with pytest.raises(ModelError, match=f"scheduler {type(scheduler).__name__}, .*not supported"):
        make_schedule(scheduler, 10, "ddim")
    with pytest.raises(ModelError, match="noise process is not supported"):
        training_levels(scheduler)


# Strategies


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(4, 4, 3, padding=1).double()

    def forward(self, x, t):
        return torch.tanh(self.layer(x) + t / 1000)


STRATEGIES = {
    "refl": StrategyConfig("refl", first=4, last=7),
    "draft": StrategyConfig("draft", k=3),
    "draft-lv": StrategyConfig("draft-lv", copies=2),
    "alignprop": StrategyConfig("alignprop"),
    "drtune": StrategyConfig("drtune", k=3, first=6),
}


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("gradient_checkpointing", [True, False])
@pytest.mark.parametrize("name", STRATEGIES)
def test_gradients_equal_those_of_the_unrolled_rollout(name, gradient_checkpointing, sampler):
    steps = 8
    schedule = make_schedule(DDIMScheduler(**STABLE_DIFFUSION), steps, sampler)
    model = Denoiser()
    noises = torch.randn(40, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen_stops = set()
    for seed in range(4):
        plan = plan_rollout(STRATEGIES[name], steps, random.Random(seed))
        seen_stops.add((plan.stop, plan.gradient))
        draws = iter(noises[1:])

        def denoise(x, i):
            return model(x, schedule.timesteps[i])

        result = rollout(
            denoise,
            schedule,
            plan,
            noises[0],
            draws.__next__,
            gradient_denoise=partial(recompute_in_backward, denoise) if gradient_checkpointing else None,
        )
        (result.latents**3).mean().backward()
        ours = model.layer.weight.grad.clone()
        model.zero_grad()

        # The same chain unrolled over all steps, detached where the strategy detaches.
        draws = iter(noises[1:])
        x, results = noises[0], []
        for i in range(plan.stop + 1):
            seen = x.detach() if name == "drtune" else x
            output = model(seen, schedule.timesteps[i])
            if i not in plan.gradient:
                output = output.detach()
            alpha, sigma = schedule.alphas[i], schedule.sigmas[i]
            x0 = (x - sigma * output) / alpha
            if i == plan.stop and name in ("refl", "drtune"):
                x = x0
                break
            new_noise_scale = schedule.new_noise_scales[i]
            x = (
                schedule.alphas[i + 1] * x0
                + (schedule.sigmas[i + 1] ** 2 - new_noise_scale**2) ** 0.5 * output
            )
            if new_noise_scale:
                x = x + new_noise_scale * next(draws)
        results = [x]
        for _ in range(plan.copies):
            again = alpha * x.detach() + sigma * next(draws)
            results.append((again - sigma * model(again, schedule.timesteps[plan.stop])) / alpha)
        expected = torch.cat(results)
        assert torch.allclose(result.latents, expected, rtol=1e-10, atol=1e-12)
        (expected**3).mean().backward()
        theirs = model.layer.weight.grad.clone()
        model.zero_grad()
        assert theirs.norm() > 0
        assert (ours - theirs).norm() <= 1e-10 * theirs.norm()  # float64; measured below 1e-14
    if name in ("refl", "alignprop", "drtune"):
        assert len(seen_stops) > 1  # each rollout draws its own stop


def test_the_original_strategy_stops_between_steps_30_and_39():
    plans = [plan_rollout(StrategyConfig(), 40, random.Random(seed)) for seed in range(300)]
    assert {plan.stop for plan in plans} == set(range(30, 40))
    assert all(plan.gradient == (plan.stop,) and plan.read == "prediction" for plan in plans)


def test_drtune_spaces_gradient_steps_evenly():
    plan = plan_rollout(StrategyConfig("drtune", k=4, first=39), 40, random.Random(0))
    assert plan.gradient == (9, 19, 29, 39)
    assert plan.cost() == (36, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (StrategyConfig("dpo"), "strategy.name='dpo': it must be one of refl, draft"),
        (StrategyConfig("draft", k=9), "strategy.k=9: it must be 1 to 8"),
        (StrategyConfig("draft-lv", copies=0), "strategy.copies"),
        (StrategyConfig("refl", first=5, last=2), "first=5 and strategy.last=2: .* 0 <= first <= last < 8"),
        (StrategyConfig("refl", last=8), "first=None and strategy.last=8: .* 0 <= first <= last < 8"),
    ],
)
def test_impossible_plans_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        check_strategy(config, 8)
    assert {*STRATEGIES, "srpo", "nft", "grpo"} == set(PLANNERS)


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    all_samples = SampleNoise(1, 5, [0, 1, 2, 3])
    parts = [SampleNoise(1, 5, [0, 1]), SampleNoise(1, 5, [2, 3])]
    for _ in range(2):
        assert torch.equal(all_samples((4, 2), "cpu"), torch.cat([part((4, 2), "cpu") for part in parts]))
    first = SampleNoise(1, 5, [0])((4, 2), "cpu")
    for other in (
        SampleNoise(2, 5, [0]),
        SampleNoise(1, 6, [0]),
        SampleNoise(1, 5, [1]),
        SampleNoise(1, 5, [0], 1),
    ):
        assert not torch.equal(first, other((4, 2), "cpu"))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_first_step_beyond_the_training_timesteps_is_refused(sampler):
    scheduler = DDIMScheduler(**STABLE_DIFFUSION)  # its offset moves the first of 1000 steps to timestep 1000
    assert make_schedule(scheduler, 999, sampler).timesteps[0] == 999
    with pytest.raises(
        ConfigError, match=r"1000 steps: the first would be at timestep 1000, .* below 1000\."
    ):
        make_schedule(scheduler, 1000, sampler)

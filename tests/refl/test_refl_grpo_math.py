"""Random steps, their probabilities and the clipped loss of grpo give the numbers of the published code."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from refl.config import StrategyConfig
from refl.config.rollout_plans import plan_rollout
from refl.denoising.noise_schedule import NoiseSchedule
from refl.denoising.random_steps import log_prob, noise_scales, random_schedule
from refl.objectives.losses import distance, grpo_loss

FOLDER = Path(__file__).parents[1] / "data" / "parity_rl"
# noise -> names of its values in the file
FLOW = {
    "flow_sde": ("mean", "next", "log_prob"),
    "dance_sde": ("dance_mean", "dance_next", "dance_log_prob"),
    "cps": ("cps_mean", "cps_next", "cps_log_prob"),
}


def cases(file):
    arrays = np.load(FOLDER / file)
    return [
        (case, lambda name, case=case: torch.from_numpy(arrays[f"{case['key']}.{name}"]))
        for case in json.loads(str(arrays["cases"]))
    ]


def flow(sigmas):
    sigmas = tuple(map(float, sigmas))
    return NoiseSchedule(
        sigmas[:-1], tuple(1 - s for s in sigmas), sigmas, (0.0,) * (len(sigmas) - 1), "flow"
    )


def close(found, expected, tolerance):
    expected = expected.double()
    error = (found.double() - expected).abs().max() / (1 + expected.abs().max())
    assert float(error) < tolerance


def check_steps(schedule, noise, array, names, tolerances):
    """Compare mean, next latents and log-probability of every step that adds noise."""
    for i in range(len(schedule)):
        x, output, new = (array(name)[i].double() for name in ("sample", "output", "noise"))
        mean, scale = schedule.mean(x, output, i), schedule.new_noise_scales[i]
        after = schedule.step(x, output, i, new)
        close(mean, array(names[0])[i], tolerances[0])
        close(after, array(names[1])[i], tolerances[1])
        if scale:
            close(log_prob(after, mean, scale, noise), array(names[2])[i], tolerances[2])


@pytest.mark.parametrize("noise", FLOW)
def test_random_steps_of_flows_are_those_of_the_published_code(noise):
    for case, array in cases("flow_sde.npz"):
        schedule = random_schedule(flow(array("sigmas")), noise, case["noise_level"], range(case["steps"]))
        tolerances = (5e-5, 5e-5, 5e-5) if noise == "dance_sde" else (1e-5, 1e-5, 1e-5)
        check_steps(schedule, noise, array, FLOW[noise], tolerances)


def test_random_steps_of_ddim_are_those_of_the_published_code():
    kinds = set()
    for case, array in cases("ddim_log_prob.npz"):
        cumulative, stride = array("alphas_cumprod"), 1000 // case["steps"]
        # the authors clamp the timestep after the last one to 0
        steps = [*array("timesteps").tolist(), max(int(array("timesteps")[-1]) - stride, 0)]
        levels = [float(cumulative[int(t)]) for t in steps]
        alphas, sigmas = (
            tuple(level**0.5 for level in levels),
            tuple((1 - level) ** 0.5 for level in levels),
        )
        plain = NoiseSchedule(
            tuple(steps[:-1]), alphas, sigmas, (0.0,) * case["steps"], case["prediction_type"]
        )
        schedule = random_schedule(plain, "ddim", case["eta"], range(case["steps"]))
        check_steps(schedule, "ddim", array, ("mean", "next", "log_prob"), (5e-5, 5e-5, 5e-5))
        np.testing.assert_allclose(schedule.new_noise_scales, array("std")[:, 0], rtol=2e-4, atol=1e-6)
        kinds.add(case["prediction_type"])
    assert kinds == {"epsilon", "v_prediction", "sample"}


def test_the_clipped_loss_and_its_gradients_are_those_of_the_published_code():
    """Its KL term, too: for a flow, it is the distance in v times a factor of the level."""
    _, steps = cases("flow_sde.npz")[1]  # the levels of the same schedule
    for case, array in cases("clipped_objective.npz"):
        plain, i = flow(steps("sigmas")), case["step"]
        schedule = random_schedule(plain, "flow_sde", case["noise_level"], [i])
        scale, x, after = schedule.new_noise_scales[i], array("sample"), array("next")
        output = array("new_output").clone().requires_grad_()
        old, new = (
            log_prob(after, schedule.mean(x, out, i), scale, "flow_sde")
            for out in (array("old_output"), output)
        )
        new.retain_grad()
        advantages = array("advantages").clamp(-case["adv_clip"], case["adv_clip"]).double()
        losses = grpo_loss(new, old, advantages, case["clip_range"])
        assert losses.shape == (len(x),)
        loss = losses.mean()
        torch.testing.assert_close(loss.float(), array("policy_loss"), rtol=1e-5, atol=0)
        if case["kl_weight"]:
            alpha, sigma = schedule.alphas[i], schedule.sigmas[i]
            moved = schedule.kept_noise_scales[i] * alpha - schedule.alphas[i + 1] * sigma
            factor = moved**2 / (2 * float(array("std_dev_t")[0]) ** 2)
            kl = factor * distance(x, output, array("ref_output"), alpha, sigma, "flow", "v")
            torch.testing.assert_close(kl, array("kl_loss"), rtol=2e-5, atol=0)
            loss = loss + case["kl_weight"] * kl
        loss.backward()
        for found, name in ((new.grad, "grad_log_prob"), (output.grad, "grad_new_output")):
            expected = array(name)
            largest = float(expected.abs().max())
            torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4 * largest)


def test_only_steps_toward_the_advantage_within_the_clip_have_a_gradient():
    log_ratio = torch.tensor([0.0, 0.1, 0.3, -0.3, 0.3, -0.3, 0.3]).requires_grad_()
    advantages = torch.tensor([2.0, 2.0, 2.0, 2.0, -1.0, -1.0, 0.0])
    grpo_loss(log_ratio, torch.zeros(7), advantages, 0.2).sum().backward()
    expected = -advantages * log_ratio.detach().exp()
    expected[[2, 5]] = 0  # better images that are more probable already, and worse ones that are less
    torch.testing.assert_close(log_ratio.grad, expected)


@pytest.mark.parametrize("noise", ["cps", "ddim"])
def test_cps_and_ddim_leave_the_noise_that_a_level_has(noise):
    sigmas = (0.99, 0.8, 0.5, 0.2, 0.0)
    schedule = NoiseSchedule(
        (3, 2, 1, 0), tuple((1 - s**2) ** 0.5 for s in sigmas), sigmas, (0.0,) * 4, "epsilon"
    )
    for i in range(3):
        fresh, kept = noise_scales(schedule, i, noise, 0.7)
        assert 0 < fresh < sigmas[i + 1]
        assert fresh**2 + kept**2 == pytest.approx(sigmas[i + 1] ** 2)
    window = random_schedule(schedule, noise, 0.7, [1])
    x, output, new = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for i in (0, 2, 3):  # outside the window: the deterministic step
        torch.testing.assert_close(window.step(x, output, i), schedule.step(x, output, i))
    assert not torch.allclose(window.step(x, output, 1, new), schedule.step(x, output, 1))


def test_the_window_starts_in_the_first_half_and_ends_before_the_last_step():
    for steps in range(2, 13):
        for window in range(min(4, steps)):
            config = StrategyConfig("grpo", window=window)
            plans = [plan_rollout(config, steps, random.Random(n)) for n in range(60)]
            starts = {plan.random[0] for plan in plans}
            length = window or steps - 1
            assert starts == set(range(min((steps - 1) // 2, steps - 1 - length) + 1))
            if window:  # set by the user, also in the second half
                last = steps - 1 - window
                assert StrategyConfig("grpo", window=window, first=last).bounds(steps) == (last, last)
            for plan in plans:
                assert plan.random == tuple(range(plan.random[0], plan.random[0] + length))
                assert (plan.stop, plan.gradient, plan.read) == (steps - 1, (), "latents")

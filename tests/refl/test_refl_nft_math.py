"""The loss of nft and its advantages give the numbers of the published code and of the derivation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from refl.config import RewardConfig, StrategyConfig
from refl.objectives.advantages import advantages, to_unit
from refl.objectives.losses import distance, nft_loss
from refl.rewards import Reward, Rewards
from refl.rewards.reward_loss import ensemble
from reward_core.integrations.diffusers.clean_latents import clean

FOLDER = Path(__file__).parents[1] / "data" / "parity_rl"
ADVANTAGES = json.loads((FOLDER / "advantages.json").read_text())
NAMES = {"global_std": "pooled", "group_std": "group"}


def cases(file):
    arrays = np.load(FOLDER / file)
    return [
        (case, lambda name, case=case: torch.from_numpy(arrays[f"{case['key']}.{name}"]))
        for case in json.loads(str(arrays["cases"]))
    ]


def test_the_loss_and_its_gradient_are_those_of_the_published_code():
    for case, array in cases("nft_loss.npz"):
        t = array("t").view(-1, 1, 1, 1)
        x0, v_old, v_new = array("x0"), array("v_old"), array("v_new").clone().requires_grad_()
        x = (1 - t) * x0 + t * array("noise")
        new, old = (clean(x, v, 1 - t, t, "flow") for v in (v_new, v_old))
        losses = nft_loss(new, old, x0, array("r"), case["beta"], case["adv_clip"])
        assert losses.shape == (len(x0),)
        losses.mean().backward()
        rtol, atol = (1e-12, 1e-14) if case["dtype"] == "f64" else (2e-5, 1e-6)
        torch.testing.assert_close(losses.mean().double(), array("policy_loss"), rtol=rtol, atol=0)
        torch.testing.assert_close(v_new.grad, array("grad_v_new"), rtol=rtol, atol=atol)


def test_all_four_predictions_give_the_derived_loss():
    kinds = set()
    for case, array in cases("nft_forms.npz"):
        alpha, sigma = (array(name).view(-1, 1, 1, 1) for name in ("alpha", "sigma"))
        output = array("new_output").clone().requires_grad_()
        new, old = (
            clean(array("x"), out, alpha, sigma, case["prediction"]) for out in (output, array("old_output"))
        )
        new.retain_grad()
        loss = nft_loss(new, old, array("x0"), array("r"), case["beta"], case["adv_clip"]).mean()
        loss.backward()
        for found, name in ((loss, "loss"), (output.grad, "grad_new_output"), (new.grad, "grad_new_x0")):
            torch.testing.assert_close(found, array(name), rtol=1e-10, atol=1e-13)
        kinds.add(case["prediction"])
    assert kinds == {"epsilon", "v_prediction", "sample", "flow"}


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_r_of_one_half_gives_no_gradient_where_the_weights_are_the_old_ones(beta):
    generator = torch.Generator().manual_seed(0)
    old, x0 = torch.randn(2, 3, 4, 6, 6, generator=generator)
    for r, is_zero in ((0.5, True), (0.6, False)):
        new = old.clone().requires_grad_()
        nft_loss(new, old, x0, torch.full((3,), r), beta, 5.0).sum().backward()
        assert (new.grad.abs().max() == 0) == is_zero


@pytest.mark.parametrize("case", ADVANTAGES["single"], ids=lambda case: case["name"])
def test_advantages_of_one_reward_are_those_of_the_published_code(case):
    for key, spread in NAMES.items():
        found = advantages({"reward": case["rewards"]}, case["prompts"], spread=spread)
        expected = case[key]
        np.testing.assert_allclose(found, expected["advantages"], rtol=1e-12, atol=1e-12)
        for clip in (1, 5):
            np.testing.assert_allclose(to_unit(found, clip), expected[f"r_clip_{clip}"], rtol=1e-12)


@pytest.mark.parametrize("case", ADVANTAGES["several_rewards"], ids=lambda case: case["name"])
def test_advantages_of_several_rewards_are_those_of_the_published_code(case):
    for key, options in (
        ("sum_global_std", {"spread": "pooled"}),
        ("sum_group_std", {"spread": "group"}),
        ("gdpo", {"combine": "zscore"}),
    ):
        found = advantages(case["rewards"], case["groups"], weights=case["weights"], **options)
        np.testing.assert_allclose(found, case[key], rtol=1e-9, atol=1e-9)


def test_the_old_weights_follow_the_published_schedules():
    settings = {"0": (0, 0, 0), "1": (0, 0.001, 0.5), "2": (75, 0.0075, 0.999)}
    for kind, decays in ADVANTAGES["old_policy_decay"].items():
        config = StrategyConfig("nft", old_decay=settings[kind])
        for step, expected in decays.items():
            assert config.keep_old(int(step)) == pytest.approx(expected, abs=1e-12)


def test_differences_by_rounding_and_broken_rewards_count_for_nothing():
    groups = np.repeat([0, 1, 2], 4)
    rewards = np.array([0.3, 0.3 + 1e-7, 0.3, 0.3, 0.1, 0.5, 0.9, 0.2, 0.4, np.nan, 0.2, 0.1])
    other = np.linspace(0, 1, 12)
    both = {"a": rewards, "b": other}
    found = advantages(both, groups, combine="zscore", weights={"b": 0.0}, floors={"a": 0.003})
    assert np.isnan(found[8:]).all()  # the whole group of the broken reward
    assert np.abs(found[:4]).max() < 0.01
    loud = advantages(both, groups, combine="zscore", weights={"b": 0.0}, floors={"a": 1e-9})
    assert np.abs(loud[:4]).max() > 0.1
    np.testing.assert_array_equal(found[4:8], advantages(both, groups, "pooled", "zscore", weights={"b": 0.0},
                                                         floors={"a": 0.003})[4:8])  # fmt: skip
    assert np.all(advantages({"a": [0.1] * 6}, [0, 0, 0, 1, 1, 1], "group") == 0)
    assert np.abs(advantages({"a": rewards[:8]}, groups[:8], clip=0.5)).max() == 0.5


def test_a_conservative_ensemble_follows_the_lowest_reward():
    values = torch.tensor([[1.0, 2.0, 2.0], [3.0, 1.0, 2.0]], requires_grad=True)
    assert ensemble(values, "sum", 1.0).tolist() == [4, 3, 4]
    lowest = ensemble(values, "min", 1.0)
    assert lowest.tolist() == [1, 1, 2]
    (gradient,) = torch.autograd.grad(lowest[:2].sum(), values)
    assert gradient[:, :2].tolist() == [[1, 0], [0, 1]]
    lower = ensemble(values, "lower", 2.0)
    assert lower.tolist() == pytest.approx([0, 0.5, 2], abs=1e-5)
    (gradient,) = torch.autograd.grad(lower.sum(), values)
    assert torch.isfinite(gradient).all()
    rewards = {"a": [0, 9, 0, 9], "b": [5, 5, 1, 9]}
    assert advantages(rewards, [0] * 4, kind="min").argmax() == 3
    assert advantages(rewards, [0] * 4, kind="min")[0] == advantages(rewards, [0] * 4, kind="min")[2]


def test_strategies_with_gradient_use_the_ensemble_too():
    def reward(name, function):
        return Reward(RewardConfig(name, 1.0, "linear"), function)

    both = [
        reward("red", lambda pixels, prompts: pixels[:, 0].mean((1, 2))),
        reward("blue", lambda pixels, prompts: pixels[:, 2].mean((1, 2))),
    ]
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[0, 0], pixels[1, 2] = 0.8, 0.6  # one image is red, one blue
    pixels.requires_grad_()
    losses, _ = Rewards(both, "min").loss(pixels, ["a", "b"])
    assert losses.tolist() == [0, 0]  # no image has both
    losses.sum().backward()
    assert pixels.grad.abs().sum((2, 3)).bool().tolist() == [[False, False, True], [True, False, False]]
    assert Rewards(both, "sum").loss(pixels, ["a", "b"])[0].tolist() == pytest.approx([-0.8, -0.6])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_the_distance_in_v_is_the_same_for_every_prediction(prediction):
    """Two denoisers whose velocities differ by one everywhere are at distance one at every level."""
    generator = torch.Generator().manual_seed(1)
    x, x0 = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64).view(-1, 1, 1, 1)
    alpha = 1 - sigma if prediction == "flow" else (1 - sigma**2).sqrt()
    noise = (x - alpha * x0) / sigma

    def output(x0, noise):
        return {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0,
                "flow": noise - x0}[prediction]  # fmt: skip

    moved = x0 - sigma  # v moves by 1
    outputs = output(x0, noise), output(moved, (x - alpha * moved) / sigma)
    assert float(distance(x, *outputs, alpha, sigma, prediction, "v")) == pytest.approx(1.0)
    assert float(distance(x, *outputs, alpha, sigma, prediction, "x0")) == pytest.approx(
        float((sigma**2).mean())
    )

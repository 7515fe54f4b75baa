"""The parts of tools/bench_scoring.py that its figures depend on."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.network.config import RewardConfig


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))


def test_the_products_of_a_batch_are_all_work_but_attention():
    from matrix_rates import flop, product_shapes
    from scoring_workload import gflop

    config, batch, tokens = RewardConfig.imagereward_v1(), 8, 13
    work = sum(count * flop(shape) for shape, count in product_shapes(config, batch, tokens).items())
    n, d = config.vision.tokens, config.vision.width
    attention = config.vision.depth * 4 * n * n * d
    attention += config.text.num_hidden_layers * 4 * tokens * (tokens + n) * config.text.hidden_size
    assert work / batch + attention == pytest.approx(gflop(config, tokens) * 1e9, rel=1e-3)


def test_the_autocast_baseline_has_the_rewards_of_autocast_around_the_exact_model():
    from scoring_baselines import for_autocast

    exact = RM.load("tiny", device="cpu")
    plain = for_autocast(exact, torch.bfloat16)
    images = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "gray")]
    prompts = ["a red circle", "a small blue square"]
    before = exact.score_matrix(prompts, images)
    with torch.autocast("cpu", torch.bfloat16):
        expected, rewards = (model.score_matrix(prompts, images) for model in (exact, plain))
    torch.testing.assert_close(rewards, expected, rtol=0, atol=1e-5)
    assert (expected - before).abs().max() > 1e-4  # autocast is active
    torch.testing.assert_close(exact.score_matrix(prompts, images), before, rtol=0, atol=1e-5)

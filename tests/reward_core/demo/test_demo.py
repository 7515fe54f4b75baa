"""The bundled tiny model and the demo."""

import os
import re

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core import shapes
from reward_core.demo.__main__ import main
from reward_core.training import pairwise_accuracy


@pytest.fixture(scope="module")
def tiny() -> RM.RewardModel:
    return RM.load("tiny", device="cpu")


def test_the_tiny_model_comes_with_the_package(tiny):
    assert "tiny" in RM.available_models()
    assert tiny.config.image_size == 64
    assert 0.5e6 < sum(p.numel() for p in tiny.parameters()) < 2e6


def accuracy(model: RM.RewardModel, groups: list[shapes.Group]) -> float:
    """Return the fraction of untied comparisons ordered as in truth."""
    right = total = 0
    for group in groups:
        rewards = model.score(group.prompt, [Image.fromarray(pixels) for pixels in group.images])
        r, n = pairwise_accuracy(torch.tensor(rewards), group.ranking)
        right, total = right + r, total + n
    return right / total


@pytest.mark.slow
def test_the_tiny_model_orders_images_of_held_out_prompts(tiny):
    groups = list(shapes.make_groups(60, shapes.HELD_OUT, "held_out", start=50_000))
    # Measured: 0.94; chance is 0.5.
    assert accuracy(tiny, groups) > 0.9
    judge = RM.load("tiny-judge", device="cpu")
    assert accuracy(judge, groups) > 0.88  # measured: 0.92 and 0.94 on two ranges
    assert judge.config.vision_depth != tiny.config.vision_depth  # another model, for a second opinion


@pytest.mark.slow
def test_scores_are_about_standard_normal_and_have_percentiles(tiny):
    scores, percentiles = [], []
    for group in shapes.make_groups(40, start=70_000):
        images = [Image.fromarray(pixels) for pixels in group.images]
        rewards = tiny.score(group.prompt, images)
        scores += rewards
        percentiles += [tiny.percentile(reward) for reward in rewards]
    mean = sum(scores) / len(scores)
    spread = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    assert abs(mean) < 0.25
    assert 0.8 < spread < 1.2
    assert 40 < sum(percentiles) / len(percentiles) < 60
    assert min(percentiles) >= 0
    assert max(percentiles) <= 100


@pytest.mark.slow
def test_the_demo_ranks_and_draws_in_80_columns(warm_python, tmp_path):
    out = tmp_path / "sheet.png"
    done = warm_python.run(["-m", "reward_core.demo", "--out", out], env={**os.environ, "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = [row for row in rows if row[0].strip()]  # faults may wrap
    assert len(rows) == 3 * 12
    for first in range(0, 36, 12):
        ranks = [int(row[0]) for row in rows[first : first + 12]]
        scores = [float(row[1]) for row in rows[first : first + 12]]
        assert ranks == list(range(1, 13))
        assert scores == sorted(scores, reverse=True)
        for column in (3, 4):  # the true rank and the oracle rank
            assert min(int(row[column]) for row in rows[first : first + 12]) == 1
    right, total = map(int, re.search(r"(\d+) of (\d+) comparisons", done.stdout).groups())
    assert right / total > 0.8  # measured: 0.90
    assert int(re.search(r"from the pixels: (\d+) of", done.stdout)[1]) / total > 0.95  # measured: 1.00
    with Image.open(out) as sheet:
        assert sheet.width > 12 * 64
        assert sheet.height > 3 * 64
        assert len(sheet.convert("RGB").getcolors(2**24)) > 1000


def test_the_demo_reports_a_missing_folder(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "none" / "sheet.png")])
    assert "no such folder" in capsys.readouterr().err

"""refl compare: rewards of two models for the same prompts and seeds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import refl
from refl.cli import main
from refl.compare import ImageSettings, compare, compare_rewards, load_model
from refl.config import RewardConfig
from refl.errors import RewardError
from refl.rewards import load_rewards
from reward_core.errors import OutputError


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue square\na green star\n")
    return path


def arguments(before, after, prompts, out, *more):
    command = ["compare", before, after, "--prompts", prompts, "--reward", "tiny", "--reward", "tiny-judge",
            "--out", out, "--height", "16", "--steps", "4", "--seeds", "2",
            "--device", "cpu", *more]  # fmt: skip
    return [str(part) for part in command]


@pytest.mark.slow
def test_a_model_compared_with_itself_is_a_tie(pipelines, prompts, tmp_path, capsys):
    assert main(arguments(pipelines("sd"), pipelines("sd"), prompts, tmp_path / "out", "--json")) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in comparison["rewards"]] == ["tiny", "tiny-judge"]
    for row in comparison["rewards"]:
        assert row["before"] == row["after"]
        assert row["win_rate"] == row["win_rate_low"] == row["win_rate_high"] == 0.5
    assert comparison["diversity"]["before"] == comparison["diversity"]["after"] > 0
    assert Image.open(tmp_path / "out" / "comparison.png").size == (4 * 18 - 2, 3 * 18 - 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "pictures.jsonl").read_text().splitlines()]
    assert len(rows) == 6


@pytest.mark.slow
def test_an_interrupted_comparison_keeps_the_finished_prompts(pipelines, prompts, tmp_path):
    family = load_model(pipelines("sd"), None, torch.device("cpu"))
    rewards = load_rewards([RewardConfig("tiny")], torch.device("cpu"))
    made = []

    def advance(count):
        made.append(count)
        if len(made) == 5:  # in the third prompt
            raise KeyboardInterrupt

    texts = prompts.read_text().splitlines()
    settings = ImageSettings(height=16, steps=4, seeds=2, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        compare(family, family, texts, rewards, settings, tmp_path / "out", advance)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["prompts"] == 2
    rows = (tmp_path / "out" / "pictures.jsonl").read_text().splitlines()
    assert len(rows) == 4


@pytest.mark.slow
def test_a_model_is_compared_with_its_lora(pipelines, prompts, tmp_path, capsys):
    config = refl.load_config(
        settings=[f"run.out={tmp_path / 'run'}", "run.steps=10", "rollout.height=16", "rollout.steps=4",
                  "rewards=[{name: tiny, phi: linear}]", "loss.reward_scale=1", "optimizer.lr=3e-2",
                  "run.trackers=[]", "validation.prompts=0"]
    )  # fmt: skip
    model = refl.Trainer(pipelines("sd"), prompts, config).train()
    assert main(arguments(pipelines("sd"), model, prompts, tmp_path / "out", "--guidance-scale", "1")) == 0
    output = capsys.readouterr().out
    assert "tiny-judge" in output
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "out" / "pictures.jsonl").read_text().splitlines()]
    for reward in comparison["rewards"]:
        before, after = ([row[f"{side}/{reward['name']}"] for row in rows] for side in ("before", "after"))
        assert before != after
        assert reward["before"] == pytest.approx(np.mean(before), abs=1e-6)
        assert reward["after"] == pytest.approx(np.mean(after), abs=1e-6)
        assert reward["win_rate"] == pytest.approx(np.mean(np.greater(after, before)))
        assert reward["win_rate_low"] <= reward["win_rate"] <= reward["win_rate_high"]


def test_invalid_arguments_are_refused(pipelines, prompts, tmp_path, capsys):
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "pytorch_lora_weights.safetensors").write_bytes(b"none")
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    for before, more, message in (
        (lora, (), "their model card names no base model"),
        (lora, ("--base", str(pipelines("sd"))), "the base model they were trained on"),
        (tmp_path, (), "it has no model_index.json"),
        (run, (), f"Give {str(run / 'model')!r}."),
        (pipelines("sd"), ("--reward", "none"), "reward 'none'"),
        (pipelines("sd"), ("--seeds", "0"), "Cannot use --seeds 0: it must be at least 1."),
        (pipelines("sd"), ("--prompts", str(tmp_path / "none.txt")), "none.txt': No such file"),
    ):
        assert main(arguments(before, pipelines("sd"), prompts, tmp_path / "out", *more)) == 2
        assert message in capsys.readouterr().err


def test_a_second_comparison_into_the_same_folder_is_refused(pipelines, tmp_path):
    model = load_model(pipelines("sd"), None, torch.device("cpu"))
    rewards = load_rewards([RewardConfig("tiny")], torch.device("cpu"))
    inputs = (
        model,
        model,
        ["a red circle"],
        rewards,
        ImageSettings(16, 16, 2, seeds=1),
        tmp_path / "out",
    )
    refused = []

    def attempt_another(count):
        with pytest.raises(OutputError, match="another run is using it") as caught:
            compare(*inputs)
        refused.append(str(caught.value))

    compare(*inputs, attempt_another)
    assert len(refused) == 2
    assert str(tmp_path / "out") in refused[0]
    compare(*inputs)  # the lock was released


def test_a_reward_that_is_not_finite_is_refused():
    for bad in (float("nan"), float("inf")):
        values = np.array([[0.1, 0.2], [0.3, bad]])
        for before, after, side in (
            (values, np.zeros((2, 2)), "before"),
            (np.zeros((2, 2)), values, "after"),
        ):
            with pytest.raises(RewardError, match=f"'r': it is {bad} for prompt 1, seed 1 .*'{side}'"):
                compare_rewards("r", before, after)


def test_the_interval_is_computed_over_prompts():
    """Half the prompts are won with every seed; more seeds do not narrow the interval."""
    before = np.zeros((40, 50))
    after = np.repeat([[1.0], [-1.0]], 20, axis=0) * np.ones(50)
    comparison = compare_rewards("r", before, after)
    assert comparison.win_rate == 0.5
    # Binomial, 40 draws: 0.5 +- 1.96 * 0.079.
    assert comparison.win_rate_low == pytest.approx(0.345, abs=0.03)
    assert comparison.win_rate_high == pytest.approx(0.655, abs=0.03)

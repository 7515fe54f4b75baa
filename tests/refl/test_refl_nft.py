"""nft and grpo train on rewards without gradient: any function, every family, exactly resumable."""

import math
import random
import threading

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LCMScheduler
from PIL import Image
from tiny_pipelines import BETAS, flux
from toy_runs import PROMPTS, settings

import refl
from refl.cli import main
from refl.config import RewardConfig
from refl.errors import ConfigError, DivergedError, ModelError, RewardError
from refl.rewards import load_rewards
from refl.rewards.reward_worker import RewardWorker


def redness(images, prompts):
    pixels = [np.asarray(image, float) / 255 for image in images]
    return [10 * float((p[..., 0] - p[..., 1] / 2 - p[..., 2] / 2).mean()) for p in pixels]


slow = pytest.mark.slow
GRPO = "strategy.name=grpo"
NFT = ("strategy.name=nft", "strategy.group=4", "run.batch_size=8", "validation.prompts=0")


def make(model, folder, *more, reward=redness, steps=2, rewards="{name: red}"):
    config = settings(folder, *NFT, *more, steps=steps, reward=rewards)
    return refl.Trainer(model, PROMPTS, config, reward if isinstance(reward, dict) else {"red": reward})


def train(*arguments, **options):
    trainer = make(*arguments, **options)
    trainer.train()
    return trainer, [row for row in trainer.metrics.read() if "gradient_norm" in row]


def test_functions_of_images_use_the_gpu_that_generates(monkeypatch):
    """Functions run in a thread of their own, and each thread has a current GPU."""
    thread, calls = threading.local(), []
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: setattr(thread, "index", index))

    def reward(images, prompts):
        calls.append(getattr(thread, "index", None))
        return redness(images, prompts)

    rewards = load_rewards([RewardConfig("red")], torch.device("cpu"), {"red": reward}, needs_gradient=False)
    for device in ("cuda:1", "cpu"):
        with RewardWorker(rewards, torch.device(device)) as worker:
            worker.add(torch.rand(2, 3, 8, 8), ["a", "b"], [0, 1])
            assert worker.results()["red"].shape == (2,)
    assert calls == [1, None]


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.trainable.tensors().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("sd", ("model.lora_rank=0",)),
        pytest.param("sd-v", ("strategy.guided_loss=false", "rollout.guidance_scale=3.0"), marks=slow),
        pytest.param("sdxl", ("rollout.guidance_scale=3.0",), marks=slow),
        pytest.param("sd3", ("model.lora_rank=0",), marks=slow),
        ("flux", ()),
        pytest.param("flux2", ("model.lora_rank=0", "rollout.guidance_scale=3.0"), marks=slow),
        pytest.param("z-image", (), marks=slow),
        ("sd", (GRPO, "model.lora_rank=0")),
        pytest.param("sd-v", (GRPO, "strategy.noise=ddim", "strategy.eta=1"), marks=slow),
        pytest.param("sdxl", (GRPO, "rollout.guidance_scale=3.0"), marks=slow),
        pytest.param("sd3", (GRPO, "model.lora_rank=0", "strategy.noise=flow_sde"), marks=slow),
        ("flux", (GRPO, "strategy.noise=dance_sde", "strategy.window=0")),
        pytest.param("qwen-image", (GRPO, "rollout.guidance_scale=3.0"), marks=slow),
    ],
)
def test_every_family_takes_a_step_with_a_reward_of_images(pipelines, tmp_path, family, more):
    calls = []

    def reward(images, prompts):
        calls.append((images, prompts, threading.current_thread()))
        return redness(images, prompts)

    distance = ("loss.distance_weight=0.1", "loss.distance=v", "run.batch_size=4")
    trainer = make(pipelines(family), tmp_path, *distance, *more, reward=reward)
    calls.clear()  # those of the check
    before = weights(trainer)
    first, second = trainer.step(0), trainer.step(1)
    assert first.finite
    assert first.gradient_norm > 0
    row = second.row()
    assert row["loss/distance"] > 0  # the weights have moved from the base model
    neutral = {"nft/r": 0.5, "grpo/ratio": 1.0}
    assert {k: row[k] for k in neutral if k in row} == {
        k: pytest.approx(v, abs=1e-6) for k, v in neutral.items() if k in row
    }
    assert row["reward/red/group_std"] > 0
    trained = [name for name in before if not name.startswith("old.")]
    assert any(not torch.equal(trainer.trainable.tensors()[name], before[name]) for name in trained)
    (images, prompts, thread), *_ = calls
    assert all(isinstance(i, Image.Image) and i.mode == "RGB" and i.size == (16, 16) for i in images)
    assert len(images) == 4
    assert len(set(prompts)) == 1  # the images of a group have one prompt
    assert thread is not threading.main_thread()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["nft", "grpo"])
def test_a_constant_reward_leaves_the_weights_as_they_were(pipelines, tmp_path, strategy):
    for rank in (0, 4):
        options = (f"strategy.name={strategy}", f"model.lora_rank={rank}", "strategy.beta=0.3",
                   "optimizer.lr=0.01")  # fmt: skip
        trainer = make(
            pipelines("sd"), tmp_path, *options, reward=lambda images, prompts: [0.1] * len(images)
        )
        before = weights(trainer)
        for number in range(3):
            row = trainer.step(number).row()
            assert row[f"{strategy}/constant_groups"] == row["zero_gradient"] == 1
        for name, tensor in weights(trainer).items():
            assert torch.equal(tensor, before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "rank"),
    [
        ("nft", 4),
        pytest.param("nft", 0, marks=slow),
        ("grpo", 4),
        pytest.param("grpo", 0, marks=slow),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(pipelines, tmp_path, strategy, rank):
    """The run dies in the middle of a set of images, after a checkpoint that an update of the set follows.

    Every part of its state matters. Small differences make z-scores depend on the spread of earlier sets,
    the reward draws from all random generators, and the learning rate changes in each step.
    """
    more = (f"strategy.name={strategy}", "strategy.clip=0.1", f"model.lora_rank={rank}", "optimizer.lr=1e-2",
            "optimizer.schedule=linear", "strategy.updates=2", "run.checkpoint_every=3", "run.batch_size=4",
            "strategy.group=2", "strategy.combine=zscore", "strategy.old_decay=[0,0.2,0.9]",
            "optimizer.ema_decay=0.5", "loss.distance_weight=0.1")  # fmt: skip
    calls = []

    def reward(images, prompts):
        calls.append(prompts)
        draws = [random.random() + np.random.random() + torch.rand(()).item() for _ in images]
        scales = [1 if prompt == prompts[0] else 1e-3 for prompt in prompts]
        return [s * (red + 0.1 * x) for s, red, x in zip(scales, redness(images, prompts), draws)]

    whole, rows = train(pipelines("sd"), tmp_path / "whole", *more, steps=5, reward=reward)
    changes = {"nft": "nft/old_distance", "grpo": "grpo/log_ratio"}
    assert any(row[changes[strategy]] > 0 for row in rows)  # old and trained weights differ
    scored = calls[1:]  # the first call is the check
    calls.clear()

    def dies(images, prompts):
        if len(calls) == 3:  # the check and two sets before
            raise KeyError("power")
        return reward(images, prompts)

    with pytest.raises(RewardError, match="power"):
        train(pipelines("sd"), tmp_path / "resumed", *more, steps=5, reward=dies)
    calls.clear()
    # The default scale of the reward is the number that the run was started with.
    resumed, again = train(
        pipelines("sd"), tmp_path / "resumed", *more, "loss.reward_scale=null", steps=5, reward=reward
    )
    assert calls[1:] == scored[2:]  # the checkpoint has the rewards of the second set
    ours, theirs = weights(whole), weights(resumed)
    assert any(name.startswith("old.") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    drop = {"images_per_s"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in rows] == [
        {k: v for k, v in row.items() if k not in drop} for row in again
    ]


@slow
def test_accumulation_and_groups_across_microsteps_change_nothing(pipelines, tmp_path):
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):  # a group of 4 is spread over two microsteps
        trainer, rows = train(
            pipelines("sd"),
            tmp_path / str(batch),
            f"run.batch_size={batch}",
            f"run.accumulation={accumulation}",
            "optimizer.epsilon=1e-3",
        )
        results.append((weights(trainer), rows))
    (one, rows), (parts, other_rows) = results
    assert all(torch.allclose(one[name], parts[name], atol=1e-6) for name in one)
    for first, second in zip(rows, other_rows):
        assert first["reward/red"] == pytest.approx(second["reward/red"], rel=1e-5)
        assert first["gradient_norm"] == pytest.approx(second["gradient_norm"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nft", "grpo"])
def test_the_distance_has_a_gradient_once_the_weights_have_moved(pipelines, tmp_path, name):
    trainer = make(pipelines("sd"), tmp_path, f"strategy.name={name}", "loss.distance_weight=1",
                   "loss.distance=v", "loss.reward_scale=0", "optimizer.lr=0")  # fmt: skip
    assert trainer.step(0).gradient_norm == 0
    with torch.no_grad():
        for parameter in trainer.trainable.parameters:
            parameter.add_(0.1)
    assert trainer.step(1).gradient_norm > 1e-4


@pytest.mark.slow
def test_a_reward_that_fails_is_named_with_its_sample(pipelines, tmp_path):
    def fails(images, prompts):
        if len(prompts) != 2 and "two cats" in prompts:
            raise ValueError("no cat")
        return redness(images, prompts)

    with pytest.raises(
        RewardError, match=r"the reward 'red' of sample \d+ \('two cats'\): ValueError: no cat"
    ):
        train(pipelines("sd"), tmp_path, reward=fails, steps=4)
    for returned, message in (
        ([0.1], r"it returned 1 numbers for 2 images"),
        (0.5, r"it returned float instead of a sequence of 2 numbers"),
        ([0.5, None], r"'red' of sample 1 \('the moon over a field'\): it returned None instead of a number"),
    ):
        with pytest.raises(RewardError, match=message):
            make(pipelines("sd"), tmp_path, reward=lambda images, prompts, value=returned: value)


@pytest.mark.slow
def test_a_reward_that_is_not_finite_skips_its_group_only(pipelines, tmp_path, caplog):
    def broken(share):
        def reward(images, prompts):
            rewards = redness(images, prompts)
            return [math.nan if i < share * len(rewards) else r for i, r in enumerate(rewards)]

        return reward

    one = make(pipelines("sd"), tmp_path, reward=broken(1 / 8))
    metrics = one.step(0)
    assert metrics.finite
    assert metrics.row()["nft/skipped_groups"] == 0.5  # the whole group of the first of two
    assert metrics.gradient_norm > 0
    assert "the reward 'red' of sample 0 (" in caplog.text
    parts = one.objective._parts[0]
    assert parts.kept.tolist() == [0] * 4 + [1] * 4
    all_broken = make(pipelines("sd"), tmp_path / "all", reward=broken(1), steps=20)
    before = weights(all_broken)
    with pytest.raises(DivergedError, match="10 steps in a row"):
        all_broken.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(all_broken).items())


@pytest.mark.slow
def test_models_that_the_forward_process_damages_are_refused(tmp_path, pipelines):
    base = DiffusionPipeline.from_pretrained(pipelines("sd"))
    plain = base.scheduler

    def saved(name, scheduler):
        base.scheduler = scheduler
        base.save_pretrained(tmp_path / name)
        return tmp_path / name

    zero = DDIMScheduler(**BETAS, clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    torch.manual_seed(0)
    schnell = flux()
    schnell.transformer.register_to_config(guidance_embeds=False)
    schnell.save_pretrained(tmp_path / "flux-fast")
    v = DDIMScheduler.from_config(zero.config, prediction_type="v_prediction")
    for folder, message in (
        (saved("zero-v", v), "noise level at timestep 999 has no signal"),
        (saved("zero", zero), "noise level at timestep 999 has no signal .* zero terminal SNR"),
        (saved("lcm", LCMScheduler(**BETAS)), "distilled to few steps .its scheduler is LCMScheduler"),
        (saved("sd-turbo", plain), "distilled to few steps .its name has 'turbo'"),
        (tmp_path / "flux-fast", "guidance_embeds is schnell"),
    ):
        with pytest.raises(ModelError, match=message):
            make(folder, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"6 images per step .*must be a multiple of strategy\.group=4"):
        make(pipelines("sd"), tmp_path / "run", "run.batch_size=6")


def test_a_reward_is_imported_and_the_dry_run_prints_the_passes(pipelines, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_rewards.py").write_text(
        "def size(images, prompts):\n    return [image.width for image in images]\n"
    )
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    monkeypatch.chdir(tmp_path)
    arguments = [
        "train",
        "--model",
        pipelines("sd"),
        "--prompts",
        "prompts.txt",
        "--reward",
        "my_rewards:size",
    ]
    for setting in ("strategy.name=nft", "rollout.steps=10", "rollout.height=16", "loss.distance_weight=1",
                    "run.batch_size=8", "validation.prompts=1"):  # fmt: skip
        arguments += ["--set", setting]
    assert main([*map(str, arguments), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "reward_scale: 1.0\n" in output
    assert "nft: 8 images per prompt; passes per image: 10 to generate it" in output
    assert "2 noise levels x (2 without gradient + 1 with) = 16" in output
    assert main([*map(str, arguments[:-14]), "--reward", "my_rewards:height"]) == 2
    assert "Cannot import the reward 'my_rewards:height'" in capsys.readouterr().err

"""The trainer: strategies and families train, and their results load into diffusers."""

import json
import re

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DiffusionPipeline
from filelock import FileLock
from PIL import Image
from toy_runs import PROMPTS, redness, settings, train, write_images

import refl
from refl.cli import main
from refl.denoising.rollout import SampleNoise
from refl.errors import ConfigError, DivergedError
from refl.objectives.objective import VALIDATION
from reward_core.errors import OutputError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "rank"),
    [
        ("{name: refl}", 8),
        ("{name: refl}", 0),
        ("{name: draft, k: 2}", 8),
        ("{name: draft-lv}", 0),
        ("{name: alignprop}", 8),
        ("{name: drtune, k: 2}", 0),
    ],
)
def test_training_raises_a_toy_reward(pipelines, tmp_path, strategy, rank):
    lr = 3e-2 if rank else 2e-3
    _, rows = train(
        pipelines("sd"),
        tmp_path,
        f"strategy={strategy}",
        f"model.lora_rank={rank}",
        f"optimizer.lr={lr}",
        steps=15,
    )
    before, after = (row["validation/red"] for row in rows if "validation/red" in row)
    assert after > before + 0.1, (before, after)
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize(
    ("family", "rank", "more"),
    [
        ("sd", 4, ("rollout.guidance_scale=3.0", "model.lora_alpha=8")),
        pytest.param("sd", 0, ("optimizer.ema_decay=0.5",), marks=pytest.mark.slow),
        pytest.param("sd-v", 4, (), marks=pytest.mark.slow),
        pytest.param("sdxl", 4, ("rollout.width=32", "rollout.guidance_scale=3.0"), marks=pytest.mark.slow),
        pytest.param("sdxl", 0, ("model.gradient_checkpointing=true",), marks=pytest.mark.slow),
        pytest.param("sd3", 4, (), marks=pytest.mark.slow),
        pytest.param("flux", 4, ("rollout.width=32",), marks=pytest.mark.slow),
        pytest.param("flux2", 4, (), marks=pytest.mark.slow),
        pytest.param("z-image", 4, ("rollout.guidance_scale=3.0",), marks=pytest.mark.slow),
        pytest.param("qwen-image", 4, (), marks=pytest.mark.slow),
    ],
)
def test_every_family_trains_a_step_and_loads_into_diffusers(pipelines, tmp_path, family, rank, more):
    steps = (
        3 if "optimizer.ema_decay=0.5" in more else 1
    )  # the average differs from the weights from the second step
    trainer, rows = train(
        pipelines(family), tmp_path, f"model.lora_rank={rank}", "optimizer.lr=3e-2", *more, steps=steps
    )
    objective, config = trainer.objective, trainer.config
    assert [row["gradient_norm"] > 0 for row in rows if "gradient_norm" in row] == [True] * steps
    with trainer.trainable.ema_weights():
        ours = objective.generate(PROMPTS[:2], [0, 1]).permute(0, 2, 3, 1).numpy()

    if config.optimizer.ema_decay:  # the saved weights are the average, not the last ones
        last = objective.generate(PROMPTS[:2], [0, 1]).permute(0, 2, 3, 1).numpy()
        assert np.abs(last - ours).max() > 1e-4

    folder = tmp_path / "model"
    pipeline = DiffusionPipeline.from_pretrained(pipelines(family) if rank else folder)
    shape = objective.family.latent_shape(objective.height, objective.width)
    noise = SampleNoise(0, 0, [0, 1], VALIDATION)(shape, "cpu")
    if family in ("flux", "qwen-image"):
        noise = pipeline._pack_latents(noise, *noise.shape)
    scale = config.rollout.guidance_scale
    guidance = {"true_cfg_scale" if family == "qwen-image" else "guidance_scale": scale}
    if family == "z-image":  # counts from 0
        guidance = {"guidance_scale": scale - 1}

    def theirs():
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            prompt=PROMPTS[:2],
            height=objective.height,
            width=objective.width,
            num_inference_steps=config.rollout.steps,
            **guidance,
            latents=noise.clone(),
            output_type="np",
        ).images

    if rank:
        untrained = theirs()
        pipeline.load_lora_weights(folder)
        assert np.abs(untrained - ours).max() > 1e-4  # the step changed something
    assert np.abs(theirs() - ours).max() < 1e-4
    assert "library_name: diffusers" in (folder / "README.md").read_text()
    assert (folder / f"{tmp_path.name}_comfyui.safetensors").is_file() == bool(rank)
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    assert (tmp_path / "samples" / f"step-{steps:06d}.png").is_file()


@pytest.mark.slow
def test_a_trained_and_a_held_out_reward_are_logged(pipelines, tmp_path, caplog):
    """Off a terminal, progress is logged as lines."""
    caplog.set_level("INFO")
    _, rows = train(
        pipelines("sd"),
        tmp_path,
        "run.trackers=[tensorboard]",
        "rewards=[{name: tiny, weight: 0.5}, {name: red, phi: clipped, target: 0.5}, "
        "{name: tiny-judge, weight: 0}]",
    )
    step = next(row for row in rows if row["step"] == 1)
    for name in ("reward/tiny", "reward/red", "reward/tiny-judge", "reward/tiny/std", "loss", "images_per_s"):
        assert name in step, name
    assert {"validation/tiny", "validation/red", "validation/tiny-judge", "validation/diversity"} <= set(
        rows[0]
    )
    expected = 0.5 * (2 - step["reward/tiny"])  # relu(2 - r) with r well below 2
    assert step["loss/reward"] == pytest.approx(expected - min(step["reward/red"], 0.5), abs=0.05)
    assert list((tmp_path / "logs").rglob("events*"))
    messages = caplog.messages
    for name in (pipelines("sd"), "tiny", "tiny-judge"):
        assert messages.count(f"loading {name}") == 1
    assert messages.count("validating 1/2") == 2  # before the first step and after the last one
    (line,) = (message for message in messages if message.startswith("step 1/2, "))
    assert re.match(r"step 1/2, [\d.e+-]+ s/it, \d+:\d\d:\d\d left, ", line)


@pytest.mark.slow
def test_the_distance_term_keeps_the_model_near_its_reference(pipelines, tmp_path):
    moved = {}
    for weight in (0, 100):
        for rank in (4, 0):
            _, rows = train(
                pipelines("sd"),
                tmp_path / f"{weight}-{rank}",
                f"loss.distance_weight={weight}",
                f"model.lora_rank={rank}",
                f"optimizer.lr={1e-2 if rank else 1e-3}",
                "loss.distance=epsilon",
                steps=3,
            )
            values = [row["validation/red"] for row in rows if "validation/red" in row]
            moved[weight, rank] = values[-1] - values[0]
            assert ("loss/distance" in rows[1]) == bool(weight)
    for rank in (4, 0):
        assert abs(moved[100, rank]) < 0.5 * moved[0, rank]


@pytest.mark.slow
def test_the_pretraining_loss_falls(pipelines, tmp_path):
    data = write_images(tmp_path / "data", 3)
    _, rows = train(
        pipelines("sd"),
        tmp_path / "run",
        f"loss.pretraining_data={data}",
        "loss.pretraining_batch_size=8",
        "loss.reward_scale=0",
        "model.lora_rank=0",
        "optimizer.lr=5e-3",
        steps=15,
    )
    losses = [row["loss/pretraining"] for row in rows if "loss/pretraining" in row]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.slow
def test_saturated_images_are_counted(pipelines, tmp_path):
    _, rows = train(pipelines("sd"), tmp_path, reward="{name: red, phi: relu, target: -50}")
    assert [row["zero_gradient"] for row in rows if "zero_gradient" in row] == [1.0, 1.0]


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped(pipelines, tmp_path, caplog):
    calls = []

    def sometimes(pixels, prompts):
        calls.append(len(prompts))
        broken = pixels.requires_grad and len(calls) == 7
        return redness(pixels, prompts) * (float("nan") if broken else 1)

    _, rows = train(pipelines("sd"), tmp_path, steps=6, rewards={"red": sometimes})
    assert [row["skipped"] for row in rows if "skipped" in row][-1] == 1
    assert "was skipped: a reward or the gradient is not finite" in caplog.text

    def broken(pixels, prompts):
        return redness(pixels, prompts) * (1 if "another image" in prompts else float("nan"))

    with pytest.raises(DivergedError, match="10 steps in a row"):
        train(pipelines("sd"), tmp_path / "broken", "validation.prompts=0", steps=20, rewards={"red": broken})
    state = json.loads((tmp_path / "broken/checkpoints/step-000010/state.json").read_text())
    assert state["run"]["skipped"] == 10


@pytest.mark.slow
def test_training_stops_if_a_held_out_reward_or_diversity_falls(pipelines, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    rewards = {"red": redness, "blue": lambda pixels, prompts: -redness(pixels, prompts)}
    more = ("model.lora_rank=0", "optimizer.lr=2e-3", "validation.every=2")
    pair = "{name: red, phi: linear}, {name: blue, weight: 0}"
    trainer, _ = train(
        pipelines("sd"),
        tmp_path / "a",
        *more,
        "validation.stop_reward=blue",
        steps=40,
        rewards=rewards,
        reward=pair,
    )
    assert 2 <= trainer.state.step < 40
    assert "blue fell to" in trainer.state.stopped
    trainer, _ = train(
        pipelines("sd"),
        tmp_path / "b",
        *more,
        "validation.stop_diversity=0.999",
        steps=40,
        rewards=rewards,
        reward=pair,
    )
    assert "diversity fell to" in trainer.state.stopped
    assert "stopped early at step" in caplog.text
    assert not capsys.readouterr().out  # stdout belongs to the caller
    assert (tmp_path / "b" / "model").is_dir()


@pytest.mark.slow
def test_the_weights_of_the_best_validation_are_saved(pipelines, tmp_path):
    """The held-out reward falls from the start, so the best weights are those before any step."""
    rewards = {"red": redness, "blue": lambda pixels, prompts: -redness(pixels, prompts)}
    pair = "{name: red, phi: linear}, {name: blue, weight: 0}"
    saved = {}
    for keep in ("true", "false"):
        trainer, _ = train(
            pipelines("sd"),
            tmp_path / keep,
            *("model.lora_rank=0", "optimizer.lr=2e-3", "validation.every=2", "run.checkpoint_every=2"),
            *("validation.stop_reward=blue", f"validation.keep_best={keep}"),
            steps=6,
            rewards=rewards,
            reward=pair,
        )
        model = DiffusionPipeline.from_pretrained(tmp_path / keep / "model")
        saved[keep] = torch.cat([p.detach().flatten() for p in model.unet.parameters()])
        assert trainer.state.best_step == 0
        card, rows = (tmp_path / keep / "model/README.md").read_text(), trainer.metrics.read()
        rewards_of_steps = {row["step"]: row["validation/blue"] for row in rows if "validation/blue" in row}
        step = 0 if keep == "true" else trainer.state.step  # the card describes the saved weights
        assert f"| after {step} steps |" in card
        before, after = (f"{rewards_of_steps[i]:.3f}" for i in (0, step))
        interval = r" \[-?[\d.]+, -?[\d.]+\] \| "
        assert re.search(rf"\| blue \| {before}{interval}{after}{interval}[+-]", card)
        assert f"{rewards_of_steps[0]:.3f}" != f"{rewards_of_steps[trainer.state.step]:.3f}"
    base = DiffusionPipeline.from_pretrained(pipelines("sd"))
    before = torch.cat([p.detach().flatten() for p in base.unet.parameters()])
    assert torch.equal(saved["true"], before)
    assert not torch.equal(saved["false"], before)
    assert [path.name for path in (tmp_path / "true/checkpoints").glob("best-*")] == [
        "best-000000.safetensors"
    ]
    with pytest.raises(ConfigError, match="keep_best"):
        settings(tmp_path, "validation.keep_best=true")


@pytest.mark.slow
def test_a_second_run_on_the_same_folder_is_refused(pipelines, tmp_path):
    refused = []

    def attempt_another_run(pixels, prompts):
        if pixels.requires_grad and not refused and trainers:
            with pytest.raises(OutputError) as caught:
                trainers.pop().train()
            refused.append(str(caught.value))
        return redness(pixels, prompts)

    trainers, config = [], settings(tmp_path / "run", "validation.prompts=0", steps=2)
    first = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": attempt_another_run})
    second = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": redness})
    trainers.append(second)
    first.train()
    assert len(refused) == 1
    assert f"Cannot use '{tmp_path / 'run'}': another run is using it" in refused[0]
    assert "another output folder" in refused[0]
    steps = [row["step"] for row in first.metrics.read() if "gradient_norm" in row]
    assert steps == [1, 2]
    assert second.train() == tmp_path / "run" / "model"  # the lock was released


def test_a_failed_run_releases_its_folder_lock(pipelines, tmp_path):
    def broken(pixels, prompts):
        if pixels.requires_grad and "another image" not in prompts:
            raise RuntimeError("no reward today")
        return redness(pixels, prompts)

    with pytest.raises(RuntimeError, match="no reward today"):
        train(pipelines("sd"), tmp_path, "validation.prompts=0", rewards={"red": broken})
    with FileLock(tmp_path / ".train.lock", timeout=0):
        pass


def test_the_command_refuses_a_folder_in_use_with_exit_code_2(pipelines, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    (tmp_path / "run").mkdir()
    arguments = [
        "train",
        "--model",
        pipelines("sd"),
        "--prompts",
        tmp_path / "prompts.txt",
        "--reward",
        "tiny",
    ]
    arguments += ["--out", tmp_path / "run", "--set", "rollout.height=16", "--set", "run.trackers=[]"]
    with FileLock(tmp_path / "run" / ".train.lock"):
        assert main([str(word) for word in arguments]) == 2
    assert f"refl: Cannot use '{tmp_path / 'run'}': another run is using it" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_any_number_of_prompts_and_accumulation(pipelines, tmp_path):
    """With three prompts, batch size 2 and two microsteps, every epoch uses each prompt once."""
    seen = []

    def note(pixels, prompts):
        if pixels.requires_grad:
            seen.extend(prompts)
        return redness(pixels, prompts)

    config = settings(tmp_path, "run.accumulation=2", "validation.prompts=0", steps=3)
    trainer = refl.Trainer(pipelines("sd"), PROMPTS[:3], config, {"red": note})
    seen.clear()  # calls of the check
    trainer.train()
    assert len(seen) == 12
    for epoch in range(4):
        assert sorted(seen[3 * epoch : 3 * epoch + 3]) == sorted(PROMPTS[:3])


@pytest.mark.slow
def test_accumulation_equals_one_large_batch(pipelines, tmp_path):
    weights = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        trainer, _ = train(
            pipelines("sd"),
            tmp_path / str(batch),
            f"run.batch_size={batch}",
            f"run.accumulation={accumulation}",
            "optimizer.epsilon=1e-3",  # otherwise Adam amplifies rounding errors
        )
        weights.append(torch.cat([p.detach().flatten() for p in trainer.trainable.parameters]))
    for other in weights[1:]:
        assert torch.allclose(weights[0], other, atol=1e-6)


@pytest.mark.slow
def test_a_held_out_reward_does_not_change_training(pipelines, tmp_path):
    rewards = {"red": redness, "lost": lambda pixels, prompts: redness(pixels, prompts) * float("nan")}
    pair = "{name: red, phi: linear}, {name: lost, weight: 0}"
    weights = {}
    for name, reward in (("with", pair), ("without", "{name: red, phi: linear}")):
        functions = rewards if name == "with" else {"red": redness}
        trainer, rows = train(pipelines("sd"), tmp_path / name, steps=3, rewards=functions, reward=reward)
        assert [row["skipped"] for row in rows if "skipped" in row] == [0, 0, 0]
        weights[name] = trainer.trainable.tensors()
    for name, weight in weights["with"].items():
        assert torch.equal(weight, weights["without"][name])


@pytest.mark.slow
def test_a_held_out_reward_that_is_not_finite_is_never_the_best(pipelines, tmp_path):
    rewards = {"red": redness, "lost": lambda pixels, prompts: redness(pixels, prompts) * float("nan")}
    pair = "{name: red, phi: linear}, {name: lost, weight: 0}"
    stop = ("validation.every=1", "validation.stop_reward=lost", "validation.keep_best=true")
    trainer, _ = train(pipelines("sd"), tmp_path, *stop, steps=9, rewards=rewards, reward=pair)
    assert trainer.state.best is None
    assert trainer.state.stopped == "lost was never finite (last value nan)"
    assert not list(tmp_path.glob("checkpoints/best-*"))


@pytest.mark.slow
def test_accumulation_ignores_the_variable_of_accelerate(pipelines, tmp_path, monkeypatch):
    """accelerate launch sets this variable from its configuration."""
    norms = []
    for steps in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        _, rows = train(pipelines("sd"), tmp_path / steps, "optimizer.max_grad_norm=0", steps=1)
        norms += [row["gradient_norm"] for row in rows if "gradient_norm" in row]
    assert norms[0] == norms[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        "cosine",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("constant", "constant_with_warmup")),
    ],
)
def test_every_schedule_warms_up(pipelines, tmp_path, schedule):
    more = ("optimizer.warmup_steps=4", f"optimizer.schedule={schedule}", "optimizer.lr=0.01")
    _, rows = train(pipelines("sd"), tmp_path, "validation.prompts=0", *more, steps=4)
    assert [row["lr"] for row in rows] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


def test_offloaded_text_encoders_encode_the_same(pipelines, tmp_path):
    more = ("run.cpu=true", "loss.pretraining_data=", "validation.prompts=0")
    weights = []
    for name, extra in (("usual", ()), ("offloaded", ("model.offload_text_encoders=true",))):
        trainer, _ = train(pipelines("sd3"), tmp_path / name, *more, *extra)
        weights.append(trainer.trainable.tensors())
    encoders = [p for n, m in trainer.family.pipeline.components.items() if "text_encoder" in n
                for p in m.parameters()]  # fmt: skip
    assert {id(tensor) for tensor, _ in trainer.family.offloaded.tensors} >= {id(p) for p in encoders}
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        (
            "z-image",
            ("rollout.no_grad_graphs=true", "rollout.no_grad_dtype=bf16"),
            "no_grad_graphs with ZImage",
        ),
        ("z-image", ("rollout.gradient_graphs=all",), "gradient_graphs with ZImage"),
        ("qwen-image", ("rollout.gradient_graphs=all",), "gradient_graphs with QwenImage"),
        ("sd", ("rollout.gradient_graphs=all", "strategy.name=nft"), "no effect with strategy.name=nft"),
        ("qwen-image", ("model.vae_tiling=true",), "vae_tiling with Qwen-Image"),
    ],
)
def test_settings_that_a_family_does_not_support_are_refused(pipelines, tmp_path, family, more, message):
    with pytest.raises(ConfigError, match=message):
        refl.Trainer(pipelines(family), PROMPTS, settings(tmp_path, *more), {"red": redness})

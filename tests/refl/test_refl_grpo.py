"""grpo compares probabilities of the random steps that images were generated with."""

import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler, DiffusionPipeline
from tiny_pipelines import BETAS, configuration_of
from toy_runs import PROMPTS, settings

import refl
from refl.cli import main
from refl.errors import ConfigError, ModelError

GRPO = ("strategy.name=grpo", "strategy.group=4", "run.batch_size=8", "validation.prompts=0")


def redness(images, prompts):
    pixels = [np.asarray(image, float) / 255 for image in images]
    return [10 * float((p[..., 0] - p[..., 1] / 2 - p[..., 2] / 2).mean()) for p in pixels]


def make(model, folder, *more):
    config = settings(folder, *GRPO, *more, reward="{name: red}")
    return refl.Trainer(model, PROMPTS, config, {"red": redness})


def gradients(loss, trainer):
    found = torch.autograd.grad(loss, trainer.trainable.parameters)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("sd", ("rollout.guidance_scale=2.0",)),
        ("sd", ("strategy.noise=ddim", "model.lora_rank=0", "rollout.no_grad_dtype=bf16")),
        ("sd3", ("strategy.noise=flow_sde", "model.lora_rank=0")),
    ],
    ids=["cps", "ddim", "flow_sde"],
)
def test_the_first_gradient_is_that_of_the_log_probability_times_the_advantage(
    pipelines, tmp_path, family, more
):
    trainer = make(pipelines(family), tmp_path, *more)
    with torch.no_grad():  # away from the start of LoRA, whose second factors are 0
        for parameter in trainer.trainable.parameters:
            parameter.add_(0.02)
    objective, batches = trainer.objective, trainer.take_step.batches
    schedule, strategy = objective.schedule, objective.strategy
    count = 0
    for microstep in objective.microsteps(0, batches):
        part = objective._parts[0]
        visit = part.rollout.visits[count]
        assert float(microstep.values["grpo/log_ratio"]) < 1e-6  # the weights are those that sampled
        assert float(microstep.values["grpo/ratio"]) == pytest.approx(1, abs=1e-6)
        assert float(microstep.values["grpo/clipped"]) == 0
        i, x = visit.step, visit.latents
        condition = objective.family.encode(
            part.prompts, "" if "rollout.guidance_scale=2.0" in more else None
        )
        output = objective.family.denoise(x, schedule.timesteps[i], condition, objective.guidance)
        x0, noise = schedule.clean(x, output, i), schedule.noise(x, output, i)
        s, after = schedule.sigmas[i : i + 2]
        if strategy.noise == "cps":
            fresh = after * math.sin(0.4 * math.pi)
            kept = math.sqrt(after**2 - fresh**2)
        elif strategy.noise == "ddim":
            a, next_a = schedule.alphas[i : i + 2]
            fresh = 0.8 * after / s * math.sqrt(1 - a**2 / next_a**2)
            kept = math.sqrt(after**2 - fresh**2)
        else:
            fresh = 0.8 * math.sqrt(s / (1 - (after if s == 1 else s)) * (s - after))
            kept = after - fresh**2 / (2 * s)
        difference = visit.after - schedule.alphas[i + 1] * x0 - kept * noise
        square = difference.pow(2).mean((1, 2, 3))
        log_probs = -square if strategy.noise == "cps" else -square / (2 * fresh**2)
        advantages = torch.from_numpy(part.advantages).float()
        assert advantages.abs().min() > 0
        expected = gradients(-(advantages * log_probs).mean(), trainer)
        found = gradients(microstep.loss, trainer)
        assert expected.norm() > 1e-6
        assert (found - expected).norm() < 1e-3 * expected.norm()
        count += 1
    assert count == len(part.rollout.visits) == 2


@pytest.mark.slow
def test_later_updates_of_a_set_make_better_images_more_probable_until_they_are_clipped(pipelines, tmp_path):
    """The loss of probabilities is 0 at the weights that sampled, and below 0 after they have improved."""
    losses = []
    for clip in ("0.5", "1e-6"):
        more = ("strategy.updates=3", f"strategy.clip={clip}", "optimizer.lr=1e-3")
        trainer = make(pipelines("sd"), tmp_path / clip, *more)
        rows = [trainer.step(number).row() for number in range(4)]
        losses.append([row["loss/reward"] for row in rows])
        assert [row["grpo/log_ratio"] < 1e-7 for row in rows] == [True, False, False, True]
        assert [row["grpo/clipped"] > 0.9 for row in rows[1:3]] == [clip == "1e-6"] * 2
        spreads = [row["reward/red/group_std"] for row in rows]
        assert spreads[0] == spreads[1] == spreads[2] != spreads[3]  # the first three use the same images
    assert losses[0][0] == pytest.approx(0, abs=1e-6)
    assert losses[0][2] < losses[0][1] < -1e-6
    assert losses[1][2] > losses[0][2]  # the clip keeps the loss from falling


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0], ids=["lora", "full"])
def test_probabilities_are_equal_in_half_precision_too(pipelines, tmp_path, rank):
    """The text is encoded and the denoiser runs as in sampling; rounding would exceed the clip by far."""
    AcceleratorState._reset_state(reset_partial_state=True)
    more = ("run.cpu=true", "run.mixed_precision=bf16", f"model.lora_rank={rank}", "rollout.guidance_scale=2")
    trainer = make(pipelines("sd"), tmp_path, *more, "rollout.no_grad_dtype=bf16", "optimizer.lr=1e-3",
                   "strategy.updates=2")  # fmt: skip
    rows = [trainer.step(number).row() for number in range(3)]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert [row["grpo/log_ratio"] < 1e-7 for row in rows] == [True, False, True]
    assert all(row["gradient_norm"] > 0 for row in rows)


@pytest.mark.slow
def test_images_of_a_prompt_differ_by_their_random_steps_alone(pipelines, tmp_path):
    for shared in (True, False):
        more = (f"strategy.shared_noise={shared}", "strategy.first=1", "strategy.last=1", "strategy.window=1")
        trainer = make(pipelines("sd"), tmp_path / str(shared), *more)
        next(trainer.objective.microsteps(0, trainer.take_step.batches))
        (visit,) = trainer.objective._parts[0].rollout.visits
        assert visit.step == 1
        for latents, equal in ((visit.latents, shared), (visit.after, False)):
            groups = latents.view(2, 4, *latents.shape[1:])
            spread = (groups - groups[:, :1]).abs().amax((1, 2, 3, 4))
            assert (spread < 1e-5).tolist() == [equal] * 2


@pytest.mark.slow
def test_combinations_without_a_meaning_are_refused(pipelines, tmp_path):
    for family, more, message in (
        ("sd3", ["strategy.noise=ddim"], "strategy.noise='ddim' with a flow model"),
        ("sd", ["strategy.noise=flow_sde"], "predicts epsilon: it is the equation of a rectified flow"),
        ("sd", ["rollout.sampler=ddpm"], "all of its steps are random"),
        ("sd", ["rollout.guidance_scale=2", "strategy.guided_loss=false"], "steps that were guided"),
        ("sd", ["rollout.guidance_scale=2", "rollout.negative_gradient=false"], "in another batch than"),
        ("sd", ["strategy.noise=sde"], "must be one of cps, ddim, flow_sde, dance_sde"),
        ("sd", ["strategy.eta=1.5"], "must be at most 1 for strategy.noise=cps"),
        ("sd", ["strategy.clip=0"], "strategy.clip=0.0: it must be above 0"),
        ("sd", ["strategy.window=4"], "must end before the last of 4 steps"),
        ("sd", ["strategy.last=2"], "strategy.window=2 from step 2"),
        ("sd", ["rollout.steps=1"], "the last step is never random"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(pipelines(family), tmp_path / "run", *more)


@pytest.mark.slow
def test_distilled_models_are_trained_and_levels_without_signal_refused(pipelines, tmp_path):
    """The loss uses the latents that sampling visits, so it fits any model that can be sampled."""
    pipeline = DiffusionPipeline.from_pretrained(pipelines("sd"))
    pipeline.save_pretrained(tmp_path / "sd-turbo")
    assert make(tmp_path / "sd-turbo", tmp_path / "run").step(0).gradient_norm > 0
    zero = DDIMScheduler(**BETAS, clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for prediction in ("epsilon", "v_prediction"):
        pipeline.scheduler = DDIMScheduler.from_config(zero.config, prediction_type=prediction)
        pipeline.save_pretrained(tmp_path / prediction)
    with pytest.raises(
        ModelError, match=r"strategy\.name=grpo: its noise level at timestep 999 has no signal"
    ):
        make(tmp_path / "epsilon", tmp_path / "run2")
    assert make(tmp_path / "v_prediction", tmp_path / "run3").step(0).gradient_norm > 0


def test_the_dry_run_prints_the_passes(pipelines, tmp_path, capsys):
    model = configuration_of(pipelines("sd3"), tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    arguments = ["train", "--dry-run", "--preset", "sd35-grpo", "--model", str(model), "--reward", "tiny",
                 "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "run")]  # fmt: skip
    more = ["rollout.height=32", "rollout.width=32", "run.cpu=true", "run.mixed_precision=no",
            "validation.prompts=1", "strategy.updates=2"]  # fmt: skip
    arguments += [word for setting in more for word in ("--set", setting)]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert (
        "passes per image: 10 to generate it for 2 optimizer steps, 2 x 2 random steps x 1 with gradient = 14"
        in output
    )
    assert "gradient at none, random at " in output
    assert " old weights" in output.split("memory (estimate")[1]

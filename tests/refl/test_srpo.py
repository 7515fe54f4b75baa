"""srpo recovers clean latents from known noise and trains on the difference that words make."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tiny_pipelines import BETAS
from toy_runs import PROMPTS, redness, settings, write_images

import refl
from refl.checkpoint import fingerprint
from refl.cli import main
from refl.config.checks import check_config
from refl.denoising.direct_align import LevelRange, recovered
from refl.denoising.noise_schedule import make_schedule, training_target
from refl.denoising.rollout import SampleNoise
from refl.errors import ConfigError
from refl.families import Guidance
from refl.objectives.objective import LEVELS, TRAINING

SRPO = ("strategy.name=srpo", "rollout.steps=6", "strategy.move=0.3", "validation.prompts=0")
SHAPE = (3, 4, 8, 8)


def words_and_redness(pixels, prompts):
    """A reward that depends on the prompt: the words before it weigh the channels."""
    channels = pixels.mean((2, 3))
    weights = torch.tensor([[len(p) % 5, len(p) % 3, 1.0] for p in prompts])
    return (channels * weights).sum(1)


def make(model, folder, *more, reward=words_and_redness, steps=2):
    config = settings(folder, *SRPO, *more, steps=steps)
    return refl.Trainer(model, PROMPTS, config, reward if isinstance(reward, dict) else {"red": reward})


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.trainable.tensors().items()}


@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v_prediction", "sample"])
def test_an_exact_prediction_gives_back_the_generated_latents(prediction):
    is_flow = prediction == "flow"
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0)
        if is_flow
        else DDIMScheduler(**BETAS, clip_sample=False, prediction_type=prediction)
    )
    schedule = make_schedule(scheduler, 50, "flow" if is_flow else "ddim")
    levels = LevelRange(schedule, scheduler, 5, 25, 0.036)
    generator = torch.Generator().manual_seed(0)
    x0, noise, wrong = torch.randn(3, *SHAPE, generator=generator).unbind()
    share, ends = torch.tensor([0.0, 0.4, 0.999]), []
    for up in (False, True):
        move = levels.draw(share, up)
        alpha, sigma = move.start[1:].view(2, -1, 1, 1, 1)
        assert torch.allclose(alpha + sigma if is_flow else alpha**2 + sigma**2, torch.ones(3, 1, 1, 1))
        x = alpha * x0 + sigma * noise
        exact = training_target(x0, noise, alpha, sigma, prediction)
        result = recovered(x, exact, noise, move.start[1:], move.end[1:], prediction)
        assert (result - x0).abs().max() < 1e-4  # float32; measured below 1e-5
        # An error moves the result in proportion to the step, not to the whole distance.
        result = recovered(x, exact + wrong, noise, move.start[1:], move.end[1:], prediction)
        if is_flow:
            factor = (move.end[2] - move.start[2]) / move.end[1]
            assert torch.allclose(result - x0, factor.view(-1, 1, 1, 1) * wrong, atol=1e-4)
        moved = move.end[0] - move.start[0]
        assert (moved > 0).all() if up else (moved < 0).all()
        assert torch.allclose(moved.abs(), moved.abs().mean())  # as large at the ends of the range
        assert moved.abs().mean() == pytest.approx(
            0.036 * (schedule.timesteps[5] - schedule.timesteps[25]), abs=0.5
        )
        bounds = torch.stack([move.start[0], move.end[0]])
        assert bounds.max() <= schedule.timesteps[5]
        assert bounds.min() >= schedule.timesteps[25]
        ends.append(move.end)
        assert torch.all(move.position[1:] < move.position[:-1])  # larger shares are noisier
    assert torch.equal(*ends)  # both branches move to the same level


def expected_losses(trainer, step, reward):
    """Return the losses of the branches of a step's images, unrolled in plain autograd."""
    objective, family, strategy = trainer.objective, trainer.family, trainer.config.strategy
    indices = trainer.take_step.batches.indices(step, 0)
    prompts = trainer.take_step.batches.prompts_of(indices)
    noise = SampleNoise(42, step, indices, TRAINING)(family.latent_shape(16, 16), "cpu")
    share = SampleNoise(42, step, indices, LEVELS).uniform()
    used = family.encode(prompts, ""), Guidance(3.0)
    unguided = family.encode(prompts), Guidance()
    x0 = noise
    with torch.no_grad():
        for i, t in enumerate(objective.schedule.timesteps):
            output = family.denoise(x0, t, *(used if strategy.guided_rollout else unguided))
            x0 = objective.schedule.step(x0, output, i)
    schedule, scheduler = objective.schedule, family.pipeline.scheduler
    first, last = strategy.bounds(len(schedule))
    losses = []
    for up in (False, True):
        noisiest, cleanest = schedule.timesteps[first], schedule.timesteps[last]
        size = strategy.move * (noisiest - cleanest)
        if schedule.prediction == "flow":
            end = cleanest + size + share * (noisiest - cleanest - 2 * size)
            start = end - size if up else end + size
            levels = [(1 - t / 1000, t / 1000) for t in (start, end)]
        else:
            size = round(size)
            end = (cleanest + size + share * (noisiest - cleanest - 2 * size + 1)).floor()
            start = end - size if up else end + size
            kept = [scheduler.alphas_cumprod[t.long()] for t in (start, end)]
            levels = [(a.sqrt(), (1 - a).sqrt()) for a in kept]
        (a, s), (b, r) = ([v.view(-1, 1, 1, 1) for v in level] for level in levels)
        x = a * x0 + s * noise
        output = family.denoise(x, start, *used)
        euler = x + (r - s) * output
        ddim = b * (x - s * output) / a + r * output
        moved = euler if schedule.prediction == "flow" else ddim
        pixels = family.decode((moved - r * noise) / b)
        positive, negative = (
            reward(pixels, [words + prompt for prompt in prompts])
            for words in (("Real. ", "Detail ")[step], "Painting. ")
        )
        position = (noisiest - torch.minimum(start, end)) / (noisiest - cleanest)
        if up:
            k = 0.01 + position * (0.3 - 0.01)
            losses.append(-((1 + k) * negative - positive).mean())
        else:
            k = 0.25 + position * (0.1 - 0.25)
            losses.append(-((1 + k) * positive - negative).mean())
    return losses


@pytest.mark.parametrize(
    ("family", "more"),
    [("sd", ()), ("sd3", ("model.lora_rank=0", "strategy.guided_rollout=false"))],
)
def test_gradients_equal_those_of_the_unrolled_step(pipelines, tmp_path, family, more):
    more = (*more, "strategy.positive_words=['Real. ','Detail ']", "rollout.guidance_scale=3")
    trainer = make(pipelines(family), tmp_path, *more)
    parameters = trainer.trainable.parameters
    for step in (0, 1):  # the words take turns
        microsteps = trainer.objective.microsteps(step, trainer.take_step.batches)
        for ours, loss in zip(microsteps, expected_losses(trainer, step, words_and_redness), strict=True):
            assert ours.loss.item() == pytest.approx(loss.item(), abs=1e-5)  # measured below 5e-7
            one, two = (
                torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
                for value in (ours.loss, loss)
            )
            assert two.norm() > 0
            assert (one - two).norm() < 1e-4 * two.norm()  # float32; measured below 2e-6


def test_branches_alternate_and_the_inversion_branch_exchanges_the_words(pipelines, tmp_path):
    calls = []

    def reward(pixels, prompts):
        calls.append(list(prompts))
        # Only the gradient of wanted words is above 0.
        return redness(pixels, prompts) * torch.tensor([float("Real" in prompt) for prompt in prompts])

    more = ("run.accumulation=2", "strategy.discount_denoise=[1,1]", "strategy.discount_inversion=[0,0]",
            "rewards=[{name: red, phi: linear}, {name: watched, weight: 0}]")  # fmt: skip
    held_out = []

    def watched(pixels, prompts):
        held_out.append((pixels.requires_grad, list(prompts)))
        return redness(pixels, prompts)

    trainer = make(pipelines("sd"), tmp_path, *more, reward={"red": reward, "watched": watched})
    calls.clear()
    held_out.clear()
    batches = trainer.take_step.batches
    microsteps = list(trainer.objective.microsteps(0, batches))
    assert len(microsteps) == trainer.objective.microsteps_per_step == 4
    prompts = [batches.prompts_of(batches.indices(0, micro)) for micro in (0, 0, 1, 1)]
    both = [[["Real. " + p for p in of], ["Painting. " + p for p in of]] for of in prompts]
    assert calls == [call for pair in both for call in pair]
    assert held_out == [(False, of) for of in prompts]
    for microstep, factor in zip(microsteps, (-2.0, 1.0, -2.0, 1.0)):
        plain = redness(microstep.pixels, []).mean().item()
        assert microstep.loss.item() == pytest.approx(factor * plain, abs=1e-5)
        assert microstep.rewards["red"].mean().item() == pytest.approx(plain, abs=1e-5)
        assert microstep.values["srpo/red"].item() == pytest.approx(plain, abs=1e-5)
    only = make(pipelines("sd"), tmp_path, "strategy.discount_inversion=[]")
    assert only.objective.microsteps_per_step == 1
    assert only.step(0).gradient_norm > 0


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("sd", ("rollout.guidance_scale=3", "strategy.guided_rollout=false")),
        pytest.param(
            "sd3",
            ("model.lora_rank=0", "loss.distance_weight=0.1", "loss.distance=v"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(pipelines, tmp_path, family, more):
    more = (*more, "optimizer.lr=1e-3", "run.checkpoint_every=1",
            "strategy.positive_words=['Real. ','Detail. ']")  # fmt: skip
    whole = make(pipelines(family), tmp_path / "whole", *more)
    start = weights(whole)
    whole.train()
    calls = []

    def dies(pixels, prompts):
        calls.append(prompts)
        if len(calls) == 1 + 4 + 3:  # the check, the first step, and a branch of the second
            raise KeyboardInterrupt
        return words_and_redness(pixels, prompts)

    with pytest.raises(KeyboardInterrupt):
        make(pipelines(family), tmp_path / "part", *more, reward=dies).train()
    resumed = make(pipelines(family), tmp_path / "part", *more)
    resumed.train()
    ours, theirs = weights(whole), weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], start[name]) for name in ours)
    rows, again = (
        [{k: v for k, v in row.items() if k != "images_per_s"} for row in trainer.metrics.read()]
        for trainer in (whole, resumed)
    )
    assert rows == again
    assert all(row["loss/distance"] > 0 for row in rows[1:] if "loss/distance" in row)


def signed_redness(pixels, prompts):
    """Red images are right with positive words, and wrong with negative ones."""
    signs = [float("Real" in prompt) - float("Painting" in prompt) for prompt in prompts]
    return redness(pixels, prompts) * torch.tensor(signs)


@pytest.mark.parametrize(
    ("reward", "more", "sign"),
    [
        (signed_redness, (), 1),
        pytest.param(redness, ("strategy.discount_inversion=[]",), 1, marks=pytest.mark.slow),
        # The inversion branch goes the other way.
        pytest.param(
            redness,
            ("strategy.discount_denoise=[0,0]", "strategy.discount_inversion=[1,1]"),
            -1,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_training_changes_what_the_words_say(pipelines, tmp_path, reward, more, sign):
    more = ("optimizer.lr=3e-3", "model.lora_rank=0", "rollout.steps=4", *more)
    trainer = make(pipelines("sd"), tmp_path, *more, reward=reward)

    def mean_redness():
        return redness(trainer.objective.generate(PROMPTS, range(4)), PROMPTS).mean().item()

    before = mean_redness()
    for number in range(6):
        assert trainer.step(number).finite
    assert sign * (mean_redness() - before) > 0.1  # measured above 0.3


def test_distance_and_captioned_images_join_the_loss(pipelines, tmp_path):
    data = write_images(tmp_path / "data")
    more = (f"loss.pretraining_data={data}", "loss.distance_weight=1", "loss.distance=v",
            "loss.reward_scale=0")  # fmt: skip
    trainer = make(pipelines("sd"), tmp_path / "run", *more)
    with torch.no_grad():
        for parameter in trainer.trainable.parameters:
            parameter.add_(0.1)
    batches = trainer.take_step.batches
    first, second = trainer.objective.microsteps(0, batches)
    for microstep in (first, second):
        assert microstep.loss_terms["distance"] > 0
        total = sum(term.item() for term in microstep.loss_terms.values())
        assert microstep.loss.item() == pytest.approx(total, rel=1e-5)
    gradients = torch.autograd.grad(second.loss, trainer.trainable.parameters)  # of the distance alone
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    # Once for both branches, over which the step averages.
    plain = make(
        pipelines("sd"), tmp_path / "one", f"loss.pretraining_data={data}", "strategy.discount_inversion=[]"
    )
    with torch.no_grad():
        for parameter in plain.trainable.parameters:
            parameter.add_(0.1)
    (one,) = plain.objective.microsteps(0, batches)
    assert second.loss_terms["pretraining"] == 0
    assert first.loss_terms["pretraining"].item() == pytest.approx(
        2 * one.loss_terms["pretraining"].item(), rel=1e-5
    )


def test_the_plan_of_a_run_names_both_branches(pipelines, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    more = ["train", "--dry-run", "--model", pipelines("sd"), "--prompts", tmp_path / "prompts.txt"]
    values = ("strategy.name=srpo", "rollout.steps=20", "rollout.height=16", "rollout.guidance_scale=3",
              "strategy.guided_rollout=false", "run.cpu=true", "validation.prompts=1")  # fmt: skip
    for value in values:
        more += ["--set", value]
    assert main([*map(str, more), "--reward", "tiny", "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert (
        "srpo: passes per image: 20 without gradient to generate it, 2 with (denoise and inversion), between "
        "the noise levels of steps 2 and 10 (guidance: those with gradient twice as wide)"
    ) in output
    assert "memory (estimate, not measured)" in output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strategy.last=1", r"from step 1 .* to step 1 .*Set strategy\.last to a later step"),
        ("rollout.steps=1", r"first=None and strategy\.last=None: .* 0 <= first <= last < 1"),
        ("strategy.move=0", "strategy.move=0.0: it must be above 0 and at most 0.5"),
        ("strategy.move=0.6", "strategy.move=0.6: it must be above 0 and at most 0.5"),
        ("strategy.discount_denoise=[]", r"discount_denoise=\[\]: it must be two numbers, at the noisiest"),
        ("strategy.discount_inversion=[1]", r"discount_inversion=\[1.0\]: it must be two numbers or none"),
        ("strategy.negative_words=[]", r"negative_words=\[\]: it must have at least one entry"),
    ],
)
def test_bad_settings_are_refused(tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, *SRPO, setting)


def test_levels_that_cannot_be_used_are_refused(pipelines, tmp_path):
    with pytest.raises(ConfigError, match=r"strategy\.first=0 .*has no signal \(alpha = 0\)"):
        make(pipelines("sd3"), tmp_path, "strategy.first=0")
    with pytest.raises(ConfigError, match="there is no noise level between timesteps 998 and 997"):
        make(pipelines("sd"), tmp_path, "rollout.steps=999", "strategy.first=1", "strategy.last=2")


@pytest.mark.slow
@pytest.mark.parametrize("guided", ["true", "false"])
@pytest.mark.parametrize("family", ["sd-v", "sdxl", "flux", "flux2", "z-image", "qwen-image"])
def test_every_family_takes_a_step_with_a_reward_model(pipelines, tmp_path, family, guided):
    rewards = ("rewards=[{name: tiny}, {name: red, weight: 0.5}]", "loss.ensemble=min")
    guidance = ("rollout.guidance_scale=3", f"strategy.guided_rollout={guided}")
    trainer = make(pipelines(family), tmp_path, *rewards, *guidance, "run.accumulation=2")
    before = weights(trainer)
    metrics = trainer.step(0)
    assert metrics.finite
    assert metrics.gradient_norm > 0
    assert {"srpo/tiny", "srpo/red", "reward/tiny", "reward/red"} <= set(metrics.row())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items())


def test_only_runs_of_srpo_must_share_its_settings_to_resume():
    def of(*more):
        return fingerprint(check_config(refl.load_config(settings=[*more])), PROMPTS, [], None)

    other = "strategy.move=0.2"
    assert of() == of(other)
    assert of("strategy.name=srpo") != of("strategy.name=srpo", other)

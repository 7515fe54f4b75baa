"""Best of n with tiny pipelines; dropping candidates does not change the remaining ones."""

import inspect
import math
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import InputError, NonFiniteRewardError

diffusers = pytest.importorskip("diffusers")

from tiny_pipelines import pixart  # noqa: E402

from reward_core.integrations.diffusers import (  # noqa: E402
    DropPlan,
    EarlyDropping,
    PredictedRewards,
    best_of,
    predicted_clean,
)

PROMPTS = ["a red circle", "two blue squares"]
# Matrix products of different batch sizes round differently: after six steps by up to 1 level of 255.
LEVELS = 2
NEW_FAMILIES = ["flux2", "z-image", "qwen-image"]
# With small random weights their images hardly depend on the prompt.
GUIDED_STRONGLY = ("flux2", "qwen-image")


class Brightness:
    """A fast scorer with known scores and few ties."""

    def __init__(self):
        self.calls, self.images = [], []

    def score_pairs(self, prompts, images):
        self.calls.append(list(prompts))
        self.images += images
        return torch.tensor([np.asarray(image, dtype=float).mean() for image in images])


@pytest.fixture(scope="module")
def load(pipelines):
    @cache
    def read(name):
        pipe = diffusers.DiffusionPipeline.from_pretrained(pipelines(name))
        if name in GUIDED_STRONGLY:
            for weight_name, weight in pipe.transformer.named_parameters():
                weight.requires_grad_(False).mul_(10 if "add_v_proj" in weight_name else 1)
        return pipe

    def load(name, scheduler=None, **options):
        """Return a new pipeline; all of one name share their models, but not their schedulers."""
        given = read(name)
        pipe = type(given)(**given.components)
        pipe.scheduler = type(given.scheduler).from_config(given.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        if scheduler:
            pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **options)
        return pipe

    return load


def call_of(name):
    size = {"height": 32, "width": 32, "num_inference_steps": 6}
    if name == "flux2":
        return {**size, "guidance_scale": 20.0}
    if name == "qwen-image":
        return {**size, "true_cfg_scale": 20.0, "negative_prompt": "grey"}
    return {**size, "guidance_scale": 3.0, "negative_prompt": "grey"}


def difference(a, b):
    return np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sd",
        "sd3",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("sd-v", "sdxl", "flux", *NEW_FAMILIES)),
    ],
)
def test_remaining_candidates_are_unaffected_by_dropping(load, name):
    pipe, scorer = load(name), Brightness()
    full = best_of(pipe, PROMPTS, 4, scorer, **call_of(name))
    plan = DropPlan(at=(1 / 3, 2 / 3), keep=(0.5, 0.25))
    early = best_of(pipe, PROMPTS, 4, scorer, early=plan, **call_of(name))
    for one, other in zip(full, early):
        assert [c.dropped for c in one.candidates] == [False] * 4
        assert sorted(c.steps for c in other.candidates) == [2, 2, 4, 6]
        assert other.steps_saved == pytest.approx(1 - 14 / 24)
        assert one.steps_saved == 0
        (stayed,) = other.ranked
        same = next(c for c in one.candidates if c.seed == stayed.seed)
        assert difference(stayed.image, same.image) <= LEVELS
        # The candidates that were kept had the best predictions at each check.
        for done, count in ((2, 2), (4, 1)):
            there = {c.seed: dict(c.predictions).get(done, -math.inf) for c in other.candidates}
            went_on = {c.seed for c in other.candidates if c.steps > done}
            assert went_on == set(sorted(there, key=lambda seed: -there[seed])[:count])
    assert len({c.image.tobytes() for r in full for c in r.candidates}) == 8  # prompts and seeds differ


@pytest.mark.parametrize(
    "name",
    ["z-image", "qwen-image", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flux", "flux2"))],
)
def test_a_preview_is_the_image_of_a_schedule_that_ends_with_its_step(load, name):
    pipe, scorer, call = load(name), Brightness(), {**call_of(name), "width": 48}
    best_of(pipe, PROMPTS[0], 2, scorer, early=DropPlan(at=(0.5,), keep=(1.0,)), **call)
    assert len(scorer.images) == 4  # two previews, two images
    sigmas = [1, 5 / 6, 4 / 6]  # the first three of six steps, and then a step to 0
    for seed in range(2):
        generator = torch.Generator("cpu").manual_seed(seed)
        expected = pipe(prompt=PROMPTS[0], generator=generator, sigmas=sigmas, **call).images[0]
        assert difference(scorer.images[seed], expected) <= LEVELS
        assert difference(scorer.images[seed + 2], expected) > LEVELS


SCHEDULERS = [
    ("DDIMScheduler", {}, {"eta": 1.0}),
    ("DDPMScheduler", {}, {}),
    ("PNDMScheduler", {}, {}),
    ("LCMScheduler", {}, {}),
    ("EulerDiscreteScheduler", {}, {}),
    ("EulerAncestralDiscreteScheduler", {}, {}),
    ("HeunDiscreteScheduler", {}, {}),
    ("KDPM2DiscreteScheduler", {}, {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, {}),
    ("DPMSolverSinglestepScheduler", {}, {}),
    ("UniPCMultistepScheduler", {}, {}),
    ("DEISMultistepScheduler", {}, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "options", "call"), SCHEDULERS, ids=[s[0] for s in SCHEDULERS])
def test_multistep_and_stochastic_schedulers(load, scheduler, options, call):
    pipe, scorer = load("sd", scheduler, **options), Brightness()
    call = {**call_of("sd"), **call}
    full = best_of(pipe, PROMPTS[0], 4, scorer, **call)
    early = best_of(pipe, PROMPTS[0], 4, scorer, early=DropPlan(at=(0.5,), keep=(0.5,)), **call)
    assert sum(c.dropped for c in early.candidates) == 2
    for candidate in early.ranked:
        same = next(c for c in full.candidates if c.seed == candidate.seed)
        assert difference(candidate.image, same.image) <= LEVELS


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", [s[0] for s in SCHEDULERS])
def test_the_clean_latents_are_read_by_the_schedulers_own_definition_of_noise(load, scheduler, prediction):
    if prediction == "sample" and scheduler == "PNDMScheduler":
        pytest.skip("PNDM knows no such prediction")
    source = load("sd").scheduler.config
    made = getattr(diffusers, scheduler).from_config(source, prediction_type=prediction)
    made.set_timesteps(10)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    t = made.timesteps[0]
    x = made.add_noise(x0, noise, t.repeat(3))
    alpha_cumprod = float(made.alphas_cumprod[int(t)])
    output = {
        "epsilon": noise,
        "v_prediction": alpha_cumprod**0.5 * noise - (1 - alpha_cumprod) ** 0.5 * x0,
        "sample": x0,
    }
    # 1e-3: at the noisiest step rounding of the latents is divided by alpha = 0.07.
    torch.testing.assert_close(predicted_clean(made, output[prediction], t, x), x0, atol=1e-3, rtol=1e-3)


def test_the_clean_latents_of_a_flow(load):
    scheduler = load("sd3").scheduler
    scheduler.set_timesteps(10)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    x = scheduler.scale_noise(x0, scheduler.timesteps[:1], noise)
    torch.testing.assert_close(
        predicted_clean(scheduler, noise - x0, scheduler.timesteps[0], x), x0, atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", *NEW_FAMILIES])
def test_a_seed_is_the_same_image_in_any_batch_and_in_the_pipeline_itself(load, name):
    pipe, scorer = load(name), Brightness()
    call = call_of(name)
    one = best_of(pipe, PROMPTS, 3, scorer, batch_size=2, seeds=[7, 8, 11], **call)
    other = best_of(pipe, PROMPTS, 3, scorer, batch_size=6, seeds=[7, 8, 11], **call)
    for a, b in zip(one, other):
        assert [c.seed for c in a.candidates] == [7, 8, 11]
        assert all(difference(x.image, y.image) <= LEVELS for x, y in zip(a.candidates, b.candidates))
        assert a.best.reward == max(a.rewards)
        assert a.best.image is not None
        generator = torch.Generator("cpu").manual_seed(a.best.seed)
        separate = pipe(prompt=a.prompt, generator=generator, **call).images[0]
        assert difference(a.best.image, separate) <= LEVELS


def test_later_batches_compete_with_earlier_ones(load):
    pipe, scorer = load("sd"), Brightness()
    plan = DropPlan(at=(0.5,), keep=(0.25,))
    result = best_of(pipe, PROMPTS[0], 8, scorer, batch_size=2, early=plan, **call_of("sd"))
    predicted = [dict(c.predictions)[3] for c in result.candidates]
    for i, candidate in enumerate(result.candidates):
        seen = predicted[: i // 2 * 2 + 2]
        stays = sum(other > predicted[i] for other in seen) < max(1, math.ceil(0.25 * len(seen)))
        assert candidate.dropped is not stays
        assert candidate.steps == (6 if stays else 3)  # also where a whole batch was given up
    assert any(result.candidates[i].dropped and result.candidates[i + 1].dropped for i in (2, 4, 6))
    assert result.candidates[predicted.index(max(predicted))].reward is not None


@pytest.mark.parametrize(
    ("name", "guidance", "copies"), [("sdxl", 3.0, 2), ("z-image", 3.0, 2), ("z-image", 0.0, 1)]
)
def test_dropping_candidates_saves_denoiser_calls(load, name, guidance, copies):
    pipe, scorer = load(name), Brightness()
    prompts = [PROMPTS[0]] * 4
    call = {**call_of(name), "guidance_scale": guidance}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(4)]
    with EarlyDropping(pipe, prompts, scorer, DropPlan(at=(0.5,), keep=(0.25,))) as drop:
        images = pipe(
            PROMPTS[0], num_images_per_prompt=4, callback_on_step_end=drop, generator=generators, **call
        ).images
    assert len(images) == len(drop.alive) == 1
    assert drop.denoised == copies * (4 * 3 + 1 * 3)
    denoiser = pipe.unet if name == "sdxl" else pipe.transformer
    assert not denoiser._forward_pre_hooks
    assert not denoiser._forward_hooks
    assert "step" not in vars(pipe.scheduler)
    generator = torch.Generator("cpu").manual_seed(drop.alive[0])
    assert difference(images[0], pipe(PROMPTS[0], generator=generator, **call).images[0]) <= LEVELS


@pytest.mark.slow
def test_reference_images_are_refused_only_with_early_dropping(load):
    pipe, scorer = load("flux2"), Brightness()
    call = {**call_of("flux2"), "num_inference_steps": 2, "image": [Image.new("RGB", (64, 64), "red")]}
    assert len(best_of(pipe, PROMPTS[0], 2, scorer, **call).rewards) == 2
    with pytest.raises(InputError, match="Flux2KleinPipeline: its reference images or masks"):
        best_of(pipe, PROMPTS[0], 2, scorer, early=DropPlan(), **call)


def test_another_image_size_must_be_named(load):
    pipe, prompts = load("qwen-image"), PROMPTS[:1] * 2
    error = pytest.raises(InputError, match=r"tokens of QwenImagePipeline.*Pass its height and width")
    with error, EarlyDropping(pipe, prompts, Brightness()) as drop:
        pipe(prompts, callback_on_step_end=drop, **call_of("qwen-image"))


def test_an_error_during_the_call_restores_the_pipeline(load):
    pipe = load("sd")

    class Broken:
        def score_pairs(self, prompts, images):
            raise InputError("no")

    with pytest.raises(InputError, match="no"):
        best_of(pipe, PROMPTS[0], 2, Broken(), early=DropPlan(), **call_of("sd"))
    assert not pipe.unet._forward_pre_hooks
    assert "step" not in vars(pipe.scheduler)


def test_memory_that_runs_out_halves_the_batch(load, monkeypatch):
    pipe, scorer, sizes = load("sd"), Brightness(), []
    forward = pipe.unet.forward

    def limited(sample, *args, **kwargs):
        sizes.append(len(sample))
        if len(sample) > 4:
            raise torch.OutOfMemoryError("too much")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", limited)
    result = best_of(pipe, PROMPTS[0], 5, scorer, batch_size=8, early=DropPlan(), **call_of("sd"))
    assert len(result.candidates) == 5
    assert sizes[0] == 10
    assert max(sizes[2:]) == 4
    assert [len(c.predictions) for c in result.candidates] == [1] * 5


def test_images_blacked_out_by_the_safety_checker_never_win(load):
    pipe = load("sd")
    pipe.run_safety_checker = lambda image, device, dtype: (image, [True, False, True])
    result = best_of(pipe, PROMPTS[0], 3, Brightness(), **call_of("sd"))
    assert [c.flagged for c in result.candidates] == [True, False, True]
    assert result.best is result.candidates[1]
    assert result.rewards[0] is None
    pipe.run_safety_checker = lambda image, device, dtype: (image, [True] * 3)
    with pytest.raises(InputError, match="blacked out"):
        _ = best_of(pipe, PROMPTS[0], 3, Brightness(), **call_of("sd")).best


class Answering:
    """A scorer whose rewards are replaced by ``change(rewards)``."""

    def __init__(self, change):
        self.change = change

    def score_pairs(self, prompts, images):
        return self.change(Brightness().score_pairs(prompts, images))


def with_value(row, value):
    def change(rewards):
        rewards[row % len(rewards)] = value
        return rewards

    return change


@pytest.mark.parametrize("early", [None, DropPlan()], ids=["all finished", "early dropping"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_wins_nothing(load, early, value):
    pipe, call = load("sd"), {**call_of("sd"), "num_inference_steps": 2, "early": early}
    with pytest.raises(NonFiniteRewardError, match=f"seed 6 for 'a red circle'.* is {value}"):
        best_of(pipe, PROMPTS[0], 2, Answering(with_value(1, value)), seeds=[5, 6], **call)
    assert "step" not in vars(pipe.scheduler)


def test_earlier_predictions_that_are_not_finite_are_refused():
    with pytest.raises(NonFiniteRewardError, match="the reward at index 1 is nan"):
        PredictedRewards().enter(["a", "a"], 3, [1.0, math.nan])


def test_rewards_of_other_tensor_shapes_are_accepted_or_refused_by_name(load):
    pipe, call = load("sd"), {**call_of("sd"), "num_inference_steps": 1, "guidance_scale": 1.0}
    expected = best_of(pipe, PROMPTS[0], 2, Brightness(), **call).rewards
    for change in (
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        lambda r: r[:, None],
        lambda r: r.requires_grad_(),
    ):
        assert best_of(pipe, PROMPTS[0], 2, Answering(change), **call).rewards == expected
    for change, shape in (
        (lambda r: r[:1], r"shape \(1,\)"),
        (lambda r: torch.cat([r, r]), r"shape \(4,\)"),
        (lambda r: r[None], r"shape \(1, 2\)"),
        (lambda r: r.expand(2, 2), r"shape \(2, 2\)"),
        (lambda r: r.sum(), r"shape \(\)"),
        (lambda r: None, "None"),
        (lambda r: ["good", "bad"], "good"),
    ):
        with pytest.raises(InputError, match=f"Answering.score_pairs: expected 2 numbers.*{shape}"):
            best_of(pipe, PROMPTS[0], 2, Answering(change), **call)


def test_a_controlnets_images_are_cut_too(load):
    pipe = load("sd")
    torch.manual_seed(0)
    control = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 16))
    torch.nn.init.normal_(control.controlnet_mid_block.weight)  # zero at first: it would change nothing
    pipe = diffusers.StableDiffusionControlNetPipeline(**pipe.components, controlnet=control)
    pipe.set_progress_bar_config(disable=True)
    call = {**call_of("sd"), "image": [Image.new("RGB", (32, 32), "red")] * 4}
    full = best_of(pipe, PROMPTS[0], 4, Brightness(), **call)
    early = best_of(pipe, PROMPTS[0], 4, Brightness(), early=DropPlan(), **call)
    assert sum(c.dropped for c in early.candidates) == 2
    for candidate in early.ranked:
        assert difference(candidate.image, full.candidates[candidate.seed].image) <= LEVELS


@pytest.mark.parametrize("name", ["sd", "qwen-image", pytest.param("flux2", marks=pytest.mark.slow)])
def test_the_bundled_model_by_name_and_another_vae_for_previews(load, name):
    pipe = load(name)
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4, upsampling_scaling_factor=2,
    )  # fmt: skip
    result = best_of(pipe, PROMPTS[0], 2, "tiny", early=DropPlan(), preview_vae=tiny, **call_of(name))
    expected = RM.load("tiny").score(PROMPTS[0], result.best.image)
    assert result.best.reward == pytest.approx(expected, abs=5e-5)


def test_negative_prompts_can_differ_by_prompt(load):
    pipe, scorer = load("sd"), Brightness()
    call = {**call_of("sd"), "negative_prompt": ["grey", "green"]}
    both = best_of(pipe, [PROMPTS[0]] * 2, 2, scorer, **call)
    assert difference(both[0].best.image, both[1].best.image) > LEVELS  # only the negative prompts differ
    assert len(scorer.calls) == 1  # one batch
    with pytest.raises(InputError, match="one text or 2 texts, one per prompt, got 3"):
        best_of(pipe, PROMPTS, 2, scorer, negative_prompt=["a", "b", "c"])


def embeddings(pipe, prompts, negative="grey"):
    """Return the arguments that replace the prompt, as a tool such as compel does."""
    kind, negatives = type(pipe).__name__, [negative] * len(prompts)
    if kind == "ZImagePipeline":
        names = ["prompt_embeds", "negative_prompt_embeds"]  # encode_prompt changes the list
        return dict(zip(names, pipe.encode_prompt(list(prompts), "cpu", negative_prompt=negatives)))
    if kind == "Flux2KleinPipeline":  # its negative prompt is empty; one row serves all prompts
        names = ["prompt_embeds", "negative_prompt_embeds"]
        return dict(zip(names, (pipe.encode_prompt(texts, "cpu")[0] for texts in (prompts, [""]))))
    if kind == "QwenImagePipeline":
        names = ["prompt_embeds", "prompt_embeds_mask"]
        names += [f"negative_{name}" for name in names]
        return dict(zip(names, [*pipe.encode_prompt(prompts), *pipe.encode_prompt(negatives)]))
    given = {"device": "cpu", "num_images_per_prompt": 1}
    if "do_classifier_free_guidance" in inspect.signature(pipe.encode_prompt).parameters:
        given |= {"negative_prompt": negatives, "do_classifier_free_guidance": True}
    if kind == "FluxPipeline":
        names = ["prompt_embeds", "pooled_prompt_embeds"]
        given["prompt_2"] = None
    elif kind == "StableDiffusionPipeline":
        names = ["prompt_embeds", "negative_prompt_embeds"]
    else:
        names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds"]
        names.append("negative_pooled_prompt_embeds")
        given["prompt_2"] = None
        if kind == "StableDiffusion3Pipeline":
            given["prompt_3"] = None
    return dict(zip(names, pipe.encode_prompt(prompt=prompts, **given)))


@pytest.mark.parametrize("early", [None, DropPlan()], ids=["all finished", "early dropping"])
@pytest.mark.parametrize(
    "name",
    ["sdxl", "flux", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd", "sd3", *NEW_FAMILIES))],
)
def test_embeddings_replace_the_prompts(load, name, early):
    pipe, scorer = load(name), Brightness()
    call = {**call_of(name), "num_inference_steps": 2, "early": early, "batch_size": 3}
    if name == "flux":
        call.pop("negative_prompt")
    expected = best_of(pipe, PROMPTS, 2, scorer, **call)
    call.pop("negative_prompt", None)
    scorer.calls.clear()
    results = best_of(pipe, PROMPTS, 2, scorer, **call, **embeddings(pipe, PROMPTS))
    assert {prompt for prompts in scorer.calls for prompt in prompts} == set(PROMPTS)
    for one, other in zip(expected, results):
        assert [c.dropped for c in one.candidates] == [c.dropped for c in other.candidates]
        assert difference(one.best.image, other.best.image) <= LEVELS
    separate = best_of(pipe, PROMPTS[1], 2, scorer, **call, **embeddings(pipe, PROMPTS[1:]))
    same = results[1].candidates[separate.best.seed]
    assert difference(separate.best.image, same.image) <= LEVELS


def test_prompts_longer_than_the_tokenizer_takes(load):
    pipe, scorer = load("sd"), Brightness()
    made = embeddings(pipe, PROMPTS[:1])
    made["prompt_embeds"] = torch.cat([made["prompt_embeds"], 2 * made["prompt_embeds"]], dim=1)
    made["negative_prompt_embeds"] = made["negative_prompt_embeds"].repeat(1, 2, 1)
    call = {**call_of("sd"), "num_inference_steps": 2, "negative_prompt": None}
    long = "a red circle, " * 40
    results = best_of(pipe, long, 3, scorer, early=DropPlan(), batch_size=2, **call, **made)
    assert scorer.calls[0] == [long] * 2
    again = {"generator": torch.Generator("cpu").manual_seed(results.best.seed), **call, **made}
    assert difference(results.best.image, pipe(**again).images[0]) <= LEVELS


def test_negative_embeddings_of_one_row_serve_all_prompts(load):
    pipe, scorer = load("sd"), Brightness()
    call = {**call_of("sd"), "num_inference_steps": 2}
    expected = best_of(pipe, PROMPTS, 2, scorer, **call)
    negative = embeddings(pipe, PROMPTS[:1])["negative_prompt_embeds"]
    call["negative_prompt"] = None
    results = best_of(pipe, PROMPTS, 2, scorer, negative_prompt_embeds=negative, **call)
    for one, other in zip(expected, results):
        assert difference(one.best.image, other.best.image) <= LEVELS


def test_embeddings_must_match_the_number_of_prompts(load):
    pipe, scorer = load("sd"), Brightness()
    made = embeddings(pipe, PROMPTS)
    for prompts, change, words in (
        (PROMPTS[0], {}, r"prompt_embeds of shape \(2, .*one row for each of 1 prompts"),
        (PROMPTS, {"prompt_embeds": made["prompt_embeds"][:1]}, r"prompt_embeds of shape \(1, "),
        (PROMPTS, {"negative_prompt_embeds": torch.zeros(3, 77, 8)}, "negative_prompt_embeds of shape .3, "),
        (PROMPTS[0], {"prompt_embeds": made["prompt_embeds"][0]}, "prompt_embeds of shape"),
        (PROMPTS[0], {"prompt_embeds": "a red circle"}, "prompt_embeds: expected a tensor, got str"),
    ):
        with pytest.raises(InputError, match=words):
            best_of(pipe, prompts, 2, scorer, **{**made, **change})
    assert not scorer.calls


def test_pipelines_without_a_step_count():
    pipe, scorer = pixart(), Brightness()
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "use_resolution_binning": False}
    result = best_of(pipe, PROMPTS[0], 2, scorer, **call)
    assert [c.steps for c in result.candidates] == [2, 2]
    assert result.best.reward == max(result.rewards)
    with pytest.raises(InputError, match="PixArtSigmaPipeline: it does not accept callback_on_step_end"):
        best_of(pipe, PROMPTS[0], 2, scorer, early=DropPlan(), **call)


def test_invalid_use_is_reported(load):
    pipe, scorer = load("sd"), Brightness()
    for bad, word in (
        ({"n": 0}, "at least 1"),
        ({"n": 2, "seeds": [1]}, "1 seeds"),
        ({"n": 2, "output_type": "latent"}, "output_type"),
        ({"n": 2, "early": DropPlan(), "callback_on_step_end": print}, "callback_on_step_end"),
        ({"n": 2, "batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(InputError, match=word):
            best_of(pipe, PROMPTS[0], bad.pop("n"), scorer, **bad)
    for at, keep in (
        ((0.5,), (0.5, 0.2)),
        ((0.5, 0.2), (0.5, 0.2)),
        ((1.0,), (0.5,)),
        ((0.5,), (0.0,)),
        ((), ()),
    ):
        with pytest.raises(InputError):
            DropPlan(at, keep)
    with pytest.raises(InputError, match="must be entered"):
        pipe(PROMPTS[0], callback_on_step_end=EarlyDropping(pipe, PROMPTS[:1], scorer), **call_of("sd"))
    with pytest.raises(InputError, match="2 rows"), EarlyDropping(pipe, PROMPTS[:1], scorer) as drop:
        pipe(PROMPTS, callback_on_step_end=drop, num_inference_steps=2)


@pytest.mark.parametrize("scheduler", ["EDMEulerScheduler", "DPMSolverSDEScheduler"])
def test_unsupported_schedulers_are_refused_in_the_first_step(load, scheduler):
    pipe, denoised = load("sd"), []
    if scheduler.startswith("DPM"):
        pipe.scheduler.noise_sampler = None  # DPMSolverSDEScheduler needs another package
        scheduler = "DDIMScheduler"
    else:
        pipe.scheduler = getattr(diffusers, scheduler)()
    hook = pipe.unet.register_forward_hook(lambda *_: denoised.append(1))
    with hook, pytest.raises(InputError, match=scheduler):  # removes the hook
        best_of(pipe, PROMPTS[0], 2, Brightness(), early=DropPlan(), **call_of("sd"))
    assert len(denoised) <= 1
    assert "step" not in vars(pipe.scheduler)


def test_history_keeps_the_requested_share():
    history = PredictedRewards()
    history.enter(["a"] * 4 + ["b"], 3, [1.0, 2.0, 3.0, 4.0, 0.0])
    assert [history.survives("a", 3, r, 0.5) for r in (1.0, 2.0, 3.0, 4.0)] == [False, False, True, True]
    assert history.survives("b", 3, 0.0, 0.1)

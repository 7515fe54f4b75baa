"""The half-precision copy for steps without gradient, and half precision in decoding and rewards."""

import copy
import dataclasses
import random
from contextlib import contextmanager, nullcontext

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings, train

import refl
import reward_core
from refl.config.checks import check_config
from refl.config.rollout_plans import plan_rollout
from refl.denoising.rollout_plan import RolloutPlan
from refl.errors import ConfigError
from refl.families import Guidance, load_family
from refl.memory.estimate import estimate_memory
from reward_core.errors import CheckpointError

COPY = "rollout.no_grad_dtype=bf16"
RUN = ("run.cpu=true", "optimizer.lr=1e-2")


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(model, folder, *more, **options):
    config = settings(folder, *RUN, *more, **options)
    return refl.Trainer(model, PROMPTS, config, {"red": redness})


def rewards_of(trainer, number=0):
    objective = trainer.objective
    if objective.no_grad_copy is not None:
        objective.no_grad_copy.refresh()
    with torch.no_grad():
        step = objective.loss(number, [0, 1], PROMPTS[:2], RolloutPlan(3, (3,)), [])
    return step.rewards["red"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more"),
    [
        pytest.param("sd", ("model.lora_rank=0",), marks=pytest.mark.slow),
        ("sd", ("model.lora_rank=4", "rollout.guidance_scale=3.0")),
        pytest.param("sdxl", ("model.lora_rank=4", "run.mixed_precision=bf16"), marks=pytest.mark.slow),
        pytest.param("sd3", ("model.lora_rank=4",), marks=pytest.mark.slow),
        pytest.param("flux", ("model.lora_rank=0",), marks=pytest.mark.slow),
    ],
)
def test_the_copy_follows_the_trained_weights(pipelines, tmp_path, family, more):
    exact, copied = (make(pipelines(family), tmp_path, *more, *extra) for extra in ((), (COPY,)))
    half = copied.objective.no_grad_copy
    assert {p.dtype for p in half.module.parameters()} == {torch.bfloat16}
    for number in range(2):  # LoRA's first step changes only one of its factors
        assert copied.step(number).finite
    exact.trainable.load_tensors(copied.trainable.tensors())
    latents = torch.randn(2, *copied.family.latent_shape(16, 16), generator=torch.Generator().manual_seed(0))
    condition = copied.family.encode(PROMPTS[:2], "" if copied.objective.guidance.scale != 1 else None)
    with torch.no_grad():
        inputs = (latents, 500.0, condition, copied.objective.guidance)
        theirs = exact.family.denoise(*inputs)
        stale = half.denoise(*inputs)
        half.refresh()
        ours, again = half.denoise(*inputs), copied.family.denoise(*inputs)
    assert not torch.equal(stale, ours)
    error = (ours - theirs).pow(2).mean().sqrt() / theirs.std()
    # Measured: 0.04 with guidance, which multiplies the rounding; below 0.02 without.
    assert 0 < error < (0.08 if copied.objective.guidance.scale != 1 else 0.04)
    # Steps with gradient and validation use the trained weights.
    assert torch.equal(again, theirs)
    images = [t.objective.generate(PROMPTS[:2], [0, 1]) for t in (exact, copied)]
    assert torch.equal(*images)


def passes(trainer, count=32):
    """Return one pass of ``count`` samples by the trained denoiser under autocast and by the copy."""
    objective, family = trainer.objective, trainer.family
    latents = torch.randn(count, *family.latent_shape(16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        objective.no_grad_copy.refresh()
        with trainer.accelerator.autocast():
            condition = family.encode((PROMPTS * count)[:count])
            trained = family.denoise(latents, 500.0, condition, Guidance())
        return trained, objective.no_grad_copy.denoise(latents, 500.0, condition, Guidance())


@contextmanager
def in_float32(trainer):
    """Switch the trained denoiser to a float32 copy of itself, without autocast, in the context."""
    family, half, precision = trainer.family, trainer.family.denoiser, trainer.accelerator.autocast
    family.denoiser, trainer.accelerator.autocast = copy.deepcopy(half).float(), nullcontext
    yield
    family.denoiser, trainer.accelerator.autocast = half, precision


def randomize(trainer, scale):
    """Set the second factors of LoRA, which start at 0, to random numbers."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in zip(trainer.trainable.names, trainer.trainable.parameters):
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale


@pytest.mark.slow
def test_changes_below_the_rounding_of_the_weights_are_kept(pipelines, tmp_path):
    """Adapters change most weights by less than half the distance to the next number of the dtype."""
    trainer = make(pipelines("flux"), tmp_path, "run.mixed_precision=bf16", "model.lora_rank=4")
    outputs = []
    for scale in (0, 3e-4):
        randomize(trainer, scale)
        with in_float32(trainer):
            exact = passes(trainer, 256)[0]
        outputs.append((exact, passes(trainer, 256)[1]))
    true, change = (after - before for before, after in zip(*outputs))
    # Measured: 1.03; 0.41 with adapters merged into weights in bf16.
    assert (change * true).sum() / true.pow(2).sum() == pytest.approx(1, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["to_q,conv1,proj_in,time_emb_proj", "ff.net.2,conv_shortcut,conv"])
def test_any_layer_may_have_an_adapter(pipelines, tmp_path, targets):
    more = (
        "run.mixed_precision=bf16",
        "model.lora_rank=4",
        "model.lora_alpha=8",
        f"model.lora_targets=[{targets}]",
    )
    trainer = make(pipelines("sd"), tmp_path, *more)
    (trained_before, copy_before), _ = passes(trainer), randomize(trainer, 0.1)
    trained, copied = passes(trainer)
    effect = (trained - trained_before).std()
    assert (trained_before - copy_before).std() < 0.1 * effect
    assert (trained - copied).std() < 0.1 * effect


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", pytest.param("flux", marks=pytest.mark.slow)])
def test_frozen_weights_are_shared(pipelines, tmp_path, family):
    def parts(*more):
        trainer = make(pipelines(family), tmp_path, "model.lora_rank=4", *more)
        plan = plan_rollout(trainer.config.strategy, 4, random.Random(0))
        size = estimate_memory(trainer.objective, plan).parts["copy for steps without gradient"]
        AcceleratorState._reset_state(reset_partial_state=True)
        return trainer, size

    trainer, size = parts("run.mixed_precision=bf16")
    trained = trainer.family.denoiser.parameters()
    copied = trainer.objective.no_grad_copy.module.parameters()
    assert {p.data_ptr() for p in copied} <= {p.data_ptr() for p in trained}
    assert size == 2 * sum(p.numel() for p in trainer.trainable.parameters)
    frozen = sum(p.numel() for p in trainer.objective.no_grad_copy.module.parameters())
    assert parts(COPY)[1] == size + 2 * frozen  # float32 weights are not those of a bf16 copy


@pytest.mark.slow
def test_nft_generates_with_the_old_adapters(pipelines, tmp_path):
    """The copy follows the weights that generate the images, which differ from the trained ones."""
    more = ("run.mixed_precision=bf16", "model.lora_rank=4", "strategy={name: nft, group: 2}")
    config = settings(tmp_path, *RUN, *more, reward="{name: red, input: pixels}")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": redness})
    before = passes(trainer)[1]
    randomize(trainer, 0.1)
    with trainer.trainable.old():
        assert torch.equal(passes(trainer)[1], before)
    assert not torch.equal(passes(trainer)[1], before)


@pytest.mark.parametrize("setting", ["no_grad_dtype", "decode_dtype"])
def test_a_run_in_half_precision_generates_images_in_it_by_default(tmp_path, setting):
    def chosen(*more, **options):
        return getattr(check_config(settings(tmp_path, *more, **options)).rollout, setting)

    bf16, lora = "run.mixed_precision=bf16", "model.lora_rank=4"
    assert chosen(lora, bf16) == "bf16"
    assert chosen(lora, "run.mixed_precision=fp16") == "fp16"
    assert chosen("model.lora_rank=0", bf16) == "bf16"
    assert chosen(lora) == ""
    compiled = chosen(lora, bf16, "model.compile=true")
    assert compiled == ("" if setting == "no_grad_dtype" else "bf16")
    for off in ("no", "''"):
        assert chosen(lora, bf16, f"rollout.{setting}={off}") == ""
    assert chosen(lora, "run.mixed_precision=bf16", f"rollout.{setting}=fp16") == "fp16"


def test_settings_files_keep_their_meaning(tmp_path):
    """Files that runs have written name every setting; empty is what they have without a copy."""
    file = tmp_path / "settings.yaml"
    for written in ("''", "", "off", "auto"):
        file.write_text(f"run: {{mixed_precision: bf16}}\nrollout: {{no_grad_dtype: {written}}}\n")
        expected = {"''": "", "off": "", "": "bf16"}.get(written, written)
        assert check_config(refl.load_config(file)).rollout.no_grad_dtype == expected


def test_defaults_follow_settings_that_are_changed_later(tmp_path):
    config = settings(tmp_path, "run.mixed_precision=bf16")
    changed = dataclasses.replace(config, run=dataclasses.replace(config.run, mixed_precision="no"))
    assert (check_config(config).rollout.no_grad_dtype, check_config(changed).rollout.no_grad_dtype) == (
        "bf16",
        "",
    )
    assert check_config(check_config(config)) == check_config(config)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_rewards_with_the_copy_are_close_to_exact_ones(pipelines, tmp_path, rank):
    more = f"model.lora_rank={rank}"
    exact, copied = (make(pipelines("sd"), tmp_path, more, *extra) for extra in ((), (COPY,)))
    assert exact.step(0).finite
    copied.trainable.load_tensors(exact.trainable.tensors())
    for number in range(3):
        one, two = rewards_of(exact, number), rewards_of(copied, number)
        assert not torch.equal(one, two)
        assert (one - two).abs().max() < 0.01, (one, two)  # measured: at most 0.0015
    gradients = []
    for trainer in (exact, copied):
        step = trainer.objective.loss(0, [0, 1], PROMPTS[:2], RolloutPlan(3, (3,)), [])
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(step.loss, trainer.trainable.parameters)])
        )
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "scale"),
    [
        ("sd", 3.0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("sd", 1.0), ("sdxl", 3.0), ("sd3", 3.0), ("flux", 1.0))
        ),
    ],
)
def test_graphs_do_not_change_what_the_copy_computes(pipelines, tmp_path, family, scale):
    """On a CPU nothing is recorded, but the copy gets its inputs as tensors, as a recorded graph does."""
    more = (COPY, "model.lora_rank=4", f"rollout.guidance_scale={scale}")
    plain, graphs = (
        make(pipelines(family), tmp_path, *more, *extra) for extra in ((), ("rollout.no_grad_graphs=true",))
    )
    for number in range(2):
        assert torch.allclose(rewards_of(plain, number), rewards_of(graphs, number), atol=1e-5)


@pytest.mark.slow
def test_a_run_with_the_copy_resumes_to_the_same_bits(pipelines, tmp_path):
    more = (*RUN, COPY, "run.checkpoint_every=2", "validation.prompts=0")
    whole, _ = train(pipelines("sd"), tmp_path / "whole", *more, steps=4)

    def stop(pixels, prompts):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return redness(pixels, prompts)

    calls = [1]  # the trial on gray images is a call too
    with pytest.raises(KeyboardInterrupt):
        train(pipelines("sd"), tmp_path / "parts", *more, steps=4, rewards={"red": stop})
    resumed, rows = train(pipelines("sd"), tmp_path / "parts", *more, steps=4)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for name, weight in whole.trainable.tensors().items():
        assert torch.equal(weight, resumed.trainable.tensors()[name]), name
    with pytest.raises(CheckpointError, match="settings"):  # a run does not change its precision
        train(pipelines("sd"), tmp_path / "parts", *RUN, "validation.prompts=0", steps=4)


@pytest.mark.slow
def test_auto_and_fp16_choose_a_dtype(pipelines, tmp_path):
    assert make(pipelines("sd"), tmp_path, "rollout.no_grad_dtype=auto").objective.no_grad_copy.dtype == (
        torch.bfloat16
    )
    trainer = make(pipelines("sd"), tmp_path, "rollout.no_grad_dtype=fp16")
    assert trainer.objective.no_grad_copy.dtype == torch.float16
    assert trainer.step(0).finite


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rollout.no_grad_dtype=int8", "no_grad_dtype='int8': it must be one of no, auto, bf16, fp16"),
        ("rollout.no_grad_compile=true", "rollout.no_grad_compile: .* Set rollout.no_grad_dtype"),
        ("rollout.no_grad_graphs=true", "rollout.no_grad_graphs: .* Set rollout.no_grad_dtype"),
        (
            "rollout.gradient_graphs=true",
            "gradient_graphs='true': it must be one of no, rewards, forward, denoiser, all",
        ),
        ("rollout.decode_dtype=auto", "decode_dtype='auto': it must be one of no, bf16, fp16"),
        (
            "rollout={gradient_graphs: all, gradient_checkpointing: false}",
            "gradient_graphs with rollout.gradient_checkpointing=False: .* Set .*=True",
        ),
        ("rewards=[{name: red, dtype: half}]", "rewards.dtype='half': it must be one of \"\", bf16, fp16"),
    ],
)
def test_impossible_precisions_are_refused(tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, setting)


def test_graphs_of_weights_that_an_optimizer_moves_are_refused(tmp_path):
    moved = "model.lora_rank=0", "model.channels_last=true", "optimizer.eight_bit=true"
    for parts in ("denoiser", "all"):
        with pytest.raises(ConfigError, match=rf"gradient_graphs={parts} with model\.channels_last"):
            settings(tmp_path, f"rollout.gradient_graphs={parts}", *moved)
    settings(tmp_path, "rollout.gradient_graphs=rewards", *moved)


def test_gradient_graphs_change_nothing_on_a_cpu(pipelines, tmp_path):
    """There, their parts are launched as usual."""
    rewards = "{name: red, phi: linear}, {name: tiny, phi: linear}"
    norms = []
    for parts in ("no", "rewards", "all"):
        more = ("model.lora_rank=4", f"rollout.gradient_graphs={parts}")
        norms.append(make(pipelines("sd"), tmp_path, *more, reward=rewards).step(0).gradient_norm)
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-5)


FULL = ("model.lora_rank=0", "run.mixed_precision=bf16")


@pytest.mark.parametrize(
    ("family", "more", "parts"),
    [
        ("sd", ("model.lora_rank=4",), ["decoder", "denoiser", "rewards"]),
        ("sd", ("model.lora_rank=0",), ["rewards"]),
        ("sd", FULL, ["forward", "rewards"]),
        ("sd", (*FULL, "rollout.no_grad_graphs=false"), ["rewards"]),
        ("sd", (*FULL, "loss.distance_weight=1"), ["rewards"]),
        ("sd", (*FULL, "model.gradient_checkpointing=true"), ["rewards"]),
        ("sd", (*FULL, "rollout.gradient_checkpointing=false"), ["rewards"]),
        ("sd", (*FULL, "rollout.height=528"), ["forward", "rewards"]),
        ("sd", (*FULL, "strategy.name=draft", "strategy.k=2"), ["forward", "rewards"]),
        ("z-image", FULL, ["rewards"]),
        ("qwen-image", ("model.lora_rank=4",), ["rewards"]),
        ("sd", ("model.lora_rank=4", "rollout.height=528"), ["rewards"]),
        ("sd", ("run.mixed_precision=bf16", "rollout.height=528"), ["forward", "rewards"]),
        ("sd", ("model.lora_rank=4", "model.offload_text_encoders=true"), ["rewards"]),
        ("sd", ("model.lora_rank=4", "rollout.gradient_checkpointing=false"), ["rewards"]),
        ("sd", ("model.lora_rank=4", "model.gradient_checkpointing=true"), ["rewards"]),
        ("sd", ("model.lora_rank=4", "rollout.gradient_graphs=no"), []),
        ("sd", ("rollout.no_grad_dtype=bf16", "rollout.gradient_graphs=forward"), ["forward", "rewards"]),
        ("sd", ("rollout.no_grad_dtype=bf16", "rollout.height=528"), ["rewards"]),
        ("sd", ("model.lora_rank=4", "strategy.name=nft", "run.accumulation=4"), []),
        ("z-image", ("run.mixed_precision=bf16",), ["rewards"]),
    ],
    ids=str,
)  # fmt: skip
def test_parts_that_a_gpu_records(pipelines, tmp_path, family, more, parts):
    rewards = "{name: red, phi: linear, input: pixels}"
    graphs = make(pipelines(family), tmp_path, *more, reward=rewards).objective.gradient_graphs
    assert sorted(() if graphs is None else graphs.parts) == parts


def test_other_methods_of_a_reward_model_stay_as_they_are(pipelines, tmp_path):
    class Brighter(reward_core.RewardModel):
        def brightness(self, pixels, prompts):
            return pixels.mean((1, 2, 3)) + 0 * self.rewards_from_pixels(pixels, prompts)

    tiny = reward_core.load("tiny", device="cpu")
    model = Brighter(tiny.config, tiny.tokenizer)
    config = settings(tmp_path, "model.lora_rank=4", "run.cpu=true")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": model.brightness})
    assert trainer.objective.rewards.trained[0].recorded is None
    assert 0 < trainer.step(0).rewards["red"].mean < 1


@pytest.mark.slow
def test_decoding_and_rewards_in_bf16_are_close_to_float32(pipelines, tmp_path):
    exact = make(pipelines("sd"), tmp_path)
    half = make(
        pipelines("sd"), tmp_path, "rollout.decode_dtype=bf16", reward="{name: red, phi: linear, dtype: bf16}"
    )
    one, two = rewards_of(exact), rewards_of(half)
    assert 0 < (one - two).abs().max() < 0.1  # of -10 to 10
    images = [t.objective.generate(PROMPTS[:2], [0, 1]) for t in (exact, half)]
    assert torch.equal(*images)  # validations decode in float32
    assert half.step(0).finite


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_only_sdxl_decodes_in_float32_instead_of_fp16(pipelines, name):
    """force_upcast is true in diffusers by default, but only SDXL's VAE overflows."""
    family = load_family(pipelines(name))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    family.pipeline.vae.register_to_config(force_upcast=True)
    exact = family.decode(latents)
    assert torch.equal(family.decode(latents, dtype=torch.float16), exact) == (name == "sdxl")
    assert not torch.equal(family.decode(latents, dtype=torch.bfloat16), exact)
    family.pipeline.vae.register_to_config(force_upcast=False)
    assert not torch.equal(family.decode(latents, dtype=torch.float16), exact)

"""The half-precision copy for steps without gradient, and half precision in decoding and rewards."""

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings, train

import refl
from refl.errors import ConfigError
from refl.families import load_family
from refl.strategies import RolloutPlan
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
    copy = copied.objective.no_grad_copy
    assert {p.dtype for p in copy.module.parameters()} == {torch.bfloat16}
    before = [p.clone() for p in copy.module.parameters()]
    for number in range(2):  # LoRA's first step changes only one of its factors
        assert copied.step(number).finite
    exact.trainable.load_tensors(copied.trainable.tensors())
    copy.refresh()
    assert any(not torch.equal(p, q) for p, q in zip(before, copy.module.parameters()))

    latents = torch.randn(2, *copied.family.latent_shape(16, 16), generator=torch.Generator().manual_seed(0))
    condition = copied.family.encode(PROMPTS[:2], "" if copied.objective.guidance.scale != 1 else None)
    with torch.no_grad():
        inputs = (latents, 500.0, condition, copied.objective.guidance)
        theirs = exact.family.denoise(*inputs)
        ours, again = copy.denoise(*inputs), copied.family.denoise(*inputs)
    error = (ours - theirs).pow(2).mean().sqrt() / theirs.std()
    # Measured: 0.04 with guidance, which multiplies the rounding; below 0.02 without.
    assert 0 < error < (0.08 if copied.objective.guidance.scale != 1 else 0.04)
    # Steps with gradient and validation use the trained weights.
    assert torch.equal(again, theirs)
    images = [t.objective.generate(PROMPTS[:2], [0, 1]) for t in (exact, copied)]
    assert torch.equal(*images)


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
        ("rollout.no_grad_dtype=int8", "no_grad_dtype='int8': it must be one of \"\", auto, bf16, fp16"),
        ("rollout.no_grad_compile=true", "rollout.no_grad_compile: .* Set rollout.no_grad_dtype"),
        ("rollout.no_grad_graphs=true", "rollout.no_grad_graphs: .* Set rollout.no_grad_dtype"),
        ("rollout.decode_dtype=auto", "decode_dtype='auto': it must be one of \"\", bf16, fp16"),
        ("rewards=[{name: red, dtype: half}]", "rewards.dtype='half': it must be one of \"\", bf16, fp16"),
    ],
)
def test_impossible_precisions_are_refused(tmp_path, setting, message):
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, setting)


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


def test_a_vae_that_overflows_in_fp16_is_decoded_in_float32(pipelines):
    family = load_family(pipelines("sd"))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    family.pipeline.vae.register_to_config(force_upcast=True)
    exact = family.decode(latents)
    assert torch.equal(family.decode(latents, dtype=torch.float16), exact)
    assert not torch.equal(family.decode(latents, dtype=torch.bfloat16), exact)
    family.pipeline.vae.register_to_config(force_upcast=False)
    assert not torch.equal(family.decode(latents, dtype=torch.float16), exact)

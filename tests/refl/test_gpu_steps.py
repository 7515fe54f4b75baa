"""Training steps that suit a GPU: no waiting in steps, no double recomputation, scoped TF32."""

import pytest
import torch
from accelerate.state import AcceleratorState
from pageable_copies import PageableCopies
from torch.utils._python_dispatch import TorchDispatchMode
from toy_runs import PROMPTS, redness, settings

import refl
from refl.config.presets import PRESETS
from refl.denoising.rollout_plan import RolloutPlan
from refl.families import Guidance, load_family


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def make(model, folder, *more, reward=redness):
    AcceleratorState._reset_state(reset_partial_state=True)
    return refl.Trainer(model, PROMPTS, settings(folder, "run.cpu=true", *more), {"red": reward})


class Waits(TorchDispatchMode):
    """Records operations that would wait for a GPU: values read by Python, and tensors of Python values."""

    NAMES = ("_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.NAMES:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["sd", "sd-v", "sdxl", "sd3", "flux"])
def test_a_denoising_step_does_not_wait_for_the_gpu(pipelines, family):
    family = load_family(pipelines(family))
    latents = torch.randn(2, *family.latent_shape(16, 16))
    condition = family.encode(PROMPTS[:2], "" if family.part == "unet" else None)
    schedule = family.schedule(4, "", 16, 16)
    with torch.no_grad():
        output = family.denoise(latents, schedule.timesteps[0], condition, Guidance(3.0))  # fills caches
        with Waits() as waits:
            for i in (1, 2):
                output = family.denoise(latents, schedule.timesteps[i], condition, Guidance(3.0))
                schedule.step(latents, output, i, latents)
    assert not waits.found


@pytest.mark.parametrize(
    "more",
    [
        ("strategy.name=nft", "strategy.group=2"),
        ("strategy.name=grpo", "strategy.group=2"),
        ("strategy.name=srpo", "strategy.first=1", "strategy.last=3"),
        (),
    ],
    ids=["nft", "grpo", "srpo", "refl"],
)
def test_a_training_step_copies_without_waiting(pipelines, tmp_path, monkeypatch, more):
    config = settings(
        tmp_path, "run.cpu=true", "validation.prompts=0", *more, reward="{name: tiny, phi: linear}"
    )
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config)
    trainer.step(0)  # fills caches
    with PageableCopies(monkeypatch) as copies:
        trainer.step(1)
    assert not copies.found
    assert copies.uploads


def passes_of_a_block(trainer, plan):
    """Return the gradient and how often the last block of the denoiser ran."""
    count = []
    block = trainer.family.denoiser.up_blocks[-1].resnets[-1]
    hook = block.register_forward_pre_hook(lambda *_: count.append(1))
    loss = trainer.objective.loss(0, [0, 1], PROMPTS[:2], plan, []).loss
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainer.trainable.parameters)])
    hook.remove()
    return gradient, len(count)


@pytest.mark.slow
def test_the_only_gradient_step_is_recomputed_once(pipelines, tmp_path):
    one, two = RolloutPlan(3, (3,)), RolloutPlan(3, (2, 3), read="latents")
    plain = make(pipelines("sd"), tmp_path, "rollout.gradient_checkpointing=false")
    both = make(pipelines("sd"), tmp_path, "model.gradient_checkpointing=true")
    for plan, forwards, recomputed in ((one, 4, 5), (two, 4, 8)):  # many gradient steps save more memory
        expected, count = passes_of_a_block(plain, plan)
        assert count == forwards
        gradient, count = passes_of_a_block(both, plan)
        assert count == recomputed
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    for name in ("sdxl", "sdxl-lora"):
        assert PRESETS[name]["model"]["gradient_checkpointing"]


@pytest.mark.slow
def test_tf32_is_allowed_in_training_but_not_in_rewards(pipelines, tmp_path):
    seen = {}

    def allowed():
        return torch.backends.cuda.matmul.allow_tf32

    def reward(pixels, prompts):
        seen.setdefault("reward", []).append(allowed())
        return redness(pixels, prompts)

    before = allowed()
    trainer = make(pipelines("sd"), tmp_path, "run.tf32=true", "run.steps=1", reward=reward)
    assert allowed() == before
    trainer.family.denoiser.register_forward_pre_hook(
        lambda *_: seen.setdefault("denoiser", []).append(allowed())
    )
    trainer.train()
    assert set(seen["denoiser"]) == {True}
    assert set(seen["reward"]) == {False}
    assert allowed() == before

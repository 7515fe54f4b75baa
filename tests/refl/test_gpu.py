"""Training steps of refl on a CUDA GPU, in half precision."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings

import refl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one device and one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_changes_the_weights(pipelines, tmp_path, precision, rank):
    config = settings(tmp_path, f"run.mixed_precision={precision}", f"model.lora_rank={rank}")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": redness})
    assert trainer.accelerator.device.type == "cuda"
    assert (trainer.accelerator.scaler is not None) == (precision == "fp16")
    parameters = trainer.trainable.parameters
    before = [parameter.detach().clone() for parameter in parameters]
    metrics = trainer.step(0)
    for number in range(1, 12):  # a scaler starts high and skips steps until gradients are finite
        if metrics.finite or precision == "bf16":
            break
        metrics = trainer.step(number)
    assert metrics.finite
    assert math.isfinite(metrics.loss)
    assert metrics.gradient_norm > 0
    assert metrics.peak_memory_mb > 0
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    assert all(torch.isfinite(parameter).all() for parameter in parameters)
    assert any(not torch.equal(parameter, old) for parameter, old in zip(parameters, before))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_reward_model_trains_a_pipeline(pipelines, tmp_path, precision):
    config = settings(tmp_path, f"run.mixed_precision={precision}", reward="{name: tiny}")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config)
    trainer.train()
    rows = [row for row in trainer.metrics.read() if "loss" in row]
    assert len(rows) == 2
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["reward/tiny"]) for row in rows)


def test_offloaded_text_encoders_are_on_the_gpu_only_while_they_encode(pipelines, tmp_path):
    rewards = []
    for extra in ((), ("model.offload_text_encoders=true",)):
        config = settings(tmp_path, *extra)
        trainer = refl.Trainer(pipelines("sdxl"), PROMPTS, config, {"red": redness})
        rewards.append([trainer.step(number).rewards["red"].mean for number in range(2)])
    encoder = trainer.family.pipeline.text_encoder_2
    assert {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())} == {"cpu"}
    with trainer.family.encoding():
        assert {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())} == {"cuda"}
    assert rewards[0] == pytest.approx(rewards[1], abs=0.01)


def recorded_trainer(model, folder, *more):
    options = ("run.mixed_precision=bf16", "model.lora_rank=4", "rollout.no_grad_dtype=bf16")
    config = settings(folder, *options, "rollout.no_grad_graphs=true", *more)
    return refl.Trainer(model, PROMPTS, config, {"red": redness})


def check_recorded(copy):
    assert copy.recorded
    for function in copy.recorded.values():
        assert function.shapes
        assert all(shape.run is not None for shape in function.shapes.values()), function.failed


@pytest.mark.filterwarnings("error::reward_core.errors.CompilationWarning")
@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["plain", "guidance"])
def test_recorded_steps_equal_launched_ones(pipelines, tmp_path, scale):
    """The graph replays after two steps, and follows the weights."""
    more = (f"rollout.guidance_scale={scale}",)
    rewards = []
    for graphs in ("rollout.no_grad_graphs=false", "rollout.no_grad_graphs=true"):
        trainer = recorded_trainer(pipelines("sd"), tmp_path / graphs, *more, graphs)
        rewards.append([trainer.step(number).rewards["red"].mean for number in range(6)])
    assert rewards[0] == pytest.approx(rewards[1], abs=0.01)
    check_recorded(trainer.objective.no_grad_copy)


@pytest.mark.filterwarnings("error::reward_core.errors.CompilationWarning")
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("sd", ("model.lora_rank=4", "run.mixed_precision=bf16")),
        ("sd", ("model.lora_rank=4", "run.mixed_precision=fp16", "rollout.guidance_scale=3")),
        ("sd", ("model.lora_rank=0", "run.accumulation=3")),
        ("sd", ("model.lora_rank=0", "run.mixed_precision=bf16", "rollout.no_grad_dtype=bf16")),
        ("sd", ("model.lora_rank=0", "run.mixed_precision=fp16", "run.accumulation=2",
                "rollout.no_grad_dtype=fp16")),
        ("sd", ("model.lora_rank=4", "model.vae_tiling=true")),
        ("flux2", ("model.lora_rank=4",)),
        ("sd", ("model.lora_rank=4", "strategy.name=alignprop", "rollout.negative_gradient=false",
                "rollout.guidance_scale=3")),
        ("sdxl", ("model.lora_rank=4", "model.gradient_checkpointing=true")),
        ("sd", ("model.lora_rank=4", "strategy.name=srpo", "strategy.discount_inversion=[]",
                "run.accumulation=2")),
        ("sd3", ("model.lora_rank=4",)),
        ("flux", ("model.lora_rank=4",)),
    ],
    ids=str,
)  # fmt: skip
def test_recorded_gradient_steps_equal_launched_ones(pipelines, tmp_path, family, more):
    """Gradients, and after some steps the weights, which a graph that kept old weights would change."""
    tolerance = 0.25 if any("mixed_precision" in setting for setting in more) else 0.02
    more = ("rollout.no_grad_dtype=no", "run.tf32=false", "optimizer.lr=1e-3", *more)
    reward = "{name: red, phi: linear}, {name: tiny, phi: linear}"

    def make(graphs):
        config = settings(tmp_path / graphs, *more, f"rollout.gradient_graphs={graphs}", reward=reward)
        return refl.Trainer(pipelines(family), PROMPTS, config, {"red": redness})

    def weights(trainer):
        return torch.cat([parameter.detach().flatten() for parameter in trainer.trainable.parameters])

    norms, rewards, changes, start = [], [], [], weights(make("no"))
    for parts in ("no", "all"):
        trainer = make(parts)
        steps = [trainer.step(number) for number in range(8)]
        norms.append([step.gradient_norm for step in steps if step.finite])
        rewards.append([step.rewards["red"].mean for step in steps])
        changes.append(weights(trainer) - start)
        graphs = trainer.objective.gradient_graphs
        recorded = [] if graphs is None else [graphs.denoiser, graphs.decoder]
        for part in recorded:
            assert part.recorded is not None, part.failed
        if graphs is not None:
            gradient = trainer.objective.rewards.trained[1].recorded.gradient
            assert gradient.recorded is not None, gradient.failed
    assert norms[1] == pytest.approx(norms[0], rel=tolerance)
    assert rewards[1] == pytest.approx(rewards[0], abs=0.01)
    assert torch.cosine_similarity(*changes, dim=0) > 0.95


@pytest.mark.filterwarnings("error::reward_core.errors.CompilationWarning")
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_forward_passes_of_the_copy_change_steps_little(pipelines, tmp_path, rank):
    """The trained denoiser is in float32; the recorded copy in bf16 computes the forward passes."""
    more = (f"model.lora_rank={rank}", "rollout.no_grad_dtype=bf16", "run.tf32=false", "optimizer.lr=1e-3")
    norms, changes = [], []
    for parts in ("no", "forward"):
        config = settings(tmp_path / parts, *more, f"rollout.gradient_graphs={parts}")
        trainer = refl.Trainer(pipelines("sd"), PROMPTS, config, {"red": redness})
        before = [parameter.detach().clone() for parameter in trainer.trainable.parameters]
        norms.append([trainer.step(number).gradient_norm for number in range(6)])
        moved = [p.detach() - old for p, old in zip(trainer.trainable.parameters, before)]
        changes.append(torch.cat([change.flatten() for change in moved]))
        check_recorded(trainer.objective.no_grad_copy)
    assert norms[1] == pytest.approx(norms[0], rel=0.1)
    assert torch.cosine_similarity(*changes, dim=0) > 0.95


@pytest.mark.filterwarnings("error::reward_core.errors.CompilationWarning")
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_parts_of_a_step_are_recorded_by_default(pipelines, tmp_path, rank):
    more = f"model.lora_rank={rank}", "run.mixed_precision=bf16"
    config = settings(tmp_path, *more, reward="{name: tiny, dtype: bf16}")
    trainer = refl.Trainer(pipelines("sd"), PROMPTS, config)
    for number in range(4):
        metrics = trainer.step(number)
        assert metrics.finite
    assert metrics.peak_memory_mb > torch.cuda.max_memory_allocated() / 2**20  # unused memory of graphs
    objective = trainer.objective
    parts = [objective.rewards.trained[0].recorded.gradient]
    if rank:
        parts += [objective.gradient_graphs.denoiser, objective.gradient_graphs.decoder]
    else:  # one memory for all graphs
        assert objective.gradient_graphs.memory is objective.no_grad_copy.memory
    assert all(part.recorded is not None for part in parts), [part.failed for part in parts]
    check_recorded(objective.no_grad_copy)


@pytest.mark.filterwarnings("error::reward_core.errors.CompilationWarning")
@pytest.mark.parametrize(
    ("family", "scale"), [("sd", 1.0), ("sd", 3.0), ("sdxl", 3.0), ("sd3", 3.0), ("flux", 1.0)]
)
def test_a_graph_follows_a_large_change_of_the_weights(pipelines, tmp_path, family, scale):
    trainer = recorded_trainer(pipelines(family), tmp_path, f"rollout.guidance_scale={scale}")
    copy, family = trainer.objective.no_grad_copy, trainer.family
    condition = family.encode(PROMPTS[:3], "" if scale != 1 else None)
    latents = torch.randn(3, *family.latent_shape(16, 16), device=trainer.accelerator.device)

    def outputs(timestep):
        copy.refresh()
        recorded = [copy.denoise(latents, timestep, condition, trainer.objective.guidance) for _ in range(4)]
        copy.graphs = False
        launched = copy.denoise(latents, timestep, condition, trainer.objective.guidance)
        copy.graphs = True
        return recorded, launched

    with torch.no_grad():
        before, launched_before = outputs(500.0)
        check_recorded(copy)
        for parameter in trainer.trainable.parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        after, launched_after = outputs(250.0)
    check_recorded(copy)
    # A graph that kept the weights of before would be seen.
    assert (launched_after - launched_before).abs().max() > 0.1 * launched_before.std()
    for recorded, launched in ((before, launched_before), (after, launched_after)):
        for output in recorded:
            assert (output - launched).abs().max() < 0.05 * launched.std()

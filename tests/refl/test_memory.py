"""The memory estimate of a dry run."""

import random

import pytest
from accelerate.state import AcceleratorState
from toy_runs import PROMPTS, redness, settings

import refl
from refl.config.rollout_plans import plan_rollout
from refl.memory.estimate import GB, Memory, estimate_memory
from refl.memory.peak import unused_by_graphs


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one precision per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def estimate(model, folder, *more):
    AcceleratorState._reset_state(reset_partial_state=True)
    config = settings(folder, "run.cpu=true", *more)
    trainer = refl.Trainer(model, PROMPTS, config, {"red": redness})
    plan = plan_rollout(config.strategy, config.rollout.steps, random.Random(0))
    return trainer, estimate_memory(trainer.objective, plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        "sd",
        "flux",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("sdxl", "sd3", "flux2", "z-image", "qwen-image")
        ),
    ],
)
def test_parts_follow_from_the_sizes(pipelines, tmp_path, family):
    trainer, memory = estimate(pipelines(family), tmp_path, "model.lora_rank=0", "optimizer.ema_decay=0.9")
    trained = 4 * sum(p.numel() for p in trainer.trainable.parameters)
    assert memory.parts["gradients"] == memory.parts["moving average"] == trained
    assert memory.parts["optimizer"] == 2 * trained
    assert memory.parts["weights"] > trained
    assert memory.activations > 0
    assert trainer.step(0).finite  # the estimate leaves the model as it was


def test_gradients_are_in_half_precision_if_each_weight_gets_one(pipelines, tmp_path):
    full = ("model.lora_rank=0", "run.mixed_precision=bf16")
    trainer, memory = estimate(pipelines("sd"), tmp_path, *full)
    weights = trainer.objective.half_weights.parameters.values()
    assert memory.parts["gradients"] == sum(p.numel() * p.element_size() for p in weights)
    assert memory.parts["gradients"] < 0.51 * 4 * sum(p.numel() for p in weights)
    single = estimate(pipelines("sd"), tmp_path, *full, "rollout.no_grad_dtype=no")[1]
    assert memory.activations < single.activations  # no weights are cast
    summed = estimate(pipelines("sd"), tmp_path, *full, "run.accumulation=2")[1]
    assert summed.parts["gradients"] == single.parts["gradients"]


@pytest.mark.slow
def test_settings_that_save_memory_lower_the_estimate(pipelines, tmp_path):
    def activations(*more):
        return estimate(pipelines("sd"), tmp_path, *more)[1].activations

    kept = activations("rollout.gradient_checkpointing=false")
    launched = activations("rollout.gradient_graphs=no")
    assert launched < kept
    usual = estimate(pipelines("sd"), tmp_path, "rollout.gradient_graphs=no")[1]
    for parts in ("denoiser", "all"):
        recorded = estimate(pipelines("sd"), tmp_path, f"rollout.gradient_graphs={parts}")[1]
        assert recorded.parts["CUDA graphs"] > 0 == usual.parts["CUDA graphs"]
        assert recorded.peak > usual.peak
        assert recorded.accumulates  # its gradients stay allocated
        more = f"rollout.gradient_graphs={parts}", "run.accumulation=2"
        assert estimate(pipelines("sd"), tmp_path, *more)[1].parts["gradients"] == (
            2 * recorded.parts["gradients"]
        )
    assert activations("rollout.gradient_checkpointing=false", "run.mixed_precision=bf16") < kept
    assert activations("rollout.gradient_checkpointing=false", "run.batch_size=4") == pytest.approx(2 * kept)
    by_block = ("rollout.gradient_checkpointing=false", "model.gradient_checkpointing=true")
    assert activations(*by_block) < kept
    copied = estimate(pipelines("sd"), tmp_path, "rollout.no_grad_dtype=bf16", "model.lora_rank=0")[1]
    assert copied.parts["copy for steps without gradient"] == copied.parts["gradients"] / 2


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_vae_is_counted_in_the_dtype_in_which_it_decodes(pipelines, tmp_path, family):
    launched = "rollout={gradient_graphs: no, gradient_checkpointing: false}"
    trainer, single = estimate(pipelines(family), tmp_path, launched)
    assert trainer.family.pipeline.vae.config.force_upcast
    half = estimate(pipelines(family), tmp_path, launched, "rollout.decode_dtype=fp16")[1]
    assert (half.activations == single.activations) == (family == "sdxl")


def test_offloaded_text_encoders_are_not_on_the_gpu(pipelines, tmp_path):
    launched = "rollout.gradient_graphs=no"
    trainer, usual = estimate(pipelines("sdxl"), tmp_path, launched)
    offloaded = estimate(pipelines("sdxl"), tmp_path, launched, "model.offload_text_encoders=true")[1]
    encoders = (trainer.family.pipeline.text_encoder, trainer.family.pipeline.text_encoder_2)
    size = sum(p.numel() * p.element_size() for encoder in encoders for p in encoder.parameters())
    assert usual.parts["weights"] - offloaded.parts["weights"] == size > 0
    assert offloaded.activations == usual.activations  # larger than the encoders, which come first


def test_gradients_add_to_the_peak_only_if_microsteps_accumulate():
    parts = {"weights": 10.0, "gradients": 4.0}
    assert Memory(parts, 20.0).peak == pytest.approx(14 + 23)
    assert Memory(parts, 20.0, accumulates=False).peak == pytest.approx(10 + 23)
    assert Memory(parts, 2.0, accumulates=False).peak == pytest.approx(14)  # the gradients alone


def test_the_text_says_which_gpus_suffice():
    text = str(Memory({"weights": 10.0 * GB, "gradients": 0.0}, 20.0 * GB))
    assert text == (
        "memory (estimate, not measured): 34.0 GiB (10.0 weights, 23.0 activations). GPU of 24 GB: "
        "too small, 80 GB: fits"
    )


@pytest.mark.parametrize(
    ("total", "answers"), [(23.4, "fits, fits"), (23.7, "too small, fits"), (79.5, "too small, too small")]
)
def test_not_all_memory_of_a_gpu_can_be_used(total, answers):
    weights = (total - 1) * GB  # 1 GB of CUDA's own
    cards = str(Memory({"weights": weights, "gradients": 0.0}, 0.0)).split("GPU of ")[1]
    small, large = answers.split(", ")
    assert cards == f"24 GB: {small}, 80 GB: {large}"


def test_all_memory_of_graphs_counts():
    usual = {"segment_pool_id": (0, 0), "total_size": 100, "allocated_size": 30}
    of_graph = {"segment_pool_id": [0, 1], "total_size": 50, "allocated_size": 20}
    assert unused_by_graphs([usual, of_graph, of_graph]) == 60
    assert unused_by_graphs([usual]) == 0

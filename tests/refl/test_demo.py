"""The bundled tiny pipeline, and a small run of the demo."""

import json
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from refl.config.checks import check_config
from refl.config.rollout_plans import plan_rollout
from refl.demo.figures import curve_figure
from refl.demo.recipe import PIPELINE, SHORT_ROLLOUTS, DemoSize, demo_config, known_prompts
from refl.demo.scenes import captioned_images, sample_prompts
from refl.demo.truth import interval, read_truths
from refl.families import load_family
from reward_core import shapes


@pytest.fixture(scope="module")
def pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_pipeline_is_small_and_has_a_card():
    weights = sum(file.stat().st_size for file in PIPELINE.rglob("*.safetensors"))
    assert weights <= 10e6
    assert "alignment" in (PIPELINE / "README.md").read_text(encoding="utf-8")


def test_every_word_is_one_token_and_no_prompt_is_truncated(pipeline):
    tokenizer = pipeline.tokenizer
    for word in shapes.VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3, word  # with start and end
    longest = "to the left of a big orange triangle there is a big yellow triangle"
    assert len(tokenizer(longest).input_ids) <= tokenizer.model_max_length


@pytest.mark.slow
def test_plain_diffusers_generates_images_of_unseen_prompts(pipeline):
    """Images align with their own prompts far better than with those of others."""
    prompts = sample_prompts(24, 3, "held_out", pair_share=0.0)
    generated = pipeline(
        prompts,
        num_inference_steps=20,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    images = torch.from_numpy((generated * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)
    right = read_truths(images, prompts).alignment.mean()
    wrong = read_truths(images, prompts[5:] + prompts[:5]).alignment.mean()
    assert right > 0.5
    assert right > wrong + 0.25


@pytest.mark.slow
def test_the_tiny_autoencoder_preserves_the_shapes():
    family = load_family(PIPELINE)
    images, prompts = zip(*captioned_images(24, 5, "held_out"))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    decoded = family.decode(family.encode_pixels(pixels, torch.zeros(())))
    assert read_truths((decoded * 255).round().to(torch.uint8), prompts).alignment.mean() > 0.97


def test_training_images_are_correct_and_belong_to_their_split():
    for split in ("train", "held_out"):
        images, prompts = zip(*captioned_images(40, 1, split))
        truths = read_truths(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), prompts)
        assert truths.utility.mean() > 0.99
        assert truths.count.all()
        assert truths.colors.all()
        assert truths.shapes.all()
        assert {shapes.split_of(shapes.parse(prompt)) for prompt in prompts} == {split}


def test_more_pairs_to_train_on_leave_the_validation_prompts_as_they_are():
    size = DemoSize()
    usual, more = known_prompts(size, 3), known_prompts(SHORT_ROLLOUTS, 3)
    assert more[size.train_prompts :] == usual[size.train_prompts :]
    assert len(set(more)) == len(more) == size.train_prompts + size.validation_prompts
    pairs = [sum(len(shapes.parse(p).things) == 2 for p in prompts[:800]) / 800 for prompts in (usual, more)]
    assert pairs[1] > pairs[0] + 0.1


def test_short_rollouts_cost_as_many_denoiser_passes_as_the_usual_ones():
    """With guidance: 2 passes per step without gradient, 6 with gradient, and 3 per captioned image."""

    def passes(size):
        config = check_config(demo_config(Path("out"), Path("images.tar"), size, 0))
        plans = [plan_rollout(config.strategy, config.rollout.steps, random.Random(n)) for n in range(400)]
        rollout = np.mean([2 * plain + 6 * graded for plain, graded in (plan.cost() for plan in plans)])
        return size.steps * (size.batch_size * rollout + 3 * config.loss.pretraining_batch_size)

    assert passes(SHORT_ROLLOUTS) == pytest.approx(passes(DemoSize()), rel=0.02)
    assert demo_config(Path("out"), Path("images.tar"), SHORT_ROLLOUTS, 0).validation.steps == 20


def test_intervals_contain_the_mean_and_shrink_with_the_sample():
    values = np.random.default_rng(0).normal(size=(400, 1))
    mean, low, high = interval(values)
    assert low < mean < high
    assert high - low == pytest.approx(4 * values.std() / 20, rel=0.1)


def test_too_many_prompts_are_refused():
    known = sample_prompts(48, 0, "held_out", pair_share=0.0)  # all that exist
    with pytest.raises(ValueError, match=r"Cannot sample 2 distinct prompts .* found only 1\."):
        sample_prompts(2, 0, "held_out", pair_share=0.0, without=frozenset(known[1:]))


@pytest.fixture(scope="module")
def demo(tmp_path_factory, warm_training_python):
    folder = tmp_path_factory.mktemp("demo")
    done = warm_training_python.run(["-m", "refl.demo", "--small", "--json", "--out", folder])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder / "small" / "seed-0"


@pytest.mark.slow
def test_the_demo_report_is_complete(demo):
    report, folder = demo
    expected_keys = {
        *("reward_before", "reward_after", "oracle_before", "oracle_after", "control_after"),
        *("win_rate", "win_low", "win_high", "win_rate_control", "win_low_control", "best_truth"),
        *("stopped_truth", "curves", "versions", "machine", "settings", "seconds", "intervals"),
    }
    assert expected_keys <= report.keys()
    assert report["win_low"] <= report["win_rate"] <= report["win_high"]
    assert report["stopped_truth"] <= report["best_truth"]
    assert {len(curve) for curve in report["curves"].values()} == {3}  # before, halfway, after
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
    for name in ("grid.png", "curve.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 5


def test_each_panel_of_the_curves_has_one_labeled_axis():
    point = {"step": 0, "tiny": 0.5, "tiny-judge": 0.9, "truth": 0.7, "diversity": 0.1}
    curves = {name: [point, point | {"step": 30}] for name in ("refl", "control")}
    figure = curve_figure(curves, saved_step=30)
    figure.draw_without_rendering()  # lays the panels out
    for first, second in combinations(figure.axes, 2):
        assert not first.get_window_extent().overlaps(second.get_window_extent())
    assert [axis.get_ylabel() for axis in figure.axes] == ["reward", "truth (utility)", "diversity"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"refl: tiny", "control: truth", "saved weights"} <= set(labels)


@pytest.mark.slow
def test_the_learned_reward_rises_and_by_more_than_the_control(demo):
    """On 4 validation images; measured 0.58 -> 0.97 after 4 steps, the control 0.53."""
    report, _ = demo
    refl, control = (report["curves"][name] for name in ("refl", "control"))
    assert refl[0]["tiny"] == control[0]["tiny"]
    assert refl[-1]["tiny"] > refl[0]["tiny"] + 0.05
    assert refl[-1]["tiny"] > control[-1]["tiny"] + 0.05


@pytest.mark.slow
def test_the_truth_is_held_out(demo):
    report, _ = demo
    weights = {reward["name"]: reward["weight"] for reward in report["settings"]["rewards"]}
    assert weights == {"tiny": 1.0, "tiny-judge": 0.0, "truth": 0.0}
    assert report["settings"]["validation"]["stop_reward"] == "tiny-judge"


@pytest.mark.slow
def test_usage_errors_are_one_line(warm_training_python, tmp_path):
    (tmp_path / "file").write_text("")
    done = warm_training_python.run(["-m", "refl.demo", "--small", "--out", tmp_path / "file"])
    assert done.returncode == 2
    assert "Cannot write to" in done.stderr
    done = warm_training_python.run(["-m", "refl.demo", "--help"])
    assert done.stdout.startswith("usage: python -m refl.demo ")

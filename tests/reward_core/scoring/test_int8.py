"""precision="int8", and the fused bfloat16 path, compared with exact scores on a CPU."""

import copy
import warnings

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core import shapes
from reward_core.errors import InputError, RoundedWeightsWarning
from reward_core.network.cpu_library import cpp_compiler
from reward_core.network.cpu_ops import packing_works
from reward_core.scoring import kernel_choice
from reward_core.scoring.fast_path import PlainPath
from reward_core.scoring.precision import check_int8


def supported() -> list[str]:
    """Return the precisions below exact that fused encoders compute on this CPU."""
    found = ["fast"] if packing_works() else []
    try:
        check_int8(torch.device("cpu"))
    except InputError:
        return found
    return [*found, "int8"]


needs_int8 = pytest.mark.skipif("int8" not in supported(), reason="this CPU has no instructions for int8")


@pytest.fixture(autouse=True)
def no_kernels_on_disk(tmp_path, monkeypatch):
    """Let every test start with the kernels of torch."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def pairs() -> tuple[list[str], list[Image.Image]]:
    groups = [(g.prompt, Image.fromarray(p)) for g in shapes.make_groups(8, start=5) for p in g.images]
    prompts, images = zip(*groups)
    return list(prompts), list(images)


@pytest.fixture(scope="module")
def exact() -> RM.RewardModel:
    return RM.load("tiny", device="cpu")


def load(precision: str) -> RM.RewardModel:
    """Return the tiny model with fused encoders, even on a CPU without bfloat16 units."""
    if precision == "int8":
        return RM.load("tiny", device="cpu", precision="int8")
    model = RM.load("tiny", device="cpu", precision="fast")
    model.set_encoder_dtype(torch.bfloat16)
    return model


# Measured: largest difference 0.02 and 0.07 of the deviation.
@pytest.mark.slow
@pytest.mark.parametrize("precision", supported())
def test_fused_scores_agree_with_exact_ones(exact, pairs, precision):
    prompts, images = pairs
    expected, model = exact.score_pairs(prompts, images), load(precision)
    tolerance = {"fast": 0.05, "int8": 0.15}[precision] * expected.std()
    for compiled in (False, True):
        if compiled:
            assert model.warm_up() == (cpp_compiler() is not None)
        rewards = model.score_pairs(prompts, images)
        assert (rewards - expected).abs().max() < tolerance
        assert torch.corrcoef(torch.stack([rewards, expected]))[0, 1] > 0.998
        assert not torch.equal(rewards, expected)  # the fused encoders computed them
        one_by_one = model.score_pairs(prompts[:5], images[:5], batch_size=1)
        assert torch.allclose(one_by_one, rewards[:5], atol=float(tolerance) / 2)
        # Several prompts of an image, of different lengths.
        matrix = model.score_matrix(prompts[:20:5], images[:3])
        assert (matrix - exact.score_matrix(prompts[:20:5], images[:3])).abs().max() < tolerance


@needs_int8
def test_int8_agrees_with_exact_on_a_cpu_without_bfloat16_units(exact, pairs, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx_vnni": True}, raising=False)
    prompts, images = (part[:12] for part in pairs)
    expected = exact.score_matrix(prompts[::4], images)
    rewards = load("int8").score_matrix(prompts[::4], images)
    assert (rewards - expected).abs().max() < 0.15 * expected.std()  # measured: 0.03
    assert not torch.equal(rewards, expected)


@pytest.mark.parametrize("precision", supported())
def test_changed_weights_are_used_by_fused_encoders(pairs, precision):
    prompts, images = (part[:3] for part in pairs)
    model = load(precision)
    before = model.score_pairs(prompts, images)
    with torch.no_grad():
        model.blip.visual_encoder.blocks[0].mlp.fc1.weight *= 1.5
        model.blip.text_encoder.encoder.layer[-1].output.dense.weight *= 1.5
    after = model.score_pairs(prompts, images)
    assert not torch.allclose(after, before, atol=1e-2)
    assert torch.allclose(copy.deepcopy(model).score_pairs(prompts, images), after, atol=1e-3)


@needs_int8
def test_an_int8_model_saves_exact_weights_and_trains_in_float32(exact, pairs, tmp_path):
    prompts, images = (part[:2] for part in pairs)
    model = load("int8")
    model.score_pairs(prompts, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoundedWeightsWarning)
        model.save_pretrained(tmp_path)
    saved = RM.load(tmp_path, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), exact.parameters()))
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.rewards_from_pixels(pixels, prompts), exact.rewards_from_pixels(pixels, prompts))
    assert type(model.train().path()) is PlainPath


def test_int8_is_refused_where_it_is_not_supported(exact, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="Cannot use precision 'int8' on cuda: it is for CPUs"):
        check_int8(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    with pytest.raises(InputError, match="on this CPU: it has none of amx_int8, avx512_vnni, avx_vnni"):
        RM.load("tiny", device="cpu", precision="int8")


@pytest.mark.skipif(not packing_works() or cpp_compiler() is None, reason="needs bfloat16 and a compiler")
def test_kernels_are_compiled_once_that_pays(pairs, monkeypatch):
    prompts, images = (part[:2] for part in pairs)
    model = load("fast")
    model.score_pairs(prompts, images)
    kernels = model.path().kernels
    assert not kernels.compiled
    monkeypatch.setattr(kernel_choice, "SECONDS_BEFORE_COMPILING", 0.0)
    model.score_pairs(prompts, images)
    assert kernels.compiled


@needs_int8
def test_the_command_scores_in_int8(command, pairs, exact, tmp_path):
    prompts, images = pairs
    images[0].save(tmp_path / "a.png")
    done = command("rank", prompts[0], str(tmp_path / "a.png"), "--model", "tiny", "--precision", "int8")
    assert done.returncode == 0, done.stderr


@needs_int8
def test_exact_and_int8_in_a_group_compute_features_of_their_own(exact, pairs):
    prompts, images = pairs
    int8 = load("int8")
    group = RM.ScorerGroup({"exact": exact, "int8": int8})
    assert len(group.lanes()) == 2
    together = group.score_pairs(prompts, images)
    alone = int8.score_pairs(prompts, images)
    assert (together["exact"] - exact.score_pairs(prompts, images)).abs().max() < 2e-5
    assert (together["int8"] - alone).abs().max() < 0.01 * (alone - together["exact"]).abs().max()

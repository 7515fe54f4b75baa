"""The fast path compared with the exact one on a CPU."""

import copy
import math
import pickle
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core import shapes
from reward_core.errors import CompilationWarning, InputError
from reward_core.inputs.decode_ahead import DecodingThreads
from reward_core.models.imagereward.fast_path import (
    RewardFastPath,
    buckets,
    fused_cross_attention_kv,
    fused_head,
    split_kv,
)
from reward_core.runs import cpus
from reward_core.scoring import cpu
from reward_core.scoring.compiling import CompiledByShape, CompilePlan
from reward_core.scoring.pipeline import ahead

PROMPTS = ["a red house by the ocean", "portrait of a dog", "night city, high quality photo"]


@pytest.fixture(scope="module")
def images(parity) -> list[str]:
    return [str(parity / "images" / name) for name in ("rgb.png", "cmyk.jpg", "onebit.png", "gray_64x93.png")]


@pytest.fixture
def fast(parity) -> RM.RewardModel:
    """Return a float32 model with the fast path, which must agree closely."""
    model = RM.load(parity / "state_dict.pt", device="cpu")
    model.fast = True
    return model


def as_on_a_gpu(model: RM.RewardModel, **plan) -> RM.RewardModel:
    """Return a model with the GPU's fast path: fused keys and values, padded prompts."""
    model._path = RewardFastPath(model, CompilePlan(**{"seconds": math.inf, "saves": 1, **plan}), on_gpu=True)
    return model


# In float32 only the order of additions differs. Measured: 2e-6 on rewards with a deviation of 1.


def test_fused_head_is_the_head(model):
    feature = torch.randn(50, model.config.text.hidden_size, generator=torch.Generator().manual_seed(0))
    weight, bias = fused_head(model.mlp)
    assert (feature @ weight + bias - model.mlp(feature)).abs().max() < 5e-5


def test_one_linear_layer_computes_all_keys_and_values(model):
    tokens = torch.randn(2, 10, model.config.vision.width, generator=torch.Generator().manual_seed(0))
    weight, bias = fused_cross_attention_kv(model.blip.text_encoder)
    fused = torch.nn.functional.linear(tokens, weight, bias)
    ids, mask = model.tokenizer(PROMPTS[:2])
    assert torch.allclose(
        model.rewards_from_kv(split_kv(fused, model.config.text.hidden_size), ids, mask),
        model.rewards_from_kv(model.project_kv(tokens), ids, mask),
        atol=1e-5,
    )


def test_scoring_methods_agree_on_both_paths(model, fast, images):
    for changed in (fast, as_on_a_gpu(copy.deepcopy(fast))):
        assert isinstance(changed.path(), RewardFastPath)
        expected = model.score_matrix(PROMPTS, images)
        assert torch.allclose(changed.score_matrix(PROMPTS, images), expected, atol=1e-5)
        pairs = changed.score_pairs(PROMPTS, images[:3], batch_size=2)
        assert torch.allclose(pairs, expected[:, :3].diagonal(), atol=1e-5)


def test_changed_weights_are_detected(model, fast, images):
    as_on_a_gpu(fast)
    before = fast.score(PROMPTS[0], images)
    with torch.no_grad():
        fast.mlp.layers[-1].bias += 1
        for layer in fast.blip.text_encoder.encoder.layer:
            layer.crossattention.self["value"].weight *= 2
    changed = copy.deepcopy(model)
    changed.load_state_dict(fast.state_dict())
    assert fast.score(PROMPTS[0], images) == pytest.approx(changed.score(PROMPTS[0], images), abs=5e-5)
    assert fast.score(PROMPTS[0], images) != pytest.approx(before, abs=1e-2)


DATA_UPDATES = {
    "in place": lambda weight: weight.data.mul_(2),
    "a copy": lambda weight: weight.data.copy_(weight.detach() * 2),
    "another tensor": lambda weight: setattr(weight, "data", weight.detach() * 2),
    "one row": lambda weight: weight.data[0].mul_(9),
    "an expanded tensor": lambda weight: setattr(weight, "data", weight.detach()[:, :1].expand_as(weight)),
}


@pytest.mark.parametrize("update", DATA_UPDATES.values(), ids=DATA_UPDATES)
def test_weights_changed_through_data_are_detected(model, fast, images, update):
    as_on_a_gpu(fast)
    before = fast.score(PROMPTS[0], images)
    attention = fast.blip.text_encoder.encoder.layer[0].crossattention.self
    for weight in (fast.mlp.layers[0].weight, attention["value"].weight):
        update(weight)
        expected = copy.deepcopy(fast)
        assert fast.score(PROMPTS[0], images) == pytest.approx(expected.score(PROMPTS[0], images), abs=5e-5)
    assert fast.score(PROMPTS[0], images) != pytest.approx(before, abs=1e-4)


def test_features_are_refused_after_weights_changed_through_data(fast, images):
    features = fast.encode_images(images[:1])
    fast.score_matrix(PROMPTS[:1], features)
    fast.blip.visual_encoder.pos_embed.data.mul_(2)
    with pytest.raises(RM.errors.InputError, match="of another model"):
        fast.score_matrix(PROMPTS[:1], features)


def test_a_model_created_in_inference_mode_scores(model, parity, images):
    with torch.inference_mode():
        fast = RM.load(parity / "state_dict.pt", device="cpu", precision="fast")
        fast.score(PROMPTS[0], images)
    # In 16 bits if the processor supports them. Measured: 0.006.
    assert fast.score(PROMPTS[0], images) == pytest.approx(model.score(PROMPTS[0], images), abs=0.05)


def test_a_fast_model_can_be_copied_and_pickled(fast, images):
    # A copy starts uncompiled, so it may use other kernels than the original.
    expected = pytest.approx(fast.score(PROMPTS[0], images), abs=5e-5)
    assert copy.deepcopy(fast).score(PROMPTS[0], images) == expected
    assert pickle.loads(pickle.dumps(fast)).score(PROMPTS[0], images) == expected


def test_rewards_do_not_depend_on_their_batch(fast, model, images):
    prompts, drawn = PROMPTS + PROMPTS[:1], images
    for scorer in (model, fast, as_on_a_gpu(copy.deepcopy(fast))):
        whole = scorer.score_pairs(prompts, drawn)
        for size in (1, 2, 3):
            assert torch.allclose(scorer.score_pairs(prompts, drawn, batch_size=size), whole, atol=1e-5)
        order = [2, 0, 3, 1]
        shuffled = scorer.score_pairs([prompts[i] for i in order], [drawn[i] for i in order])
        assert torch.allclose(shuffled, whole[order], atol=1e-5)


@pytest.mark.slow
def test_16_bit_rewards_hardly_depend_on_their_batch():
    """Kernels for another shape add in another order, then round to 8 bits of mantissa."""
    model = RM.load("tiny", device="cpu", precision="fast")
    groups = [(g.prompt, Image.fromarray(p)) for g in shapes.make_groups(6, start=5) for p in g.images]
    prompts, images = (list(part) for part in zip(*groups))
    whole = model.score_pairs(prompts, images, batch_size=len(images))
    for size in (1, 3):
        apart = model.score_pairs(prompts, images, batch_size=size) - whole
        assert apart.abs().max() < 0.05 * whole.std()


def test_prompts_are_padded_to_few_lengths(fast, images):
    as_on_a_gpu(fast)
    seen = []
    inner = fast.path().compiled_pairs.function
    fast.path().compiled_pairs.function = lambda features, ids, mask: (
        seen.append(tuple(ids.shape)) or inner(features, ids, mask)
    )
    fast.score_pairs([" ".join(["red"] * n) for n in (1, 5, 9)] + [PROMPTS[0]], images, batch_size=1)
    assert {length for _, length in seen} <= set(buckets(fast.config.max_length))
    assert buckets(35) == (16, 35)
    assert buckets(16) == (16,)


# Compiling


@pytest.mark.slow
def test_inductor_compiles_and_agrees(model, fast, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # Inductor compiles a program for each vector extension of this CPU to see whether it can: 10 s.
    monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", True)
    expected = model.score_matrix(PROMPTS, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompilationWarning)
        assert fast.warm_up(4)
    assert [state.compiled for state in fast.path().compiled_encode.shapes.values()] == [True]
    assert torch.allclose(fast.score_matrix(PROMPTS, images, batch_size=4), expected, atol=1e-5)
    # Files use the compiled function: their levels have the same layout.
    assert [state.compiled for state in fast.path().compiled_encode.shapes.values()] == [True]
    # Other shapes run uncompiled.
    assert torch.allclose(fast.score_matrix(PROMPTS, images, batch_size=3), expected, atol=1e-5)
    assert not model.warm_up(4)  # "exact" is never compiled


@pytest.mark.slow
def test_a_shape_is_compiled_after_it_took_enough_time(fast, images):
    as_on_a_gpu(fast, seconds=0.0, backend="eager", shapes=2)
    expected = fast.score_pairs(PROMPTS, images[:3], batch_size=3)
    fast.score_pairs(PROMPTS, images[:3], batch_size=1)
    fast.score_pairs(PROMPTS[:2], images[:2], batch_size=2)  # a third shape is not compiled
    compiled = [s for s in fast.path().compiled_encode.shapes.values() if s.compiled]
    assert len(compiled) == 2
    assert torch.allclose(fast.score_pairs(PROMPTS, images[:3], batch_size=3), expected, atol=1e-6)


NO_COMPILER = """
import sys, warnings
import torch
torch.set_num_threads(1)
import reward_core as RM
model = RM.load(sys.argv[1], device="cpu", precision="fast")
before = model.score("a dog", sys.argv[2])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not model.warm_up(1)
    assert not model.warm_up(2)
    assert model.score("a dog", sys.argv[2]) == before
messages = [w.message for w in caught if w.category is RM.errors.CompilationWarning]
assert len(messages) == 1, messages
print(messages[0])
"""


@pytest.mark.slow
def test_without_a_compiler_one_warning_gives_the_reason(parity, images, tmp_path):
    import os

    env = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", NO_COMPILER, str(parity / "state_dict.pt"), images[0]]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "Cannot compile the model" in done.stdout
    assert "ompiler" in done.stdout.split("Cannot compile the model:")[1]


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed batch", "any batch"])
def test_only_a_caller_with_smaller_batches_gets_an_error_of_memory(fixed):
    calls = []

    @torch.library.custom_op("reward_core_tests::large_at_first", mutates_args=())
    def large_at_first(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 1:
            raise MemoryError("no memory for the work space")
        return x + 1

    large_at_first.register_fake(torch.empty_like)
    plan = CompilePlan(seconds=0.0, saves=1.0, backend="eager", fixed_batch=fixed)
    function, x = CompiledByShape(lambda x: large_at_first(x), plan), torch.zeros(2, 3)
    if fixed:
        with pytest.warns(CompilationWarning, match=r"model: MemoryError: .* It runs uncompiled \(slower\)"):
            assert torch.equal(function(x), x + 1)
        assert not any(shape.compiled for shape in function.shapes.values())
    else:
        with pytest.raises(MemoryError):
            function(x)
        assert torch.equal(function(x), x + 1)
        assert all(shape.compiled for shape in function.shapes.values())


# Cached features


def test_encoded_prompts_can_be_scored_with_any_image(model, images):
    read = model.encode_prompts(PROMPTS)
    assert isinstance(read, RM.PromptFeatures)
    expected = model.score_matrix(PROMPTS, images)
    assert torch.allclose(model.score_matrix(read, images), expected, atol=1e-5)
    assert torch.allclose(
        model.score_matrix(read[[2, 0]], model.encode_images(images)), expected[[2, 0]], atol=1e-5
    )
    pairs = model.score_pairs(read, model.encode_images(images)[:3])
    assert torch.allclose(pairs, expected[:, :3].diagonal(), atol=1e-5)
    joined = RM.PromptFeatures.cat([read[:1], model.encode_prompts(PROMPTS[1:2]), read[2:]])
    assert joined.prompts == tuple(PROMPTS)
    assert torch.allclose(model.score_matrix(joined, images), expected, atol=1e-5)


def test_prompts_of_another_model_are_refused(model, images):
    read = RM.load("tiny", device="cpu").encode_prompts(PROMPTS)
    with pytest.raises(InputError, match="prompt features of another model"):
        model.score_matrix(read, images)
    with pytest.raises(InputError, match="prompt features of another model"):
        model.score_pairs(read[:1], images[:1])
    with pytest.raises(InputError, match="no prompts given"):
        model.score_matrix(model.encode_prompts(PROMPTS)[:0], images)
    with pytest.raises(InputError, match="rewards_from_pixels"):
        model.encode_images(torch.zeros(1, 3, 48, 48))


def test_many_prompts_are_batched(model, images):
    prompts = [f"{' '.join(['red'] * (i % 4 + 1))} house" for i in range(12)]
    expected = torch.tensor([[model.score(p, i) for i in images[:2]] for p in prompts])
    assert torch.allclose(model.score_matrix(prompts, images[:2]), expected, atol=1e-5)


# Images decoded ahead


def test_files_are_decoded_while_the_model_computes(parity):
    """Two tasks of equal length take less time in parallel than one after the other."""
    paths = [str(parity / "images" / "rgb.png")] * 8
    threads = set()

    def slowly(path):
        threads.add(threading.current_thread().name)
        time.sleep(0.05)
        return path

    started = time.perf_counter()
    with DecodingThreads(2) as decoding:
        for waiting in ahead((decoding.submit(slowly, path) for path in paths), 4):
            assert waiting.result() == paths[0]
            time.sleep(0.05)
    assert time.perf_counter() - started < 0.75  # one after the other: 0.8; measured: 0.45
    assert all(name.startswith("reward-core-decode") for name in threads)
    assert not any(t.name.startswith("reward-core-decode") for t in threading.enumerate())


def test_the_number_of_batches_taken_ahead_is_limited():
    taken = []

    def batches():
        for i in range(10):
            taken.append(i)
            yield i

    for i in ahead(batches(), 3):
        assert taken == list(range(min(10, i + 3)))
    assert list(ahead([], 3)) == []


def test_images_that_threads_may_not_share_are_decoded_by_the_reader(parity):
    loaded = Image.open(parity / "images" / "rgb.png").convert("RGB")
    with DecodingThreads(1) as decoding:
        names = [
            decoding.submit(lambda image: threading.current_thread().name, image).result()
            for image in (Image.open(parity / "images" / "rgb.png"), loaded.convert("P"), loaded)
        ]
    assert [name.startswith("reward-core-decode") for name in names] == [False, False, True]


def test_a_bad_file_in_a_long_run_affects_only_its_row(model, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    drawn = [*images, str(bad), *images]
    rows = list(model.score_rows([PROMPTS[0]] * 9, drawn, batch_size=2))
    assert [row.error is None for row in rows] == [True] * 4 + [False] + [True] * 4
    expected = model.score(PROMPTS[0], images)
    assert [row.score for row in rows if row.error is None] == pytest.approx(expected * 2, abs=5e-5)


def test_an_image_can_be_passed_twice_while_its_file_is_open(model, images):
    lazy = Image.open(images[0])
    rewards = model.score(PROMPTS[0], [lazy] * 5, batch_size=5)
    assert rewards == pytest.approx([model.score(PROMPTS[0], images[0])] * 5, abs=5e-5)


# Threads


def test_threads_are_limited_to_usable_cpus_and_restored(monkeypatch, model, images):
    seen = []
    inner = model.encode_pixels
    monkeypatch.setattr(cpu, "usable_cpus", lambda: 1)
    monkeypatch.setattr(model, "encode_pixels", lambda x: seen.append(torch.get_num_threads()) or inner(x))
    torch.set_num_threads(2)
    try:
        model.score(PROMPTS[0], images)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(1)


def test_the_cpu_quota_of_a_container_is_used(tmp_path):
    assert cpus._quota(tmp_path) == math.inf
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert cpus._quota(tmp_path) == 2.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpus._quota(tmp_path) == math.inf

"""Scoring on a CUDA GPU: agreement with a CPU, threads, memory, waits of the host, changed weights."""

import copy
import gc
import os
import subprocess
import sys
import threading
import warnings
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core import shapes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = "cuda"
BATCH = 8
MEGABYTE = 2**20
PROMPTS = ["a red circle", "two blue squares above a small green triangle", "a yellow star"]


@pytest.fixture(scope="module")
def uncompiled() -> RM.RewardModel:
    return RM.load("tiny", device=DEVICE, precision="fast")


@pytest.fixture(scope="module")
def compiled() -> RM.RewardModel:
    """Return a model compiled for BATCH images. The test of changed weights comes last: it undoes this."""
    model = RM.load("tiny", device=DEVICE, precision="fast")
    assert model.warm_up(BATCH)
    return model


@pytest.fixture(params=["uncompiled", "compiled"])
def model(request) -> RM.RewardModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(pixels) for group in shapes.make_groups(4, start=7) for pixels in group.images]


def pairs_of(images: list, count: int) -> tuple[list[str], list]:
    """Return ``count`` prompts and images."""
    return [PROMPTS[i % len(PROMPTS)] for i in range(count)], [images[i % len(images)] for i in range(count)]


def assert_same(rewards, expected, tolerance: float = 0.02) -> None:
    """Compare rewards; the tolerance is a share of their standard deviation."""
    rewards, expected = torch.as_tensor(rewards), torch.as_tensor(expected)
    assert (rewards - expected).abs().max() < tolerance * expected.std()


def test_a_gpu_agrees_with_the_cpu(model):
    exact = RM.load("tiny", device="cpu")
    groups = [(g.prompt, [Image.fromarray(p) for p in g.images]) for g in shapes.make_groups(12, start=123)]
    expected = [reward for prompt, drawn in groups for reward in exact.score(prompt, drawn)]
    rewards = [reward for prompt, drawn in groups for reward in model.score(prompt, drawn)]
    assert_same(rewards, expected, 0.1)


WITHOUT_COMPILER = """
import warnings
import numpy as np
from PIL import Image
import reward_core as RM

levels = [np.random.default_rng(i).integers(0, 256, (700, 600, 3), dtype=np.uint8) for i in range(3)]
images = [Image.fromarray(image) for image in levels]
expected = RM.load("tiny", device="cpu").score("a red circle", images)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    exact = RM.load("tiny", device="cuda").score("a red circle", images)
    fast = RM.load("tiny", device="cuda", precision="fast").score("a red circle", images)
messages = [str(warning.message) for warning in found]
assert sum("Install a C compiler" in message for message in messages) == 1, messages
assert np.abs(np.array(exact) - expected).max() < 0.01, (exact, expected)
assert np.abs(np.array(fast) - expected).max() < 0.1, (fast, expected)
"""


def test_without_a_c_compiler_scores_are_the_same(tmp_path):
    environment = {**os.environ, "CC": str(tmp_path / "missing"), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_agrees_with_the_first(uncompiled, images):
    prompts, pairs = pairs_of(images, 2 * BATCH)
    second = RM.load("tiny", device="cuda:1", precision="fast")
    assert_same(second.score_pairs(prompts, pairs), uncompiled.score_pairs(prompts, pairs))
    assert_same(second.score_matrix(PROMPTS, pairs), uncompiled.score_matrix(PROMPTS, pairs))
    assert torch.cuda.current_device() == 0


# Threads


def test_another_thread_gets_the_same_rewards(model, images):
    prompts, pairs = pairs_of(images, 3 * BATCH)
    expected = model.score_pairs(prompts, pairs, batch_size=BATCH)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(model.score_pairs(prompts, pairs, batch_size=BATCH)))
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert_same(seen[0], expected)


def test_two_threads_at_once_get_the_rewards_of_their_own_images(model, images):
    inputs = [pairs_of(images, 4 * BATCH), pairs_of(images[::-1], 4 * BATCH)]
    expected = [model.score_pairs(*pairs, batch_size=BATCH) for pairs in inputs]
    assert (expected[0] - expected[1]).abs().max() > 0.5 * expected[0].std()  # a mix-up would be seen
    seen: list[list] = [[], []]

    def score(number: int) -> None:
        for _ in range(5):
            seen[number].append(model.score_pairs(*inputs[number], batch_size=BATCH))

    threads = [threading.Thread(target=score, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(rewards) for rewards in seen] == [5, 5]
    for number, rewards in enumerate(seen):
        for each in rewards:
            assert_same(each, expected[number])


# Memory


@contextmanager
def memory_limit(limit: int):
    """Limit the memory that torch may reserve, in bytes."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_in_memory_is_halved(uncompiled, images):
    count = 4096
    prompts, pairs = pairs_of(images, count)
    expected = uncompiled.score_pairs(prompts, pairs, batch_size=BATCH * 8)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    uncompiled.score_pairs(prompts, pairs, batch_size=count)
    needed = torch.cuda.max_memory_reserved() - before
    assert needed > 200 * MEGABYTE
    torch.cuda.empty_cache()
    failures = torch.cuda.memory_stats()["num_ooms"]
    with memory_limit(before + needed // 3):
        rewards = uncompiled.score_pairs(prompts, pairs, batch_size=count)
    assert torch.cuda.memory_stats()["num_ooms"] > failures
    assert_same(rewards, expected)
    assert_same(uncompiled.score_pairs(prompts, pairs, batch_size=BATCH * 8), expected)


def test_memory_does_not_grow_with_the_number_of_calls(model, images):
    prompts, pairs = pairs_of(images, 5 * BATCH + 3)

    def score() -> None:
        model.score_pairs(prompts, pairs, batch_size=BATCH)
        model.score_matrix(PROMPTS, pairs, batch_size=BATCH)

    for _ in range(10):
        score()
    gc.collect()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(40):
        score()
    gc.collect()
    assert torch.cuda.memory_allocated() <= allocated + MEGABYTE
    assert torch.cuda.memory_reserved() <= reserved + 20 * MEGABYTE  # one segment of torch's allocator


# Waits


def host_waits(work) -> Counter:
    """Return the lines at which the host waits for all work of the GPU; waits for an event do not count."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message))


@pytest.mark.parametrize("method", ["score_pairs", "score_matrix"])
def test_the_host_does_not_wait_once_per_batch(model, images, method):
    def score(batches: int) -> None:
        prompts, pairs = pairs_of(images, batches * BATCH)
        getattr(model, method)(prompts if method == "score_pairs" else PROMPTS, pairs, batch_size=BATCH)

    score(12)
    few, many = host_waits(lambda: score(2)), host_waits(lambda: score(12))
    assert many - few == Counter()


# Pixels


@pytest.fixture
def tf32():
    """Allow TF32 for matrix products, as trainers do. For convolutions it is allowed by default."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    assert torch.get_float32_matmul_precision() == "high"  # scoring restores it
    torch.set_float32_matmul_precision(before)


def test_exact_scores_of_images_of_mixed_sizes_agree_with_the_cpu_while_tf32_is_on(tf32):
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (65, 64), (512, 512), (300, 700), (1024, 200), (90, 777), (40, 50), (512, 512)]
    drawn = []
    for width, height in sizes:
        coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        drawn.append(coarse.resize((width, height), Image.Resampling.BICUBIC))
    drawn.append(drawn[2].convert("L"))
    drawn.append(drawn[3].convert("RGBA"))
    expected = RM.load("tiny", device="cpu").score_matrix(PROMPTS, drawn)
    scorer = RM.load("tiny", device=DEVICE)
    assert_same(scorer.score_matrix(PROMPTS, drawn), expected, 1e-4)
    each = torch.stack([scorer.score_matrix(PROMPTS, [image])[:, 0] for image in drawn], dim=1)
    assert_same(each, expected, 1e-4)


# Weights. These tests come last, because they undo the compilation.


def change_in_place(model: RM.RewardModel) -> None:
    with torch.no_grad():
        model.mlp.layers[0].weight.mul_(1.5)
        model.blip.visual_encoder.blocks[0].mlp.fc1.weight.mul_(1.5)


def change_through_data(model: RM.RewardModel) -> None:
    for layer in model.blip.text_encoder.encoder.layer:
        weight = layer.crossattention.self["value"].weight
        weight.data = weight.detach() * 1.5


@pytest.mark.parametrize("change", [change_in_place, change_through_data])
def test_changed_weights_give_new_rewards(model, images, change):
    prompts, pairs = pairs_of(images, 2 * BATCH)
    before = model.score_pairs(prompts, pairs, batch_size=BATCH)
    change(model)
    rewards = model.score_pairs(prompts, pairs, batch_size=BATCH)
    assert (rewards - before).abs().max() > 0.1 * before.std()
    assert_same(rewards, copy.deepcopy(model).score_pairs(prompts, pairs, batch_size=BATCH))

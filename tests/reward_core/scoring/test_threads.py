"""Several threads that score with one model."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.models.imagereward.fast_path import RewardFastPath

THREADS = 4
PROMPTS = ["a dog", "a house"]
IMAGES = [Image.new("RGB", (48, 48), "red"), Image.new("RGB", (60, 48), "blue")]


class SlowPath(RewardFastPath):
    """A path that takes its time to prepare."""

    def prepare(self):
        self.model.prepared.append(self)
        time.sleep(0.05)
        super().prepare()


class Slow(RM.RewardModel):
    """A model whose paths take their time to build."""

    def fast_path(self):
        time.sleep(0.05)
        return SlowPath(self)


@pytest.fixture
def slow():
    model = RM.load("tiny", device="cpu")
    model.__class__, model.fast, model.prepared = Slow, True, []
    return model


def at_once(function):
    """Return the results of a function that several threads call at the same time."""
    barrier = threading.Barrier(THREADS)

    def call(_):
        barrier.wait()
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(THREADS)))


def test_threads_build_one_path_and_prepare_once_for_changed_weights(slow):
    def scores():
        return slow.score_pairs(PROMPTS, IMAGES)

    first = at_once(scores)
    assert len(slow.prepared) == 1
    with torch.no_grad():
        slow.mlp.layers[0].weight.mul_(2)
    second = at_once(scores)
    assert len(slow.prepared) == 2
    assert slow.prepared[0] is slow.prepared[1]
    expected = scores()
    assert (expected - first[0]).abs().max() > 0.1
    for before, after in zip(first, second):
        assert torch.allclose(before, first[0], atol=1e-5)
        assert torch.allclose(after, expected, atol=1e-5)


def test_a_path_that_could_not_be_prepared_is_prepared_by_the_next_call(slow):
    expected = slow.score_pairs(PROMPTS, IMAGES)
    with torch.no_grad():
        slow.mlp.layers[0].weight.mul_(2)
    prepared, slow.prepared = slow.prepared, None  # an error in prepare
    with pytest.raises(AttributeError):
        slow.score_pairs(PROMPTS, IMAGES)
    slow.prepared = prepared
    assert (slow.score_pairs(PROMPTS, IMAGES) - expected).abs().max() > 0.1


def test_threads_get_the_same_fingerprint_of_changed_weights(slow):
    before = slow.encode_images(IMAGES).model
    with torch.no_grad():
        slow.blip.visual_encoder.blocks[0].mlp.fc1.weight.mul_(2)
    after = at_once(lambda: slow.encode_images(IMAGES).model)
    assert len(set(after)) == 1
    assert after[0] != before

"""The cache of image features: exact values, bounded memory, and no work for each image."""

import csv
import random

import pytest
import torch
from bulk_inputs import make_images
from torch.utils._python_dispatch import TorchDispatchMode

from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.scoring.feature_cache import FeatureCache

SHAPE = (3, 5)


def features_of(keys: list[int]) -> torch.Tensor:
    return torch.stack([torch.full(SHAPE, float(key)) for key in keys])


def memory(cache: FeatureCache) -> float:
    """Return the memory of the cache's tensors, in images."""
    storages = {row.untyped_storage().data_ptr(): row.untyped_storage() for row in cache.values.values()}
    return sum(storage.nbytes() for storage in storages.values()) / features_of([0]).nbytes


@pytest.mark.parametrize("size", [0, 1, 5, 16, 40])
@pytest.mark.parametrize("repeated", [0, 0.2, 0.8])
def test_features_are_exact_and_their_memory_is_bounded(size, repeated):
    generator = random.Random(size)
    cache: FeatureCache[int] = FeatureCache(size)
    recent, new = [0], 0
    for _ in range(60):
        keys = []
        for _ in range(generator.randint(1, 16)):
            new += 1
            keys.append(generator.choice(recent) if generator.random() < repeated else new)
        absent = cache.absent(keys)
        if absent:
            cache.add(absent, features_of(absent))
        assert torch.equal(cache.stacked(keys), features_of(keys))
        cache.used(keys)
        assert len(cache.values) <= size
        assert memory(cache) <= 2 * len(cache.values)
        recent = [*recent, *keys][-30:]


class Operations(TorchDispatchMode):
    """Count torch's operations that compute or copy."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += not function.is_view
        return function(*arguments, **(options or {}))


def test_a_bulk_run_launches_as_much_for_many_images_as_for_few(tmp_path):
    names = make_images(tmp_path, 24)
    counts = []
    for images in (8, 8, 24):  # the first run also computes what is kept for the process
        with (tmp_path / "pairs.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("prompt", "image"), *(("a red circle", n) for n in names[:images])])
        settings = BulkSettings(model="tiny", devices=("cpu",), batch_size=images)
        with Operations() as operations:
            score_to_file(Manifest(tmp_path / "pairs.csv"), tmp_path / f"scores{len(counts)}.csv", settings)
        counts.append(operations.count)
    assert counts[1] == counts[2] > 0

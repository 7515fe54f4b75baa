"""Batches of the scoring methods: those that do not fit in memory, and the memory that they keep."""

import pytest
import torch
from PIL import Image

import reward_core as RM

PROMPTS = ["a red house by the ocean", "portrait of a dog", "night city, high quality photo"]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.new("RGB", (48, 40 + i), (20 * i, 250 - 20 * i, 10)) for i in range(12)]


class Features(torch.Tensor):
    """Image features that do not fit on a device if there are more than three."""

    def to(self, *args, **kwargs):
        if len(self) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return self.as_subclass(torch.Tensor).to(*args, **kwargs)


def test_features_that_do_not_fit_on_the_device_are_uploaded_in_parts(model, images):
    features = model.encode_images(images)
    large = RM.ImageFeatures(features.data.as_subclass(Features), features.model)
    prompts = PROMPTS * 4
    pairs = model.score_pairs(prompts, large, batch_size=12)
    assert torch.allclose(pairs, model.score_pairs(prompts, features, batch_size=2), atol=1e-5)
    matrix = model.score_matrix(PROMPTS, large, batch_size=12)
    assert torch.allclose(matrix, model.score_matrix(PROMPTS, features, batch_size=2), atol=1e-5)

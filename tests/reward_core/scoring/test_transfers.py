"""Copies for a GPU, as far as a CPU makes them."""

import pytest
import torch

from reward_core.scoring.transfers import copy_to_rows


@pytest.mark.parametrize("count", [1, 3, 4, 30])
def test_images_are_copied_to_their_own_rows(count):
    images = [torch.full((5, 6, 4), i, dtype=torch.uint8) for i in range(count)]
    target = torch.full((count, 5, 6, 4), 255, dtype=torch.uint8)
    copy_to_rows(target, images)
    assert torch.equal(target, torch.stack(images))


def test_an_image_of_another_shape_is_an_error():
    images = [torch.zeros(5, width, 4, dtype=torch.uint8) for width in (6, 6, 7)]
    with pytest.raises(ValueError, match="broadcast"):
        copy_to_rows(torch.empty(3, 5, 6, 4, dtype=torch.uint8), images)

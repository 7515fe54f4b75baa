"""Resizing on a GPU compared with PIL. Without a GPU, Triton's interpreter runs the kernel if installed."""

import numpy as np
import pytest
import torch
from PIL import Image

from reward_core.inputs.image_transform import ImageTransform

# From a size to the side of the square: both passes, one pass, none, a tall image, nearly no shrinking.
SIZES = [((80, 60), 24), ((33, 90), 24), ((24, 70), 24), ((24, 24), 24), ((30, 100), 20), ((61, 48), 47)]


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "side"), SIZES, ids=str)
def test_images_resized_on_a_gpu_equal_those_resized_by_pil(triton_device, size, side):
    transform = ImageTransform(side, (0, 0, 0), (1, 1, 1))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(2)]
    levels = torch.stack([transform.prepare_for_device(image) for image in images]).to(triton_device)
    resized = transform.resize_on_device(levels).cpu()
    assert torch.equal(resized, torch.stack([transform.prepare(image) for image in images]))


def test_only_rgb_images_that_shrink_keep_their_size():
    transform = ImageTransform(24, (0, 0, 0), (1, 1, 1))
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    levels = transform.prepare_for_device(rgb)
    assert levels.shape[:2] == (40, 50)
    assert torch.equal(levels[..., :3], torch.from_numpy(np.array(rgb)))
    for other in (rgb.convert("RGBA"), rgb.convert("L"), rgb.quantize(16), rgb.resize((20, 30))):
        assert torch.equal(transform.prepare_for_device(other), transform.prepare(other))

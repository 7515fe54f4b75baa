"""The differentiable transform compared with PIL, and its mathematical properties."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from reward_core.inputs.image_transform import ImageTransform
from reward_core.inputs.square_image import SquareImage

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image like a photo: smooth regions, hard edges, grain, saturated spots."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (width, height), Image.BICUBIC
    )
    edges = Image.fromarray(rng.integers(0, 256, (23, 23, 3), dtype=np.uint8)).resize(
        (width, height), Image.NEAREST
    )
    mixed = np.asarray(Image.blend(coarse, edges.filter(ImageFilter.GaussianBlur(1)), 0.5)).astype(float)
    return Image.fromarray((mixed + rng.normal(0, 6, mixed.shape)).clip(0, 255).astype(np.uint8))


def levels_apart(image: Image.Image, size: int, stretch: bool = False) -> float:
    transform = ImageTransform(size, *PLAIN)
    transform.square = SquareImage(size, stretch=stretch)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    return 255 * (transform(pixels)[0] - transform.from_pil(image)).abs().max().item()


# Apart from rounding ties, both methods compute the same numbers.
@pytest.mark.parametrize(
    "size", [(512, 512), (1024, 768), (768, 1024), (225, 300), (400, 1100), (1100, 400), (2000, 640)], ids=str
)
def test_differentiable_method_is_within_one_level_of_pil_when_shrinking(size):
    assert levels_apart(image(*size), 224) <= 1.001


@pytest.mark.parametrize(
    "size", [(64, 64), (100, 80), (31, 200), (200, 31), (223, 223), (5, 5), (1, 9)], ids=str
)
def test_differentiable_method_is_within_two_levels_of_pil_when_enlarging(size):
    assert levels_apart(image(*size), 224) <= 2.001


# Pillow 13 chooses the order of its passes by rows and columns removed.
@pytest.mark.parametrize("size", [(59, 117), (100, 117), (90, 97), (84, 100), (30, 200), (100, 90)], ids=str)
def test_stretched_images_take_the_passes_in_the_order_of_pil(size):
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)  # shows the order
    assert levels_apart(Image.fromarray(noise), 84, stretch=True) <= 1.001


def test_no_resize_is_exact():
    assert levels_apart(image(224, 224), 224) == 0


def test_batch_equals_single():
    transform = ImageTransform(48, *PLAIN)
    pixels = torch.rand(3, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    # Every value is rounded to one of 256 levels, so another order of sums may change a few by one level.
    apart = (transform(pixels)[1:2] - transform(pixels[1:2])).abs() * 255
    assert apart.max() <= 1.001
    assert (apart > 0.5).float().mean() < 0.01


def test_gradients_pass_rounding_and_clamping():
    transform = ImageTransform(16, *PLAIN)
    # With pure black and white, every pass overshoots and clamps somewhere.
    pixels = (
        torch.from_numpy(np.indices((40, 40)).sum(0) % 7 < 3)
        .float()
        .expand(1, 3, 40, 40)
        .clone()
        .requires_grad_()
    )
    transform(pixels).sum().backward()
    # Weights of each output pixel sum to 1, so the whole gradient sums to the number of outputs.
    assert pixels.grad.sum().item() == pytest.approx(3 * 16 * 16, rel=1e-4)
    assert (pixels.grad != 0).float().mean() > 0.9


def test_normalization_is_applied():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    pixels = torch.full((1, 3, 10, 10), 0.6)
    expected = (torch.tensor([153 / 255] * 3) - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(ImageTransform(8, mean, std)(pixels)[0, :, 4, 4], expected, atol=1e-6)


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)]
)
def test_wrong_tensors_are_reported(images):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        ImageTransform(8, *PLAIN)(images)

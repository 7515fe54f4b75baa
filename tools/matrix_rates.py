"""Rates of matrix products at a model's shapes: the limits of scoring speed.

Shapes of products are (rows, inner, columns).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from reward_core.network.config import RewardConfig
from reward_core.scoring.precision import encoder_dtype

Shape = tuple[int, int, int]

SQUARE = (4096, 4096, 4096)  # measured beside the model's shapes
FLOP_AT_ONCE = {"cpu": 2e10, "cuda": 3e11}  # work of a measurement


@dataclass(frozen=True)
class Limit:
    """Limits of a dtype.

    Attributes:
        tflops: highest rate of any shape.
        images_per_s: images per second if the model only multiplied, at the rates of its own shapes.
    """

    tflops: float
    images_per_s: float


def product_shapes(config: RewardConfig, batch: int, tokens: int) -> Counter[Shape]:
    """Return the products of the encoders' linear layers for one batch and how often each occurs.

    Args:
        config: sizes of the model.
        batch: images in a batch, with one prompt each.
        tokens: tokens of a prompt.
    """
    vision, text = config.vision, config.text
    rows, d, hidden = batch * vision.tokens, vision.width, int(vision.width * vision.mlp_ratio)
    shapes: Counter[Shape] = Counter()
    shapes[batch * (vision.tokens - 1), 3 * config.patch_size**2, d] += 1
    for columns, inner in ((3 * d, d), (d, d), (hidden, d), (d, hidden)):
        shapes[rows, inner, columns] += vision.depth
    layers, e, text_rows = text.num_hidden_layers, text.hidden_size, batch * tokens
    shapes[text_rows, e, e] += 6 * layers  # query, key, value, output; query and output of cross-attention
    shapes[rows, text.encoder_width, e] += 2 * layers  # keys and values of cross-attention
    shapes[text_rows, e, text.intermediate_size] += layers
    shapes[text_rows, text.intermediate_size, e] += layers
    return shapes


def flop(shape: Shape) -> int:
    """Return the floating-point operations of one product."""
    return 2 * math.prod(shape)


def repeats(shape: Shape, device: torch.device) -> int:
    """Return how many products a measurement computes."""
    return max(1, round(FLOP_AT_ONCE.get(device.type, 2e10) / flop(shape)))


def products(shape: Shape, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that computes products of this shape, ``repeats(shape, device)`` times."""
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(columns, inner, device=device, dtype=dtype)
    times = repeats(shape, device)
    return lambda: [F.linear(a, b) for _ in range(times)]


def int8_products(shape: Shape) -> Callable[[], object]:
    """Return a function like ``products`` for quantized inputs and prepacked weights on a CPU.

    Quantization of the inputs is not part of it; the outputs are bfloat16.
    """
    rows, inner, columns = shape
    a = torch.randint(256, (rows, inner), dtype=torch.uint8)
    b = torch.randint(-127, 128, (columns, inner), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(b, [rows, inner])
    scales, zeros = torch.full((columns,), 0.01), torch.zeros(columns, dtype=torch.int64)
    output = (
        None,
        1.0,
        0,
        torch.bfloat16,
        "none",
        [],
        "",
    )  # bias, scale, zero point, dtype, no operation after
    multiply = torch.ops.onednn.qlinear_pointwise
    times = repeats(shape, torch.device("cpu"))
    return lambda: [multiply(a, 0.02, 128, packed, scales, zeros, *output) for _ in range(times)]


def has_int8_products(device: torch.device) -> bool:
    """Return whether this torch has the int8 product of oneDNN, and the device is a CPU."""
    onednn = torch.ops.onednn
    return (
        device.type == "cpu" and hasattr(onednn, "qlinear_prepack") and hasattr(onednn, "qlinear_pointwise")
    )


class Products:
    """The products of a model's batch, in the dtypes of its faster precisions.

    Args:
        config: sizes of the model.
        batch: images in a batch, with one prompt each.
        tokens: tokens of a prompt.
        device: device to compute on.
    """

    def __init__(self, config: RewardConfig, batch: int, tokens: int, device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.shapes = product_shapes(config, batch, tokens)
        dtypes = [encoder_dtype("fast", device), *([torch.bfloat16] if device.type == "cpu" else [])]
        self.dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in dtypes}

    def works(self) -> dict[tuple[str, Shape], Callable[[], object]]:
        """Return a function per dtype and shape; each computes ``repeats(shape, device)`` products."""
        shapes = [*self.shapes, SQUARE]
        works = {
            (name, shape): products(shape, self.device, dtype)
            for name, dtype in self.dtypes.items()
            for shape in shapes
        }
        if has_int8_products(self.device):
            works |= {("int8", shape): int8_products(shape) for shape in shapes}
        return works

    def limits(self, seconds: dict) -> dict[str, Limit]:
        """Return the limit of each dtype from the times of ``works``; other keys are ignored."""
        times: dict[str, dict[Shape, float]] = {}
        for key, took in seconds.items():
            if isinstance(key, tuple):
                name, shape = key
                times.setdefault(name, {})[shape] = took / repeats(shape, self.device)
        return {
            name: Limit(
                tflops=max(flop(shape) / took for shape, took in took_by_shape.items()) / 1e12,
                images_per_s=self.batch
                / sum(count * took_by_shape[shape] for shape, count in self.shapes.items()),
            )
            for name, took_by_shape in times.items()
        }

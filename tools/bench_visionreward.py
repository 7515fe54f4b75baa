"""Measure how much a shared image pass saves when CogVLM2 answers many questions, with random weights.

    python tools/bench_visionreward.py --width 1/8 --vision-layers 1 --language-layers 2
    python tools/bench_visionreward.py --device cuda --dtype bf16

Every round answers all questions about an image twice: shared, with one pass over the image, and unshared,
with one pass for each question. Width 1 with all layers is the size of VisionReward-Image (19.5 G parameters,
39 GB in bf16). The number of image tokens is always the full one. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from fractions import Fraction
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from reward_core.models.cogvlm2.config import CogVlm2Config
from reward_core.models.cogvlm2.int8 import quantize_int8
from reward_core.models.cogvlm2.network import CogVlm2
from reward_core.models.cogvlm2.packing import PackedQuestions, pack_questions
from reward_core.models.cogvlm2.prompts import AnswerTokens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOKENS = AnswerTokens()


def sizes(width: Fraction, vision_layers: int, language_layers: int) -> CogVlm2Config:
    """Return the published sizes with widths and numbers of heads times ``width``, and fewer layers."""
    full = CogVlm2Config()
    names = ("vision_width", "vision_heads", "vision_mlp", "width", "heads", "kv_heads", "mlp")
    scaled = {name: max(1, round(getattr(full, name) * width)) for name in names}
    return CogVlm2Config.from_values(
        {**scaled, "vision_depth": vision_layers, "depth": language_layers}, "the command line"
    )


def build(config: CogVlm2Config, dtype: torch.dtype, device: str) -> CogVlm2:
    """Return a network with seeded random weights."""
    with torch.device("meta"):
        network = CogVlm2(config).to(dtype)
    network.to_empty(device=device).requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in network.named_parameters():
        if "norm." in name:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            weight.normal_(0, 0.02, generator=generator)
    return network


def random_questions(count: int) -> list[list[int]]:
    """Return questions of 10 to 16 tokens, as the 30 of VisionReward-Image have."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(100_000, (10 + i % 7,), generator=generator).tolist() for i in range(count)]


@torch.no_grad()
def shared(network: CogVlm2, pixels: Tensor, questions: list[list[int]]) -> Tensor:
    """Return the logits of all questions from one pass over the image."""
    prefix = network.encode_images(pixels, TOKENS.begin_of_text)
    return network(prefix, pack_questions(questions, TOKENS.yeses))


@torch.no_grad()
def unshared(network: CogVlm2, pixels: Tensor, questions: list[list[int]]) -> Tensor:
    """Return the same logits from one pass over the image for each question."""
    packed: list[PackedQuestions] = [pack_questions([ids], TOKENS.yeses) for ids in questions]
    logits = [network(network.encode_images(pixels, TOKENS.begin_of_text), one) for one in packed]
    return torch.cat(logits, dim=1)


def timed(way: Callable[..., Tensor], network: CogVlm2, *inputs: Any) -> tuple[float, int, Tensor]:
    """Return seconds, number of passes over the image, and logits."""
    before = network.prefix_passes
    synchronize(network.device)
    started = perf_counter()
    logits = way(network, *inputs)
    synchronize(network.device)
    return perf_counter() - started, network.prefix_passes - before, logits


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(network: CogVlm2, questions: list[list[int]], rounds: int) -> dict[str, Any]:
    """Return the figures of both ways, alternating in ``rounds`` rounds after a warm-up."""
    side = network.config.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(network.device)
    shared(network, pixels, questions)
    seconds: dict[str, list[float]] = {"shared": [], "unshared": []}
    passes: dict[str, int] = {}
    logits: dict[str, Tensor] = {}
    for _ in range(rounds):
        for way in (shared, unshared):
            name = way.__name__
            taken, passes[name], logits[name] = timed(way, network, pixels, questions)
            seconds[name].append(taken)
    return {
        "seconds_per_image": {name: round(median(taken), 3) for name, taken in seconds.items()},
        "passes_per_image": passes,
        "times_faster": round(median(u / s for s, u in zip(seconds["shared"], seconds["unshared"])), 1),
        "largest_logit_difference": (logits["shared"] - logits["unshared"]).abs().max().item(),
    }


def main() -> None:
    full = CogVlm2Config()
    parser = argparse.ArgumentParser(description="measure CogVLM2 with a shared and an unshared image pass")
    parser.add_argument("--width", type=Fraction, default=Fraction(1), help="share of the published widths")
    parser.add_argument("--vision-layers", type=int, default=full.vision_depth)
    parser.add_argument("--language-layers", type=int, default=full.depth)
    parser.add_argument("--questions", type=int, default=30, help="number of questions about the image")
    parser.add_argument("--rounds", type=int, default=1, help="number of rounds; the medians are printed")
    parser.add_argument("--device", default="cpu", help="device to compute on")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="number format of the weights")
    parser.add_argument("--int8", action="store_true", help="8-bit weights of linear layers (needs torchao)")
    parser.add_argument("--offload-vision-experts", action="store_true", help="keep them in host memory")
    arguments = parser.parse_args()
    config = sizes(arguments.width, arguments.vision_layers, arguments.language_layers)
    network = build(config, DTYPES[arguments.dtype], arguments.device)
    if arguments.int8:
        quantize_int8(network)
    network.place(arguments.device, arguments.offload_vision_experts)
    result = measure(network, random_questions(arguments.questions), arguments.rounds)
    if network.device.type == "cuda":
        result["peak_gpu_gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        result["gpu"] = torch.cuda.get_device_name()
    parameters = sum(weight.numel() for weight in network.parameters())
    settings = {key: str(value) for key, value in vars(arguments).items()}
    print(json.dumps({**settings, "parameters": parameters, "threads": torch.get_num_threads(), **result}))


if __name__ == "__main__":
    main()

"""Measure parameters, size and speed of published scorers at their true sizes, with random weights.

    python tools/bench_scorers.py [NAME ...] [--precision exact fast] [--seconds 15] [--device cpu]

The speed of a scorer does not depend on its weights, so nothing is downloaded. Every batch has 8 images of
512x512 pixels that are already decoded, and a prompt of 22 tokens for each. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from reward_core.inputs.ignored_prompts import IgnoredPrompts
from reward_core.inputs.tokenizer import PromptTokenizer
from reward_core.models.registry import BUILT_IN
from reward_core.network.onednn_linear import use_onednn
from reward_core.scoring.precision import encoder_dtype
from reward_core.scoring.scoring_model import ScoringModel

NAMES = ("CLIP", "Aesthetic", "PickScore", "HPSv2.1", "CycleReward-Combo", "MPS", "Aesthetic-v2.5")
BATCH, SIDE = 8, 512
PROMPT = " ".join(f"w{i}" for i in range(20))


def build(name: str, device: torch.device) -> ScoringModel:
    """Return a scorer of the published size with random weights."""
    spec = BUILT_IN[name]
    module, _, class_name = spec.family.partition(":")
    with torch.device("meta"):
        model = getattr(import_module(module), class_name)(spec.config, None)
    values = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    state = {}
    for key, tensor in model.state_dict().items():
        repeats = -(-tensor.numel() // len(values))
        state[key] = values.repeat(repeats)[: tensor.numel()].view(tensor.shape).clone()
    model.load_state_dict(state, assign=True)
    reads_prompt = spec.facts.reads_prompt or name == "Aesthetic"  # CLIP's tokenizer belongs to it
    model.tokenizer = tokenizer(spec.config.max_length) if reads_prompt else IgnoredPrompts()
    use_onednn(model)
    return model.eval().requires_grad_(False).to(device)


def tokenizer(max_length: int) -> PromptTokenizer:
    """Return a tokenizer of the words in PROMPT."""
    words = {word: i for i, word in enumerate(["[UNK]", *PROMPT.split(), "<s>", "</s>"])}
    fast = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, words[token]) for token in ("<s>", "</s>")]
    fast.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    return PromptTokenizer(fast, max_length)


def images_per_second(model: ScoringModel, seconds: float) -> float:
    """Return the rate of ``score_pairs`` after one batch to warm up."""
    levels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    images = [Image.fromarray(np.roll(levels, i, axis=0)) for i in range(BATCH)]
    prompts = [PROMPT] * BATCH
    model.score_pairs(prompts, images, batch_size=BATCH)
    done, started = 0, perf_counter()
    while (passed := perf_counter() - started) < seconds:
        model.score_pairs(prompts, images, batch_size=BATCH)
        done += BATCH
    return done / passed


def main() -> None:
    parser = argparse.ArgumentParser(description="measure published scorers at their true sizes")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help="scorers (default: all)")
    parser.add_argument("--precision", nargs="+", default=["exact", "fast"], choices=["exact", "fast"])
    parser.add_argument("--seconds", type=float, default=15, help="seconds to measure each rate")
    parser.add_argument("--device", default="cpu", help="device to compute on")
    arguments = parser.parse_args()
    device, results = torch.device(arguments.device), {}
    for name in arguments.names:
        model = build(name, device)
        facts = BUILT_IN[name].facts
        result = {"parameters": sum(p.numel() for p in model.parameters()), "gigabytes": facts.gigabytes}
        for precision in arguments.precision:
            model.set_encoder_dtype(encoder_dtype(precision, device))
            model.fast = precision == "fast"
            result[precision] = round(images_per_second(model, arguments.seconds), 2)
        rates = ", ".join(f"{precision} {result[precision]} images/s" for precision in arguments.precision)
        print(
            f"{name}: {result['parameters'] / 1e6:.1f} M parameters, {facts.gigabytes} GB, {rates}",
            flush=True,
        )
        results[name] = result
    print(json.dumps({"threads": torch.get_num_threads(), "batch": BATCH, "device": str(device), **results}))


if __name__ == "__main__":
    main()

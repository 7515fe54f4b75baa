"""The parts of tools/bench_visionreward.py that its figures depend on."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest


def test_both_ways_give_the_same_logits_from_one_and_from_many_image_passes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import bench_visionreward as bench
    import torch

    small = replace(bench.sizes(Fraction(1, 64), 2, 2), image_size=84, vocab_size=128_256)
    network = bench.build(small, torch.float32, "cpu")
    result = bench.measure(network, bench.random_questions(5), rounds=1)
    assert result["passes_per_image"] == {"shared": 1, "unshared": 5}
    assert result["largest_logit_difference"] == pytest.approx(0, abs=1e-5)
    eighth = bench.sizes(Fraction(1, 8), 63, 32)
    assert (eighth.image_tokens, eighth.vision_heads, eighth.heads, eighth.kv_heads) == (2304, 2, 4, 1)
    assert (eighth.vision_width, eighth.width, eighth.mlp) == (224, 512, 1792)

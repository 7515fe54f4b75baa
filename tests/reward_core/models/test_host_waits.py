"""Steps that a GPU computes without the CPU waiting for it, shown on torch's device without data.

Reading a value from "meta" is an error, and copies to it can be seen.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import reward_core as RM

DATA = Path(__file__).parents[2] / "data"
FILES = {
    "VQAScore": DATA / "parity_visionreward" / "alignment",
    "MPS": DATA / "parity_scorers" / "mps",
}
PROMPTS = ["a red circle"] * 2  # without padding


class Copies(TorchDispatchMode):
    """Count the copies from the CPU to another device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            self.count += kwargs.get("device", torch.device("cpu")).type != "cpu"
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", ["VQAScore", "MPS"])
def test_pairs_are_launched_without_reading_or_copying_a_value(name):
    scorer = RM.load(name, device="cpu", files=FILES[name])
    tokens = scorer.tokenizer(PROMPTS)
    side = scorer.transform.size
    features = scorer.encode_pixels(torch.zeros(2, 3, side, side))
    assert scorer.path().pair_rewards(features, *tokens).shape == (2,)
    absent = copy.deepcopy(scorer).to("meta")
    absent.path().pair_rewards(features.to("meta"), *tokens)  # copies constants
    with Copies() as copies:
        assert absent.path().pair_rewards(features.to("meta"), *tokens).shape == (2,)
    # The features, and token ids and mask, which a GPU receives through page-locked memory.
    assert copies.count == {"VQAScore": 2, "MPS": 3}[name]

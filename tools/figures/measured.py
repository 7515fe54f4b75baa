"""Numbers without images: accuracy of the bundled rewards, parity, loading, duration of the demo."""

from __future__ import annotations

import json
import re
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import reward_core as RM

from .record import ROOT, last_json, run_python

PARITY = ROOT / "tests" / "data" / "parity"


def held_out() -> dict[str, Any]:
    """Evaluate the bundled rewards on ShapesBench's 1,000 held-out groups, with and without prompts."""
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        printed = run_python("tools/make_shapes_eval.py", "--out", Path(folder, "groups"))
        numbers["sha256"] = re.findall(r"sha256 (\w+)", printed)[0]
        for model in ("tiny", "tiny-judge"):
            for suffix, options in (("", ()), (" blank", ("--blank-prompts",))):
                command = ("-m", "reward_core", "evaluate", model, "--data", Path(folder, "groups"), "--json")
                numbers[model + suffix] = json.loads(run_python(*command, *options))
    return numbers


def parity() -> dict[str, Any]:
    """Compare rewards with those that the original's code computed for the same tiny weights."""
    expected = json.loads((PARITY / "expected.json").read_text(encoding="utf-8"))
    pairs = expected["pairs"]
    model = RM.load(PARITY / "state_dict.pt", device="cpu")
    prompts = [expected["prompts"][pair["prompt"]]["text"] for pair in pairs]
    images = [str(PARITY / expected["images"][pair["image"]]["file"]) for pair in pairs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some prompts are empty or truncated on purpose
        rewards = model.score_pairs(prompts, images)
    difference = (rewards - torch.tensor([pair["reward"] for pair in pairs])).abs().max()
    return {"pairs": len(pairs), "largest_difference_in_millionths": difference.item() * 1e6}


def loading() -> dict[str, Any]:
    """Measure memory and time of loading a full-size model."""
    return last_json(run_python("tools/bench_loading.py"))


def demo() -> dict[str, Any]:
    """Time ``python -m reward_core.demo``: wall time, and processor time, which other work disturbs less."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        run_python("-m", "reward_core.demo", "--out", Path(folder, "demo.png"))
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "processor_seconds": processor}

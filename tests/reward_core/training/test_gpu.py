"""Training a reward model on a CUDA GPU, in half precision."""

import json
import math

import pytest
import torch
from accelerate.state import AcceleratorState
from ranked_images import write_rankings

import reward_core as RM
from reward_core.training import Trainer, TrainingConfig, initialize_from_scratch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset accelerate, which allows one device and one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("freeze", [0.0, 0.5])
def test_bf16_steps_train_a_loadable_model(folder, tmp_path, freeze):
    for split, count in (("train", 8), ("validation", 4), ("test", 4)):
        write_rankings(tmp_path, split, count, seed=len(split), images=4)
    model = RM.load(folder, device="cpu")
    initialize_from_scratch(model, 0)
    config = TrainingConfig(
        data=str(tmp_path), out=str(tmp_path / "run"), freeze=freeze, batch_size=4, accumulation=1, epochs=2,
        lr=2e-3, warmup_steps=1, validations=1, trackers=(), workers=2, mixed_precision="bf16",
    )  # fmt: skip
    trainer = Trainer(config, model)
    assert (trainer.accelerator.device.type, trainer.accelerator.mixed_precision) == ("cuda", "bf16")
    out = trainer.train()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    trained = RM.load(out, device="cuda")
    assert all(tensor.dtype == torch.float32 for tensor in trained.state_dict().values())
    # The saved weights are the first ones if no step had a lower validation loss.
    first, *_, last = (row["validation/loss"] for row in rows if "validation/loss" in row)
    assert first != last
    assert math.isfinite(trained.score("light day", str(tmp_path / "train" / "0_0.png")))

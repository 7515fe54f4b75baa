"""tools/make_tiny_pipeline.py writes a folder for diffusers, and resumes."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from tiny_pipeline import unet

    return unet


@pytest.mark.slow
def test_the_command_trains_a_pipeline_and_resumes_it(warm_training_python, tmp_path):
    few = ["--text-steps", "2", "--autoencoder-steps", "2", "--pictures", "8", "--prompts", "2"]
    for steps in ("1", "2"):
        command = [TOOLS / "make_tiny_pipeline.py", "--work", tmp_path / "work"]
        command += ["--out", tmp_path / steps, "--unet-steps", steps, *few]
        done = warm_training_python.run(command)
        assert done.returncode == 0, done.stderr
        card = (tmp_path / steps / "README.md").read_text(encoding="utf-8")
        assert f"{steps} of the UNet" in card
        assert "| 2 unseen |" in card
    pipelines = [StableDiffusionPipeline.from_pretrained(tmp_path / steps) for steps in ("1", "2")]
    weights = [torch.cat([p.flatten() for p in pipe.unet.parameters()]) for pipe in pipelines]
    assert not torch.equal(*weights)
    assert pipelines[1]("a red circle", num_inference_steps=2).images[0].size == (64, 64)


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted_training(parts, tmp_path):
    """Bitwise equal on the same processor."""
    generator = torch.Generator().manual_seed(0)
    data = parts.Latents(
        torch.randn(40, 4, 16, 16, generator=generator).half(),
        torch.randn(9, 16, 128, generator=generator).half(),
        torch.randint(9, (40, 4), generator=generator),
        torch.zeros(16, 128),
    )
    torch.manual_seed(0)
    uninterrupted = parts.UNetTraining(parts.make_unet(), seed=1)
    losses = [uninterrupted._step(data, 4) for _ in range(2)]
    uninterrupted.save(tmp_path / "unet.pt")
    resumed = parts.UNetTraining(parts.make_unet(), seed=1)
    resumed.load(tmp_path / "unet.pt")
    seen = {"whole": [], "resumed": []}
    for name, training in (("whole", uninterrupted), ("resumed", resumed)):
        training.run(data, 4, lambda step, loss, name=name: seen[name].append(loss), tmp_path / f"{name}.pt")
    assert len(seen["whole"]) == len(losses) == 2
    assert seen["whole"] == seen["resumed"]
    for one, other in zip(uninterrupted.ema_model().parameters(), resumed.ema_model().parameters()):
        assert torch.equal(one, other)

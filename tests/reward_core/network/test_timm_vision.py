"""A timm ViT as vision encoder: trained, saved and loaded. Skipped without timm."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranked_images import write_rankings

import reward_core as RM
from reward_core.errors import InputError, MissingExtraError
from reward_core.training import Trainer, TrainingConfig, starting_model

NAME = "vit_tiny_patch16_224"


def declare_torchvision_operators():
    """Import timm even if torchvision is built for another version of torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return None
    text = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in {*re.findall(r'register_meta\("(\w+)"', text), *re.findall(r'"torchvision::(\w+)"', text)}:
        library.define(f"{name}(Tensor x) -> Tensor")
    return library


@pytest.fixture(scope="module")
def timm():
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    declared = declare_torchvision_operators()
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    yield timm
    del declared


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_the_command_to_install_it_is_reported(folder):
    with pytest.raises(MissingExtraError, match=r"`pip install .*reward-core\[timm\]"):
        starting_model(TrainingConfig(init=str(folder), timm=NAME))


def test_a_timm_tower_is_trained_saved_and_loaded(timm, folder, tmp_path):
    write_rankings(tmp_path, "train", 8, seed=0, images=3)
    write_rankings(tmp_path, "validation", 3, seed=1, images=3)
    settings = TrainingConfig(
        init=str(folder), data=str(tmp_path), out=str(tmp_path / "run"), timm=NAME, timm_pretrained=False,
        image_size=64, freeze=0.5, freeze_text=0.0, epochs=2, batch_size=4, accumulation=1, lr=1e-3,
        trackers=(), cpu=True, cache=str(tmp_path / "cache"),
    )  # fmt: skip
    trainer = Trainer(settings)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    trainer.train()
    model = RM.load(tmp_path / "run", device="cpu")
    assert model.config.timm_vision == NAME
    assert model.config.image_size == 64
    assert model.config.pixel_mean == (0.5, 0.5, 0.5)
    changed = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    tower = "blip.visual_encoder.tower."
    assert f"{tower}blocks.6.attn.qkv.weight" in changed
    assert not [key for key in changed if key.startswith((f"{tower}blocks.5.", f"{tower}patch_embed"))]

    # The tokens are equal to timm's.
    own = timm.create_model(NAME, num_classes=0, img_size=64).eval()
    own.load_state_dict(
        {k.removeprefix(tower): v for k, v in model.state_dict().items() if k.startswith(tower)}
    )
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.encode_pixels(pixels), own.forward_features(pixels), atol=1e-5)
    fast = RM.load(tmp_path / "run", device="cpu")
    fast.set_encoder_dtype(torch.bfloat16)
    images = [tmp_path / "train" / f"0_{k}.png" for k in range(3)]
    exact, quick = (torch.tensor(m.score("light day", images)) for m in (model, fast))
    assert torch.allclose(exact, quick, atol=0.2)

    for name, output in (("resnet18", "not a plain ViT"), ("no_such_model", "has no model")):
        with pytest.raises(InputError, match=output):
            starting_model(replace(settings, timm=name))
    with pytest.raises(InputError, match="set freeze_text=0"):
        starting_model(replace(settings, freeze_text=-1.0))

"""Initial models of a run: from BLIP weights, a reward model or random weights, at another image size."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import CheckpointError, InputError, KeyMismatchError
from reward_core.network.blip import Blip
from reward_core.network.config import BlipConfig, RewardConfig
from reward_core.network.encoder_sizes import TextConfig
from reward_core.training import TrainingConfig, starting_model
from reward_core.training.starting_model import head_weights, interpolated_positions, sizes_of

IGNORED = (
    "visual_encoder_m.norm.weight",
    "text_encoder_m.x",
    "text_decoder.x",
    "itm_head.weight",
    "image_queue",
)


def blip_file(model, path, extra=None):
    """Save the parity model's encoders in the format of BLIP's pre-training file."""
    blip = {key.removeprefix("blip."): t for key, t in model.state_dict().items() if key.startswith("blip.")}
    torch.save({"model": {**blip, **{key: torch.ones(2) for key in IGNORED}, **(extra or {})}}, path)
    sizes = {k: v for k, v in model.config.to_dict().items() if k in BlipConfig().to_dict()}
    sizes["model_type"] = "blip-cosine"
    (path.parent / "config.json").write_text(json.dumps(sizes))
    model.tokenizer.save(path.parent)


def test_blip_weights_get_a_new_head(model, tmp_path):
    blip_file(model, tmp_path / "model_large.pth")
    initial = starting_model(TrainingConfig(init=str(tmp_path / "model_large.pth")))
    for key, tensor in model.state_dict().items():
        if key.startswith("blip."):
            assert tensor.equal(initial.state_dict()[key]), key
    assert initial.config.reward_mlp == (32, 1024, 128, 64, 16, 1)
    assert (initial.config.reward_mean, initial.config.reward_std, initial.config.score_quantiles) == (
        0,
        1,
        None,
    )
    features = torch.randn(200, 32)
    assert 0.3 < initial.mlp(features).std() < 3  # rewards on the scale of the features
    original = starting_model(TrainingConfig(init=str(tmp_path / "model_large.pth"), head_init="original"))
    assert original.mlp(features).std() < 0.05
    assert not any(p.requires_grad for p in initial.parameters())


def test_blip_weights_with_unknown_keys_are_refused(model, tmp_path):
    blip_file(model, tmp_path / "more.pth", {"text_encoder.unknown": torch.ones(2)})
    with pytest.raises(KeyMismatchError, match=r"unexpected.*text_encoder.unknown"):
        starting_model(TrainingConfig(init=str(tmp_path / "more.pth")))
    torch.save({"something.weight": torch.ones(2)}, tmp_path / "else.pt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="neither BLIP weights nor a reward model"):
        starting_model(TrainingConfig(init=str(tmp_path / "else.pt")))


@pytest.mark.parametrize(
    "config",
    [
        BlipConfig(),
        BlipConfig(
            image_size=384,
            vision_width=768,
            vision_depth=12,
            vision_heads=12,
            text=TextConfig(encoder_width=768),
        ),
    ],
)
def test_sizes_are_inferred_from_the_weights(config):
    with torch.device("meta"):
        blip = Blip(config.vision, config.text, config.proj_dim)
    assert sizes_of({f"blip.{key}": tensor for key, tensor in blip.state_dict().items()}, "x") == config


def test_the_original_head_has_the_original_standard_deviation():
    head = head_weights(RewardConfig(), "original", 0)
    assert list(head)[::2] == [f"mlp.layers.{i}.weight" for i in (0, 2, 4, 6, 7)]
    assert head["mlp.layers.0.weight"].std().item() == pytest.approx(1 / 769, rel=0.01)
    assert head["mlp.layers.2.weight"].std().item() == pytest.approx(1 / 769, rel=0.01)
    assert not head["mlp.layers.0.bias"].any()


def test_a_reward_model_keeps_its_head_unless_asked(model, folder, tmp_path, monkeypatch):
    initial = starting_model(TrainingConfig(init=str(folder)))
    assert initial.mlp.layers[0].weight.equal(model.mlp.layers[0].weight)
    again = starting_model(TrainingConfig(init=str(folder), head_init="scaled"))
    assert not again.mlp.layers[0].weight.equal(model.mlp.layers[0].weight)
    changed = starting_model(TrainingConfig(init=str(folder), drop_path=0.2, dropout=0.3, head_dropout=0.0))
    assert changed.config.vision_drop_path == 0.2
    assert changed.config.text.hidden_dropout_prob == 0.3
    assert changed.config.head_dropout == (0, 0, 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a known name takes precedence over a folder, as in load
    assert starting_model(TrainingConfig(init="tiny")).config.image_size == 64


def test_another_image_size_interpolates_positions(model, folder, tmp_path):
    initial = starting_model(TrainingConfig(init=str(folder), image_size=96))
    positions = initial.state_dict()["blip.visual_encoder.pos_embed"]
    assert positions.shape == (1, 37, 64)
    old = model.state_dict()["blip.visual_encoder.pos_embed"]
    assert positions[:, 0].equal(old[:, 0])
    initial.save_pretrained(tmp_path / "larger")
    larger = RM.load(tmp_path / "larger", device="cpu")
    assert larger.config.image_size == 96
    assert isinstance(larger.score("a dog", Image.new("RGB", (200, 120), "red")), float)
    # Away from the edges a ramp stays a ramp (bicubic ripples a little); 384 px are 24 patches a side.
    ramp = torch.linspace(0, 1, 14)[None, :, None].expand(14, 14, 1).reshape(1, 196, 1)
    wide = interpolated_positions(torch.cat([torch.zeros(1, 1, 1), ramp], 1), 24)[0, 1:, 0].view(24, 24)
    steps = wide.diff(dim=1)[:, 4:-4]
    assert steps.mean().item() == pytest.approx(14 / 24 / 13, rel=0.05)
    assert (steps > 0).all()
    assert torch.allclose(wide[0], wide[-1], atol=1e-6)
    with pytest.raises(InputError, match="multiple of 16"):
        starting_model(TrainingConfig(init=str(folder), image_size=100))


def test_training_from_scratch_accepts_an_architecture(folder):
    settings = TrainingConfig(init="scratch", architecture=str(folder), seed=3)
    one, same = starting_model(settings), starting_model(settings)
    other = starting_model(replace(settings, seed=4))
    key = "blip.visual_encoder.blocks.0.attn.qkv.weight"
    assert one.state_dict()[key].equal(same.state_dict()[key])
    assert not one.state_dict()[key].equal(other.state_dict()[key])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        starting_model(replace(settings, architecture="nowhere"))

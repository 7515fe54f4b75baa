"""Saving and loading of checkpoints in every format."""

import json
import socket
import warnings
from dataclasses import replace

import pytest
import torch

import reward_core as RM
from reward_core.network.config import RewardConfig
from reward_core.network.score_quantiles import ScoreQuantiles

PROMPT = "a red house by the ocean"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_saved_folder_loads_offline_and_gives_the_same_scores(model, parity, tmp_path, no_network):
    model.save_pretrained(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.startswith(".")]
    image = parity / "images" / "rgb.png"
    expected = model.score(PROMPT, image)
    for method in (RM.load, RM.RewardModel.from_pretrained):
        loaded = method(tmp_path / "saved", device="cpu")
        assert loaded.score(PROMPT, image) == expected
        assert loaded.config == model.config
    assert RM.load(tmp_path / "saved" / "model.safetensors", "cpu").score(PROMPT, image) == expected


def test_transformers_reads_the_saved_tokenizer(model, tmp_path, no_network):
    from transformers import AutoTokenizer

    model.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (PROMPT, "don't — it's 50% off!", "naïve café, 東京", "[SEP] and [ENC]"):
        assert theirs(prompt)["input_ids"] == model.tokenizer([prompt])[0][0].tolist()


def test_saving_twice_keeps_other_files(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_half_precision_files_load_as_float32(model, parity, tmp_path):
    half = RM.load(parity / "state_dict.pt", device="cpu").half()
    half.save_pretrained(tmp_path)
    loaded = RM.load(tmp_path, device="cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    image = parity / "images" / "rgb.png"
    assert loaded.score(PROMPT, image) == pytest.approx(model.score(PROMPT, image), abs=0.02)


def test_saving_weights_rounded_at_loading_is_reported(model, parity, tmp_path):
    fast = RM.load(parity / "state_dict.pt", device="cpu", precision="fast")
    fast.set_encoder_dtype(torch.bfloat16)  # as on a processor that is faster in 16 bits
    with pytest.warns(RM.errors.RoundedWeightsWarning, match="Load it with precision 'exact'"):
        fast.save_pretrained(tmp_path / "fast")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path / "exact")


def test_checkpoints_with_a_prefix_and_a_wrapper_load(model, parity, tmp_path):
    state = torch.load(parity / "state_dict.pt", weights_only=True)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "last.pt")
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((parity / name).read_bytes())
    image = parity / "images" / "rgb.png"
    assert RM.load(tmp_path / "last.pt", "cpu").score(PROMPT, image) == model.score(PROMPT, image)


def test_positional_arguments_are_those_of_the_original(model, parity, tmp_path):
    med_config = tmp_path / "med_config.json"
    med_config.write_text(json.dumps(json.loads((parity / "config.json").read_text())["med_config"]))
    loaded = RM.load(str(parity / "state_dict.pt"), "cpu", str(tmp_path), str(med_config))
    assert loaded.config.text == model.config.text
    assert loaded.device.type == "cpu"


def test_a_configuration_is_equal_after_a_round_trip_through_json():
    config = replace(
        RewardConfig.imagereward_v1(), image_size=64, score_quantiles=ScoreQuantiles((0.0, 1.5), "two")
    )
    assert RewardConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_imagereward_v1_has_the_published_size():
    config = RewardConfig.imagereward_v1()
    with torch.device("meta"):
        model = RM.RewardModel(config, tokenizer=None)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(446.7e6, abs=0.05e6)
    assert config.score_quantiles.source == "approximate, N(0,1)"
    keys = model.state_dict().keys()
    assert {
        "blip.visual_encoder.blocks.23.attn.qkv.bias",
        "mlp.layers.7.bias",
        "blip.text_proj.weight",
    } <= keys
    assert "blip.text_encoder.encoder.layer.11.crossattention.self.key.weight" in keys

"""Files of VQAScore: shards, torch files, larger vocabularies, image encoders, damaged parts, downloads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import reward_core as RM
from reward_core.errors import CheckpointError, InputError, KeyMismatchError
from reward_core.models.load import model_digest

DATA = Path(__file__).parents[2] / "data" / "parity_visionreward"
WEIGHTS, TOWER = "weights_clip_t5.safetensors", "vision_tower.vision_tower."
IMAGE, PROMPT = DATA / "pictures" / "wide.png", "three boxes"
SCORE = 0.2342517077922821  # in tests/data/parity_visionreward/alignment/pairs.json


def load(folder, **options):
    return RM.load("VQAScore", device="cpu", files=folder, **options)


def score(folder):
    return load(folder).score(PROMPT, IMAGE)


@pytest.fixture
def files(tmp_path):
    """Return a folder with a copy of the published files."""
    names = ("config.json", "spiece.model", WEIGHTS)
    (tmp_path / "files").mkdir()
    for name in names:
        shutil.copy(DATA / "alignment" / name, tmp_path / "files")
    return tmp_path / "files"


def write_shards(folder, state, count=3):
    """Replace the weights by torch files with an index, as published."""
    names = {key: f"pytorch_model-{i % count:05}-of-{count:05}.bin" for i, key in enumerate(state)}
    for file in set(names.values()):
        torch.save({key: state[key] for key in state if names[key] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / WEIGHTS).unlink()


def test_shards_with_all_rows_and_other_names_of_the_embeddings_score_the_same(files):
    state = load_file(files / WEIGHTS)
    more = torch.full((28, 48), 3.0)  # rows without tokens, which the authors drop
    for key in ("shared.weight", "lm_head.weight"):
        state[key] = torch.cat([state[key], more])
    for owner in ("", "encoder.", "decoder."):
        state[f"{owner}embed_tokens.weight"] = state["shared.weight"].clone()
    state[f"{TOWER}vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    write_shards(files, state)
    model = load(files)
    assert model.score(PROMPT, IMAGE) == pytest.approx(SCORE, abs=3e-6)
    assert model.network.t5.lm_head.weight.shape == model.network.t5.shared.weight.shape == (216, 48)
    assert sum(path.name.startswith("pytorch_model-0000") for path in model.source.weights) == 3
    next(files.glob("*00001-of*")).unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 files are missing: pytorch_model-00001-of-00003\.bin"):
        load(files)


def test_an_image_encoder_is_read_from_clip_if_the_weights_have_none(files):
    state = load_file(files / WEIGHTS)
    clip = {key.removeprefix(TOWER): value for key, value in state.items() if key.startswith(TOWER)}
    save_file({key: value for key, value in state.items() if not key.startswith(TOWER)}, files / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"has no image encoder\. Copy pytorch_model\.bin of openai"):
        load(files)
    (files / "clip-vit-large-patch14-336").mkdir()
    others = {"logit_scale": torch.zeros(()), "text_model.final_layer_norm.bias": torch.zeros(3)}
    torch.save(clip | others, files / "clip-vit-large-patch14-336" / "pytorch_model.bin")
    model = load(files)
    assert model.score(PROMPT, IMAGE) == pytest.approx(SCORE, abs=3e-6)
    assert [path.name for path in model.source.weights] == [WEIGHTS, "pytorch_model.bin"]


def test_weights_must_match_exactly(files):
    state = load_file(files / WEIGHTS)
    del state["mm_projector.2.bias"], state["encoder.final_layer_norm.weight"]
    state |= {"extra": torch.zeros(1), "encoder.embed_tokens.weight": torch.zeros(3, 48)}
    state["lm_head.weight"] = state["lm_head.weight"][:200].clone()
    save_file(state, files / WEIGHTS)
    with pytest.raises(KeyMismatchError) as caught:
        load(files)
    assert sorted(caught.value.missing) == ["encoder.final_layer_norm.weight", "mm_projector.2.bias"]
    assert caught.value.unexpected == ["extra"]
    assert {key for key, _, _ in caught.value.mismatched} == {"lm_head.weight", "encoder.embed_tokens.weight"}


def test_fewer_embeddings_than_tokens_are_refused(files):
    state = load_file(files / WEIGHTS)
    for key in ("shared.weight", "lm_head.weight"):
        state[key] = state[key][:215].clone()
    save_file(state, files / WEIGHTS)
    with pytest.raises(KeyMismatchError, match=r"shared\.weight"):
        load(files)


@pytest.mark.parametrize("name", [WEIGHTS, "spiece.model"])
def test_damaged_files_are_named(name, files):
    whole = (files / name).read_bytes()
    for content in (whole[:-1000], whole[:500], b"", b"<html>not found</html>"):
        (files / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"Cannot .* '.*{name}'"):
            load(files)


@pytest.mark.parametrize("name", ["config.json", "spiece.model", WEIGHTS])
def test_a_missing_part_is_named(name, files):
    (files / name).unlink()
    with pytest.raises(CheckpointError, match=rf"missing the \w+ \(.*{name}"):
        load(files)


def test_other_architectures_and_sizes_are_refused(files):
    content = json.loads((files / "config.json").read_text())
    for change, message in (
        ({"feed_forward_proj": "relu"}, "feed_forward_proj='relu' is not implemented. Use 'gated-gelu'"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer=-1 is not implemented. Use -2"),
        ({"vision_config": {"hidden_act": "gelu"}}, "hidden_act='gelu' is not implemented. Use 'quick_gelu'"),
        ({"vision_config": 3}, "expected a JSON object"),
        ({"d_model": "x"}, "text_width must be a whole number"),
        ({"num_heads": 0}, "text_heads must be"),
        ({"mm_hidden_size": 33}, "mm_hidden_size must be 32"),
    ):
        (files / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match=message):
            load(files)


def test_fast_is_bfloat16_and_int8_is_refused(files):
    model = load(files, precision="fast")
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.bfloat16}
    value = model.score(PROMPT, IMAGE)
    assert value == pytest.approx(SCORE, abs=0.03)  # the authors' program is off by up to 0.012
    assert value != pytest.approx(SCORE, abs=1e-6)
    with pytest.raises(InputError, match="Cannot use precision 'int8' with a VqaScorer"):
        load(files, precision="int8")


# Downloads and commands


@pytest.fixture
def downloaded(tmp_path, monkeypatch, files):
    """Put the files into the cache of the hub, in their repositories, the weights in shards."""
    write_shards(files, load_file(files / WEIGHTS))
    for repository in ("zhiqiulin--clip-flant5-xxl", "google--flan-t5-xxl"):
        folder = tmp_path / "hub" / f"models--{repository}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0123")
        (folder / "snapshots" / "0123").mkdir(parents=True)
        for file in files.iterdir():
            if (file.name == "spiece.model") == ("google" in repository):
                shutil.copy(file, folder / "snapshots" / "0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_commands_score_and_bulk_runs_keep_errors(downloaded, tmp_path, command):
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = [(PROMPT, IMAGE), ("two cats", "bad.png"), ("two cats", DATA / "pictures" / "tall.png")]
    (tmp_path / "pairs.csv").write_text("prompt,image\n" + "".join(f"{p},{i}\n" for p, i in rows))
    out = tmp_path / "scores.jsonl"
    done = command(
        "score", "--manifest", tmp_path / "pairs.csv", "--out", out, "--model", "vqascore", "--device", "cpu"
    )
    assert out.exists(), done.stderr
    scored = [json.loads(line) for line in out.read_text().splitlines()]
    assert scored[0]["score"] == pytest.approx(SCORE, abs=3e-6)
    assert (scored[1]["score"], scored[1]["error"] is None) == (None, False)
    assert scored[2]["score"] == pytest.approx(0.4817256, abs=3e-6)
    ranked = command("rank", "--model", "VQAScore", "--device", "cpu", PROMPT, IMAGE, rows[2][1])
    assert ranked.returncode == 0, ranked.stderr
    assert "0.234" in ranked.stdout


def test_the_digest_and_the_shards_are_those_of_the_download(downloaded):
    assert len(RM.load("VQAScore", device="cpu").source.weights) == 3
    before = model_digest("VQAScore")
    spiece = downloaded / "models--google--flan-t5-xxl" / "snapshots" / "0123" / "spiece.model"
    content = spiece.read_bytes()
    spiece.write_bytes(content.replace("▁a".encode(), "▁q".encode(), 1))
    assert model_digest("VQAScore") != before
    next((downloaded / "models--zhiqiulin--clip-flant5-xxl" / "snapshots" / "0123").glob("*2-of*")).unlink()
    with pytest.raises(RM.errors.HubError, match=r"pytorch_model-00002-of-00003\.bin of zhiqiulin"):
        RM.load("VQAScore", device="cpu")

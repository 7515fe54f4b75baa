"""Files of HPSv3 and HPSv3++: shards, torch files, missing and damaged parts, downloads."""

import ctypes
import gc
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import CheckpointError, InputError, KeyMismatchError

DATA = Path(__file__).parents[2] / "data" / "parity_scorers"
FOLDERS = {"HPSv3": "hpsv3", "HPSv3++": "hpsv3pp"}
WEIGHTS = {"HPSv3": "HPSv3.safetensors", "HPSv3++": "hpsv3pp.safetensors"}
IMAGE = Image.linear_gradient("L").resize((60, 40))


def load(name, folder):
    return RM.load(name, device="cpu", files=folder)


@pytest.fixture(scope="module", params=FOLDERS)
def named(request):
    """Return the name of a scorer and its score of an image."""
    return request.param, load(request.param, DATA / FOLDERS[request.param]).score("a cat", IMAGE)


@pytest.fixture
def files(named, tmp_path):
    """Return a folder with the files of the scorer."""
    shutil.copytree(DATA / FOLDERS[named[0]], tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def hpsv3(tmp_path):
    shutil.copytree(DATA / "hpsv3", tmp_path / "files")
    return tmp_path / "files"


def write_shards(folder, name, count=3):
    """Replace the weights by shards with an index."""
    state = load_file(folder / WEIGHTS[name])
    names = {key: f"model-{i % count:05}.safetensors" for i, key in enumerate(state)}
    for file in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / WEIGHTS[name]).unlink()


def test_shards_score_as_one_file(named, files):
    name, expected = named
    write_shards(files, name)
    model = load(name, files)
    assert model.score("a cat", IMAGE) == pytest.approx(expected, abs=1e-6)
    assert sum(path.name.startswith("model-0000") for path in model.source.weights) == 3
    (files / "model-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 files are missing: model-00001\.safetensors"):
        load(name, files)


def write_large_shards(folder):
    """Widen the MLPs of HPSv3 and write a shard per layer in bfloat16; return the bytes of each shard.

    So loading in float32 has to make new tensors instead of mapping the file.
    """
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 2**16}
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / WEIGHTS["HPSv3"])
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        layer = key.split("layers.")[1][0] if key.startswith("model.layers.") else "rest"
        if ".mlp." in key and layer != "rest":
            narrow = config["hidden_size"]
            value = torch.full((narrow, 2**16) if "down_proj" in key else (2**16, narrow), 1e-3)
        shards.setdefault(f"model-{layer}.safetensors", {})[key] = value.to(torch.bfloat16)
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {key: file for file, tensors in shards.items() for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / WEIGHTS["HPSv3"]).unlink()
    return [(folder / file).stat().st_size for file in shards]


def memory(kind):
    """Return VmRSS (now) or VmHWM (peak) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_loading_shards_needs_memory_for_the_weights_and_one_shard(hpsv3):
    sizes = write_large_shards(hpsv3)
    load("HPSv3", DATA / "hpsv3")  # imports
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # free memory would be used again without raising the peak
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from now
    model = load("HPSv3", hpsv3)
    peak = memory("VmHWM") - before
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert weights > 150e6
    assert 0.9 * weights < peak < weights + max(sizes) + 20e6


def test_torch_files_score_as_safetensors(named, files):
    name, expected = named
    published = {"HPSv3": "HPSv3.pth", "HPSv3++": "hpsv3++.pth"}[name]
    torch.save({"model": load_file(files / WEIGHTS[name])}, files / published)
    (files / WEIGHTS[name]).unlink()
    assert load(name, files).score("a cat", IMAGE) == pytest.approx(expected, abs=1e-6)


def test_int8_is_refused(hpsv3):
    with pytest.raises(InputError, match="Cannot use precision 'int8'"):
        RM.load("HPSv3", device="cpu", files=hpsv3, precision="int8")


def test_weights_must_match_exactly(named, files):
    name, _ = named
    state = load_file(files / WEIGHTS[name])
    del state["rm_head.5.bias"], state["lm_head.weight"]
    save_file({**state, "extra": torch.zeros(1)}, files / WEIGHTS[name])
    with pytest.raises(KeyMismatchError) as caught:
        load(name, files)
    assert caught.value.missing == ["head.rm_head.5.bias", "lm_head.weight"]
    assert caught.value.unexpected == ["extra"]


def test_damaged_weights_are_named(named, files):
    name, _ = named
    whole = (files / WEIGHTS[name]).read_bytes()
    for content in (whole[:-1000], whole[:500], b"", b"<html>not found</html>"):
        (files / WEIGHTS[name]).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"Cannot load '.*{WEIGHTS[name]}'"):
            load(name, files)


@pytest.mark.parametrize(
    "part", ["config.json", "tokenizer.json", "chat_template.json", "preprocessor_config.json"]
)
def test_a_missing_part_is_named(part, hpsv3):
    (hpsv3 / part).unlink()
    with pytest.raises(CheckpointError, match=rf"missing the \w+ \({part}"):
        load("HPSv3", hpsv3)


def test_another_base_model_is_refused(tmp_path):
    folder = shutil.copytree(DATA / "hpsv3", tmp_path / "files")
    shutil.copy(DATA / "hpsv3pp" / "config.json", folder)
    with pytest.raises(CheckpointError, match=r"expected the config\.json of a qwen2_vl model"):
        load("HPSv3", folder)


def test_a_tokenizer_with_another_number_of_tokens_is_refused(hpsv3):
    content = json.loads((hpsv3 / "tokenizer.json").read_text())
    content["added_tokens"].pop()
    (hpsv3 / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="embeddings for 655 tokens, but the tokenizer has 654"):
        load("HPSv3", hpsv3)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'][1]['text'] }}", r"once each, got \(1, 1, 0\)"),
        ("{% for %}", "Cannot use the chat template"),
        ("<|image_pad|><|vision_end|>" + "{{ messages[0]['content'][1]['text'] }}" * 2, r"got \(2, \d, 1\)"),
    ],
)
def test_a_chat_template_without_the_image_or_the_prompt_is_refused(template, message, hpsv3):
    (hpsv3 / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(CheckpointError, match=message):
        load("HPSv3", hpsv3)


def test_impossible_sizes_are_refused(hpsv3):
    content = json.loads((hpsv3 / "config.json").read_text())
    for change, message in (
        ({"num_hidden_layers": 9000}, "not those of a qwen2_vl model with 9,002 layers"),
        ({"hidden_size": "x"}, "a value is missing or invalid"),
        ({"num_attention_heads": 0}, "Cannot build a qwen2_vl model"),
    ):
        (hpsv3 / "config.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(CheckpointError, match=message):
            load("HPSv3", hpsv3)


def test_an_old_transformers_is_named(monkeypatch):
    importlib.import_module(
        "transformers.models.qwen3_vl.modeling_qwen3_vl"
    )  # may replace the package's module
    monkeypatch.setattr(sys.modules["transformers"], "Qwen3VLModel", None)
    with pytest.raises(InputError, match=r"needs transformers 4\.57 or later"):
        load("HPSv3++", DATA / "hpsv3pp")


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """Put the files of HPSv3 into the cache of the hub."""
    for repository in ("MizzenAI--HPSv3", "Qwen--Qwen2-VL-7B-Instruct"):
        folder = tmp_path / "hub" / f"models--{repository}"
        shutil.copytree(DATA / "hpsv3", folder / "snapshots" / "0123")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_bulk_runs_score_and_keep_errors(downloaded, tmp_path):
    IMAGE.save(tmp_path / "a.png")
    Image.new("RGB", (300, 1)).save(tmp_path / "strip.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = [("a cat", "a.png"), ("a dog", "bad.png"), ("a dog", "strip.png"), ("a dog", "a.png")]
    (tmp_path / "pairs.csv").write_text("prompt,image\n" + "".join(f"{p},{i}\n" for p, i in rows))
    settings = BulkSettings(model="HPSv3", devices=("cpu",))
    score_to_file(Manifest(tmp_path / "pairs.csv"), tmp_path / "scores.jsonl", settings)
    scored = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    model = load("HPSv3", DATA / "hpsv3")
    assert scored[0]["score"] == pytest.approx(model.score("a cat", IMAGE), abs=1e-4)
    assert scored[3]["score"] == pytest.approx(model.score("a dog", IMAGE), abs=1e-4)
    assert [row["score"] for row in scored[1:3]] == [None, None]
    assert "ratio over 200" in scored[2]["error"]

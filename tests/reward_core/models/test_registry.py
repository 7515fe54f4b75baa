"""Scorers by name: local files, plug-ins, every command, facts."""

import csv
import importlib
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import plugin_package
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import CheckpointError, InputError
from reward_core.models import plugins
from reward_core.models.load import model_digest
from reward_core.models.model_identity import identify
from reward_core.models.registry import BUILT_IN, find_spec

PICKSCORE = Path(__file__).parents[2] / "data" / "parity_scorers" / "pickscore"
TOOLS = Path(__file__).parents[3] / "tools"
PROMPT = "a red circle"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "pictures" / f"{i}.png" for i in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(PROMPT)
    return [str(path) for path in paths]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a folder on sys.path for packages with scorers."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    modules = set(sys.modules)
    yield folder
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]
    for cached in (plugins.plugin_spec, plugins._warn_once):
        cached.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture
def plugin(site):
    """Install a plug-in with the scorer "Tiny-CLIP" and return its reference model."""
    model = RM.load("PickScore", device="cpu", files=PICKSCORE)
    folder = plugin_package.install(site, "tiny_clip_package", {"Tiny-CLIP": "tiny_clip_package:SPEC"})
    model.save_pretrained(folder)
    return model


# Local files


def test_local_files_are_found_flat_and_in_subfolders(tmp_path):
    flat = RM.load("pickscore", device="cpu", files=PICKSCORE)
    places = {
        "model.safetensors": "PickScore_v1",
        "tokenizer.json": "clip-vit-large-patch14",
        "config.json": "config",
    }
    for name, subfolder in places.items():
        (tmp_path / subfolder).mkdir()
        shutil.copy(PICKSCORE / name, tmp_path / subfolder)
    nested = RM.load("PICKSCORE", device="cpu", files=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(flat.parameters(), nested.parameters()))
    assert flat.source.name == nested.source.name == "PickScore"
    assert flat.source.sha256 == nested.source.sha256
    assert len(flat.source.sha256) == 64


def test_every_missing_file_is_named_with_the_places_that_were_searched(tmp_path):
    (tmp_path / "HPSv2").mkdir()
    with pytest.raises(CheckpointError) as caught:
        RM.load("HPSv2.1", files=tmp_path)
    message = str(caught.value)
    assert "the weights (HPS_v2.1_compressed.pt or HPS_v2.1.pt or HPS_v2.1.safetensors" in message
    assert f"searched in '{tmp_path / 'HPSv2'}', '{tmp_path}'" in message
    assert "the tokenizer (tokenizer.json" in message
    assert "config" not in message  # the published sizes are known
    with pytest.raises(CheckpointError, match="no such folder"):
        RM.load("HPSv2.1", files=tmp_path / "absent")
    with pytest.raises(InputError, match="copies of the files of a scorer with a name"):
        RM.load(tmp_path, files=tmp_path)


def test_an_aesthetic_head_is_a_part_of_its_own(tmp_path):
    from reward_core.network.reward_head import RewardHead

    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        shutil.copy(PICKSCORE / name, tmp_path)
    head = RewardHead((40, 1024, 128, 64, 16, 1)).eval()
    torch.save(head.state_dict(), tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    aesthetic = RM.load("Aesthetic", device="cpu", files=tmp_path)
    image = Image.new("RGB", (30, 30), "red")
    with torch.no_grad():
        expected = head(RM.load("CLIP", device="cpu", files=tmp_path).encode_images([image]).data)
    assert aesthetic.score("anything", image) == pytest.approx(expected.item(), abs=1e-6)
    assert len(aesthetic.source.weights) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, spec in BUILT_IN.items() if spec.downloads()])
def test_every_published_layout_loads_from_local_files_and_saves(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from make_tiny_checkpoint import make_tiny_checkpoint

    make_tiny_checkpoint(name, tmp_path / "files")
    model = RM.load(name, device="cpu", files=tmp_path / "files", local_files_only=True)
    images = [Image.linear_gradient("L"), Image.new("RGB", (90, 60), "red")]
    scores = model.score_pairs(["a red house", "b"], images)
    assert len(set(scores.tolist())) == 2
    assert BUILT_IN[name].facts.reads_prompt == (
        not torch.equal(scores, model.score_pairs(["c", "d"], images))
    )
    pixels = torch.rand(1, 3, 50, 70, requires_grad=True)
    model.rewards_from_pixels(pixels, ["a"]).sum().backward()
    assert BUILT_IN[name].facts.differentiable == bool(pixels.grad.abs().max() > 0)
    if not BUILT_IN[name].model_type:  # models of the family cannot be saved
        return
    model.save_pretrained(tmp_path / "saved")
    saved = RM.load(tmp_path / "saved", device="cpu")
    assert type(saved) is type(model)
    torch.testing.assert_close(saved.score_pairs(["a red house", "b"], images), scores)


# Names


def test_names_ignore_case_but_existing_paths_come_first(tmp_path, monkeypatch):
    assert find_spec("imagereward-V1.0")[0] == "ImageReward-v1.0"
    monkeypatch.chdir(tmp_path)
    Path("clip").mkdir()
    assert find_spec("clip") is None
    assert find_spec("CLIP")[0] == "CLIP"


def test_the_registry_loads_without_torch():
    code = (
        "import sys\nfrom reward_core.models.registry import all_specs, find_spec\n"
        "all_specs(); find_spec('nothing')\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )


# Plug-ins


def test_a_broken_plugin_is_one_warning_and_the_others_load(plugin, site, caplog):
    plugin_package.install(site, "broken_package", {"broken": "broken_package:SPEC"}, "import absent_module")
    plugin_package.install(site, "wrong_package", {"wrong": "wrong_package:SPEC"}, "SPEC = 1")
    plugin_package.install(site, "taker_package", {"clip": "taker_package:SPEC"})
    with caplog.at_level(logging.WARNING, "reward_core"):
        assert RM.available_models() == [*BUILT_IN, "Tiny-CLIP"]
        RM.available_models()
        with pytest.raises(InputError, match="Cannot find the model: 'broken' is"):
            RM.load("broken")
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(message.split(":")[0] for message in messages) == [
        "ignoring the scorer 'broken' of the package 'broken_package'",
        "ignoring the scorer 'clip' of the package 'taker_package'",
        "ignoring the scorer 'wrong' of the package 'wrong_package'",
    ]
    assert isinstance(RM.load("tiny-clip", device="cpu"), type(plugin))


def test_a_plugin_is_imported_only_for_its_name(plugin):
    RM.load("tiny", device="cpu")
    assert "tiny_clip_package" not in sys.modules
    RM.load("Tiny-CLIP", device="cpu")
    assert "tiny_clip_package" in sys.modules


# Every command takes every name


@pytest.mark.slow
def test_every_command_takes_the_name_of_any_scorer(plugin, pictures, tmp_path, command):
    expected = plugin.score(PROMPT, pictures)
    best = int(np.argmax(expected))
    done = command("rank", PROMPT, *pictures, "--model", "tiny-clip")
    assert "percentile" not in done.stdout
    done = command("rank", PROMPT, *pictures, "--model", "tiny-clip", "--json")
    results = json.loads(done.stdout)["results"]
    assert results[0]["image"] == pictures[best]
    assert [row["percentile"] for row in results] == [None] * 3
    folder = Path(pictures[0]).parent
    done = command("score", "--folder", folder, "--out", tmp_path / "a.csv", "--model", "Tiny-CLIP")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "a.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert scores == pytest.approx(expected, abs=1e-4)
    done = command("tag", *pictures, "--prompt", PROMPT, "--model", "Tiny-CLIP")
    assert "Tiny-CLIP Score" in done.stdout
    assert "percentile" not in done.stdout
    done = command("sort", folder, "--into", "best,rest", "--top", "1")
    assert Path(pictures[best]).name in done.stdout
    pairs = {"prompt": PROMPT, "images": [Path(p).name for p in pictures], "ranking": [1, 2, 3]}
    (folder / "data.jsonl").write_text(json.dumps(pairs))
    done = command("evaluate", "Tiny-CLIP", "--data", folder / "data.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "Tiny-CLIP"


def test_every_integration_takes_the_name_of_any_scorer(plugin, pictures):
    from refl.checks.input_checks import check_rewards
    from refl.config import RewardConfig
    from refl.rewards import load_rewards
    from reward_benchmark.scorers import load_bundle
    from reward_core.app.models import Models
    from reward_core.integrations.torchmetrics import RewardScore

    expected = plugin.score(PROMPT, pictures)
    tolerance = {"abs": 1e-4}
    metric = RewardScore("Tiny-CLIP", reduction="none")
    metric.update(pictures, [PROMPT] * 3)
    assert metric.compute().tolist() == pytest.approx(expected, **tolerance)
    assert Models(["tiny-clip"], device="cpu")["tiny-clip"].score(PROMPT, pictures) == pytest.approx(
        expected, **tolerance
    )
    bundle = load_bundle(("Tiny-CLIP",), "cpu")
    rows = [row["Tiny-CLIP"] for row in bundle.score_rows([PROMPT] * 3, pictures, None)]
    assert [row.score for row in rows] == pytest.approx(expected, **tolerance)
    assert bundle.sources()["Tiny-CLIP"].startswith("Tiny-CLIP (sha256 ")
    check_rewards(["tiny-clip"])
    rewards = load_rewards([RewardConfig("Tiny-CLIP")], torch.device("cpu"))
    rewards.check(32, 32, torch.device("cpu"))
    assert rewards.sources == bundle.sources()
    assert identify("tiny-clip").score_key == "Tiny-CLIP Score"
    assert len(model_digest("tiny-clip")) == 64


# Facts


def test_the_list_fits_80_columns_and_has_all_facts_as_json(command):
    done = command("models", width=80)
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name in BUILT_IN:
        assert name in done.stdout
    facts = json.loads(command("models", "--json").stdout)
    assert facts["HPSv2.1"]["weights_license"]["name"] == "Apache-2.0"
    assert facts["Aesthetic"]["reads_prompt"] is False
    assert [file["filename"] for file in facts["PickScore"]["downloads"]] == [
        "model.safetensors",
        "tokenizer.json",
    ]
    for name, spec in BUILT_IN.items():
        for part in (spec.facts.code_license, spec.facts.weights_license):
            assert (part.name == "unknown") == (not part.source), name

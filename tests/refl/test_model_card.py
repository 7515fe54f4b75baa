"""The model card of a run, and its upload."""

import ast
import json

import numpy as np
import pytest
import yaml
from PIL import Image
from toy_runs import PROMPTS, train

from refl.cli import main
from refl.compare import base_of_run
from refl.config import ModelConfig, RewardConfig, RunConfig, TrainConfig
from refl.publishing.base_card import base_license
from refl.publishing.model_card import CardFacts, model_card
from refl.publishing.published_names import base_model
from refl.records.curves import draw_curves, panels_of


def front_matter(card):
    return yaml.safe_load(card.split("---\n", 2)[1])


@pytest.fixture(scope="module")
def run(pipelines, tmp_path_factory):
    """A finished run of two steps; the base model's card states a license."""
    base = tmp_path_factory.mktemp("base") / "my-base"
    base.symlink_to(pipelines("sd"))
    folder = tmp_path_factory.mktemp("runs") / "red"
    (base / "README.md").write_text("---\nlicense: mit\nlicense_link: LICENSE\n---\n# base\n")
    train(str(base), folder, "model.lora_rank=4", "optimizer.lr=3e-2")
    (base / "README.md").unlink()
    return folder


def test_the_card_follows_the_conventions_of_the_hub(run):
    card = (run / "model/README.md").read_text()
    data = front_matter(card)
    assert "base_model" not in data  # a local folder
    assert str(run.parent) not in card
    assert data["license"] == "mit"
    assert "license_link" not in data  # a file that is not part of this repository
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert {"text-to-image", "lora", "diffusers", "stable-diffusion", "template:sd-lora"} <= set(data["tags"])
    assert [entry["text"] for entry in data["widget"]] == [p for p in PROMPTS[-2:] for _ in range(2)]
    assert "`red_comfyui.safetensors`" in card
    assert "`<lora:red_comfyui:1>`" in card
    assert (run / "model/red_comfyui.safetensors").is_file()
    assert base_of_run(run / "model").endswith("my-base")  # for `refl compare`


def test_the_images_of_the_card_are_those_of_the_validations(run):
    widget = front_matter((run / "model/README.md").read_text())["widget"]
    second = np.asarray(Image.open(run / "samples/step-000002/001-0.png"))
    urls = [entry["output"]["url"] for entry in widget]
    assert urls == ["images/before-1.png", "images/after-1.png", "images/before-2.png", "images/after-2.png"]
    assert np.array_equal(np.asarray(Image.open(run / "model" / urls[3])), second)
    assert not np.array_equal(np.asarray(Image.open(run / "model" / urls[2])), second)


def test_rewards_have_intervals_over_prompts(run):
    rewards = [
        json.loads((run / f"samples/step-00000{i}/scores.json").read_text())["rewards"]["red"] for i in (0, 2)
    ]
    before, after = (np.array(values).reshape(2, 2).mean(1) for values in rewards)
    row = next(
        line for line in (run / "model/README.md").read_text().splitlines() if line.startswith("| red |")
    )
    cells = [cell.strip() for cell in row.split("|")[2:5]]
    for cell, values in zip(cells, (before, after, after - before)):
        # Resamples of two prompts: the interval spans both.
        numbers = [float(part.strip("[],")) for part in cell.split()]
        assert numbers == pytest.approx([values.mean(), values.min(), values.max()], abs=6e-4)


def test_runs_that_cannot_be_pushed_are_refused(run, capsys):
    for arguments, message in (
        ([run], "no repository is named. Set --to OWNER/NAME"),
        ([run.parent, "--to", "me/red"], "not the folder of a finished run"),
        ([run, "--to", "red"], "the name must be OWNER/NAME"),
    ):
        assert main(["push", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


def test_a_failed_upload_leaves_the_card_unchanged(run, capsys, monkeypatch):
    card = (run / "model/README.md").read_text()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["push", str(run), "--to", "me/red"]) == 2
    assert "me/red" in capsys.readouterr().err
    assert (run / "model/README.md").read_text() == card


def test_letters_of_other_alphabets_are_readable_in_the_card():
    facts = CardFacts([], 4, True, "FluxPipeline", 2, images=(("ein schöner Hügel, 東京", "a.png", "b.png"),))
    config = TrainConfig(rewards=(RewardConfig("tiny"),), run=RunConfig(out="Größe"))
    card = model_card(config, facts)
    assert front_matter(card)["widget"][0]["text"] == "ein schöner Hügel, 東京"
    assert "text: ein schöner Hügel, 東京" in card
    assert "out: Größe" in card


def test_base_models_are_hub_ids_or_left_out(tmp_path):
    snapshot = tmp_path / "models--me--base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert base_model(str(snapshot)) == "me/base"
    assert base_model(str(tmp_path)) is None
    assert base_model("me/base") == "me/base"
    assert base_license(str(snapshot)) == {}  # no card: no license is invented
    (snapshot / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert base_license(str(snapshot)) == {}


def test_the_card_escapes_names(tmp_path):
    name = 'a"\n---\n```\n\x1b[31m\u202e<script>](x)$\\frac{'
    config = TrainConfig(
        model=ModelConfig(id=name), rewards=(RewardConfig(name),), run=RunConfig(out=f"runs/{name}")
    )
    rows = [{"step": step, f"validation/{name}": 0.5, f"reward/{name}": 0.1} for step in (0, 4)]
    images = ((name, "images/before-1.png", "images/after-1.png"),)
    facts = CardFacts(
        rows, 4, True, "StableDiffusionPipeline", 2, images=images, comfyui_file="x.safetensors"
    )
    card = model_card(config, facts)
    assert "\x1b" not in card
    assert "\u202e" not in card
    _, front, rest = card.split("---\n", 2)
    assert yaml.safe_load(front)["widget"][0]["text"] == name
    code, rest_of_card = rest.split("```python\n")[1].split("\n```\n", 1)
    assert "<script" not in rest.split("```python")[0]
    line = next(line for line in code.splitlines() if "from_pretrained" in line)
    assert isinstance(ast.parse(line).body[0].value.args[0].value, str)
    assert rest_of_card.rstrip().endswith("\n````")
    draw_curves(panels_of(rows), tmp_path / "curves.png")


def test_a_hub_model_is_the_base_model_of_the_card():
    config = TrainConfig(model=ModelConfig(id="me/base"), rewards=(RewardConfig("tiny"),))
    for is_lora, relation in ((True, "adapter"), (False, "finetune")):
        data = front_matter(model_card(config, CardFacts([], 4, is_lora, "FluxPipeline", 2)))
        assert (data["base_model"], data["base_model_relation"]) == ("me/base", relation)
        assert ("lora" in data["tags"]) == is_lora
        assert "license" not in data
        assert "widget" not in data

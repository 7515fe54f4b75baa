"""Commands with --files: local copies of the published files of a model."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reward_core as RM

PICKSCORE = Path(__file__).parents[2] / "data" / "parity_scorers" / "pickscore"
PROMPT = "a red circle"
MODEL = ("--model", "PickScore", "--files", PICKSCORE)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        path = tmp_path / "pictures" / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(PROMPT)
    return sorted((tmp_path / "pictures").glob("*.png"))


@pytest.fixture
def expected(pictures):
    model = RM.load("PickScore", device="cpu", files=PICKSCORE)
    return pytest.approx(model.score_pairs([PROMPT] * 3, pictures).tolist(), abs=1e-5)


def test_rank_reads_the_published_files_of_a_folder(command, pictures, expected):
    done = command("rank", PROMPT, *pictures, *MODEL, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == "PickScore"
    scores = {result["image"]: result["score"] for result in document["results"]}
    assert [scores[str(picture)] for picture in pictures] == expected


def test_a_bulk_run_reads_them_and_refuses_to_resume_with_others(command, pictures, expected, tmp_path):
    folder = pictures[0].parent
    done = command("score", "--folder", folder, "--out", tmp_path / "scores.csv", *MODEL)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "scores.csv").open() as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == expected
    out = f"{tmp_path / 'shards'}/"
    assert command("score", "--folder", folder, "--out", out, *MODEL).returncode == 0
    other = tmp_path / "other"
    shutil.copytree(PICKSCORE, other)
    changed = RM.load("PickScore", device="cpu", files=PICKSCORE)
    next(changed.parameters()).data.add_(1)
    changed.save_pretrained(other)
    shutil.copy(PICKSCORE / "config.json", other)
    done = command("score", "--folder", folder, "--out", out, "--model", "PickScore", "--files", other)
    assert done.returncode == 2
    assert "model was " in done.stderr


def test_a_missing_file_and_several_models_are_refused(command, pictures, tmp_path):
    done = command("rank", PROMPT, *pictures, "--model", "PickScore", "--files", tmp_path)
    assert done.returncode == 2
    assert "missing the weights (model.safetensors; searched in" in done.stderr
    done = command("rank", PROMPT, *pictures, *MODEL, "--model", "tiny")
    assert done.returncode == 2
    assert "Cannot use files with 2 models" in done.stderr


@pytest.mark.parametrize(
    ("name", "file"), [("ImageReward-v1.0", "ImageReward.pt"), ("HPSv2.1", "HPS_v2.1_compressed.pt")]
)
def test_a_folder_of_published_files_as_model_explains_the_option(command, pictures, tmp_path, name, file):
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / file).write_bytes(b"weights")
    done = command("rank", PROMPT, *pictures, "--model", tmp_path / "copies")
    assert done.returncode == 2
    assert f"--model {name} --files {tmp_path / 'copies'}" in done.stderr


def test_the_authors_configuration_explains_the_option(command, pictures, tmp_path):
    shutil.copytree(PICKSCORE, tmp_path / "copies")
    done = command("rank", PROMPT, *pictures, "--model", tmp_path / "copies")
    assert done.returncode == 2
    assert "--model NAME --files FOLDER" in done.stderr


def test_evaluate_and_the_page_read_them(command, pictures, expected, tmp_path):
    from reward_core.app.models import Models

    data = [{"prompt": PROMPT, "generations": [path.name for path in pictures], "ranking": [1, 2, 3]}]
    (tmp_path / "rankings.json").write_text(json.dumps(data))
    options = ("--data", tmp_path / "rankings.json", "--images", pictures[0].parent, "--json")
    done = command("evaluate", "PickScore", "--files", PICKSCORE, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "PickScore"
    models = Models(["PickScore"], device="cpu", files=str(PICKSCORE))
    assert models["PickScore"].score_pairs([PROMPT] * 3, pictures).tolist() == expected

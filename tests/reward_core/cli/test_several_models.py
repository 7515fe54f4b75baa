"""Commands with --model A --model B: a column of scores for each model."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_clips import save_tiny_clips

import reward_core as RM
from reward_core import shapes

PROMPT = "a red circle"
BOTH = ("tiny", "tiny-judge")
MODELS = ("--model", "tiny", "--model", "tiny-judge")


@pytest.fixture(scope="module")
def group():
    return RM.load(BOTH, device="cpu")


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.iterdir())


def test_rank_gives_score_rank_and_percentile_of_each_model(command, group, pictures):
    done = command("rank", PROMPT, *pictures, "none.png", *MODELS, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["models"] == list(BOTH)
    assert document["failed"] == [{"image": "none.png", "error": "no such file"}]
    results = {result["image"]: result["scores"] for result in document["results"]}
    for name, (ranks, rewards) in group.inference_rank(PROMPT, pictures).items():
        for picture, rank, reward in zip(pictures, ranks, rewards):
            found = results[str(picture)][name]
            assert (found["place"], found["score"]) == (rank, pytest.approx(reward, abs=1e-5))
            assert found["percentile"] == pytest.approx(group[name].percentile(reward), abs=0.01)
    assert [result["scores"]["tiny"]["place"] for result in document["results"]] == [1, 2, 3, 4]


def test_tables_of_several_models_fit_80_columns_and_say_what_scores_mean(
    command, group, pictures, monkeypatch
):
    monkeypatch.chdir(pictures[0].parent)
    names = [picture.name for picture in pictures]
    done = command("rank", PROMPT, *names, *MODELS, width=80)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    ranks, rewards = group.inference_rank(PROMPT, pictures)["tiny-judge"]
    for rank, reward in zip(ranks, rewards):
        assert f"{reward:.4f} ({rank})" in done.stdout
    words = " ".join(done.stdout.split())
    assert "tiny: about N(0, 1), higher is better" in words
    assert "tiny-judge: about N(0, 1), higher is better" in words
    alone = " ".join(command("rank", PROMPT, *names, "--model", "tiny").stdout.split())
    assert "tiny: about N(0, 1), higher is better" in alone


def test_a_model_without_known_scores_has_no_line_about_their_meaning(command, pictures, tmp_path_factory):
    clips = save_tiny_clips(tmp_path_factory.mktemp("clips"))
    done = command("rank", PROMPT, *pictures, "--model", clips["HPS"], "--model", "tiny")
    assert "HPS" in done.stdout
    assert "HPS:" not in done.stdout


@pytest.mark.slow
def test_evaluate_compares_models_on_the_same_pairs(command, tmp_path):
    data = tmp_path / "data"
    shapes.write_groups(shapes.make_groups(6, shapes.HELD_OUT, "held_out"), data)
    alone = [json.loads(command("evaluate", name, "--data", data, "--json").stdout) for name in BOTH]
    done = command("evaluate", *BOTH, "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["models"]
    for name, expected in zip(BOTH, alone):
        assert found[name]["pooled_accuracy"] == pytest.approx(expected["pooled_accuracy"])
        assert found[name]["pairs"] == expected["pairs"]
    table = command("evaluate", *BOTH, "--data", data, width=80)
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert all(f"{found[name]['pooled_accuracy']:.1%}" in table.stdout for name in BOTH)


def test_score_streams_a_folder_with_several_models(command, group, pictures):
    for picture in pictures:
        picture.with_suffix(".txt").write_text(PROMPT)
    out = pictures[0].parent / "scores.jsonl"
    done = command("score", "--folder", out.parent, "--out", out, *MODELS, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = group.score(PROMPT, pictures)
    for name in BOTH:
        assert [row[name] for row in rows] == pytest.approx(expected[name], abs=1e-5)
    twice = command("score", "--folder", out.parent, "--out", out, "--model", "tiny", "--model", "TINY")
    assert (twice.returncode, "'tiny' twice" in twice.stderr) == (2, True)

"""VisionReward: checklists, their score, and the scorer that asks a vision-language model."""

import csv
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import plugin_package
import pytest
import torch
from PIL import Image
from toy_vlm import ColorVLM

import reward_core as RM
from reward_core.app.image_ranking import rank_images
from reward_core.app.results import results_html
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import CheckpointError, ImageError, InputError, RunInterrupted
from reward_core.models import plugins
from reward_core.models.visionreward.checklist import (
    Checklist,
    ChecklistQuestion,
    published_structure,
    read_checklist,
)
from reward_core.models.visionreward.checklist_score import checklist_score
from reward_core.models.visionreward.scorer import ChecklistReward

PARITY = Path(__file__).parents[2] / "data" / "parity_scorers" / "visionreward" / "scores.json"
COLORS = Checklist(
    "colors",
    (
        ChecklistQuestion("Is it red?", "warm", opens="red"),
        ChecklistQuestion("Is it green?", "cold", 1.5),
        ChecklistQuestion("Is it blue?", "cold", 2.0, gate="red"),
    ),
    intercept=0.25,
)


# The score


def test_scores_are_those_of_the_authors_program():
    reference = json.loads(PARITY.read_text())
    for bits, alignment, score in reference["rows"]:
        assert checklist_score([bit == "1" for bit in bits], alignment) == pytest.approx(score, abs=1e-12)
    assert len(reference["rows"]) == 200
    published = published_structure()
    weights = [q.weight for q in published.questions if not q.opens]
    assert [published.alignment_weight, *weights] == reference["coef"]
    assert [published.intercept] == reference["intercept"]
    closed = {gate: [i for i, g in enumerate(published.gates) if g == gate] for gate in range(3)}
    assert closed == {int(gate): questions for gate, questions in reference["gate_map"].items()}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([True] * 29, "got 29 answers for 30 questions"),
        ([True] * 29 + [None], "answer 30 is None"),
        (["yes"] + [True] * 29, "answer 1 is 'yes'"),
        ([1] + [True] * 29, "answer 1 is 1"),
        ([True, math.nan] + [True] * 28, "answer 2 is nan"),
    ],
)
def test_a_missing_answer_has_no_score(answers, message):
    with pytest.raises(InputError, match=message):
        checklist_score(answers, 0.5)


# Checklist files


def test_a_checklist_file_is_read_as_it_was_written(tmp_path):
    COLORS.save(tmp_path / "checklist.json")
    assert read_checklist(tmp_path / "checklist.json") == COLORS
    assert json.loads((tmp_path / "checklist.json").read_text())["format_version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "it has format 2, this version reads format 1"),
        ({"bias": 1.0}, "expected an object with the keys"),
        ({"questions": []}, "at least one question"),
        ({"questions": [{"text": "Is it red?", "weight": "1"}]}, "question 1: 'weight' must be a number"),
        ({"questions": [{"weight": 1.0}]}, "question 1: its text is missing"),
        ({"questions": [{"text": "a"}, {"text": "b", "gate": "c"}]}, "question 2: no question opens"),
        ({"questions": [{"text": "a", "opens": "c"}] * 2}, "two questions open the gate 'c'"),
        ({"questions": [{"text": "a", "opens": "c"}, {"opens": "d", "gate": "c"}]}, "cannot have one"),
        ({"intercept": float("inf")}, "finite weights"),
    ],
)  # fmt: skip
def test_a_wrong_checklist_file_is_an_error_that_names_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "checklist.json"
    path.write_text(json.dumps({**COLORS.to_dict(), **change}))
    with pytest.raises(CheckpointError, match=message):
        read_checklist(path)


def test_the_authors_questions_are_read_one_a_line(tmp_path):
    path = tmp_path / "VisionReward_image_qa_select.txt"
    texts = [f"Is it number {i}?" for i in range(30)]
    path.write_text("  \n".join(texts))  # blanks at the ends of lines, and no newline after the last one
    checklist = read_checklist(path)
    assert checklist.texts == texts
    assert checklist_score([True] * 30, 1.0, checklist) == pytest.approx(4.891194174010991, abs=1e-12)
    path.write_text("\n".join(texts[:29]))
    with pytest.raises(CheckpointError, match="29 of its 29 lines are not empty; VisionReward-Image has 30"):
        read_checklist(path)


# Another list and another model


@pytest.fixture
def colors():
    return ChecklistReward(ColorVLM(), COLORS).eval().requires_grad_(False)


def images(*names):
    return [Image.new("RGB", (9 + i, 7), name) for i, name in enumerate(names)]


def test_another_list_and_model_score_by_answers_and_gates(colors):
    found = images("white", "red", "cyan", "black")
    expected = [0.25 + 1.5 + 2, 0.25 - 1.5 - 2, 0.25 + 1.5, 0.25 - 1.5]
    assert colors.score("any", found) == expected
    assert colors.inference_rank("any", found)[0] == [1, 4, 2, 3]
    assert colors.score_matrix(["a", "b"], found).tolist() == [expected] * 2
    assert colors.score_pairs(["a"] * 4, found, batch_size=3).tolist() == expected
    assert colors.answers(found[0]) == [True, True, True]
    assert colors.answers(found, ["Is it blue?"]) == [[True], [False], [True], [False]]
    with pytest.raises(InputError, match="no questions given"):
        colors.answers(found[0], [])
    with pytest.raises(InputError, match="without an alignment model: the alignment has weight 2"):
        ChecklistReward(ColorVLM(), Checklist("x", COLORS.questions, alignment_weight=2.0))
    model = ChecklistReward(colors.vlm, replace(published_structure(), alignment_weight=0.0))
    assert model.answers(found[0], ["Is it blue?"]) == [True]
    with pytest.raises(InputError, match="questions of 'VisionReward-Image': their texts are missing"):
        model.score("any", found[0])


def test_a_question_without_an_answer_is_an_error_of_its_image(colors, tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in ("white", "gray", "red")]
    for path, image in zip(paths, images("white", "gray", "red")):
        image.save(path)
    reason = "the model has no answer to question 2, 'Is it green?': its outputs are not finite"
    colors.vlm.broken = "gray"  # has no answers about gray
    rows = list(colors.score_rows(["any"] * 3, paths))
    assert [row.score for row in rows] == [3.75, None, -3.25]
    assert reason in rows[1].error
    for call in (colors.score_matrix, colors.score_pairs):
        with pytest.raises(ImageError, match=re.escape(reason)) as caught:
            call(["any"] * 3, paths)
        assert paths[1] in str(caught.value)
    with pytest.raises(ImageError, match="question 1, 'Is it green"):
        colors.answers(paths[1], ["Is it green?"])
    with pytest.raises(ImageError, match=re.escape(reason)):
        colors.explain("any", paths[1])


def test_an_explanation_adds_up_to_the_score(colors):
    white, cyan = images("white", "cyan")
    explanation = colors.explain("any", cyan)
    assert explanation.score == colors.score("any", cyan) == 1.75
    assert [(j.question, j.answer, j.counts, j.adds) for j in explanation.judgments] == [
        ("Is it green?", True, True, 1.5),
        ("Is it blue?", True, False, 0.0),
    ]
    assert explanation.gates == {"red": False}
    assert explanation.alignment is None
    assert [e.score for e in colors.explain("any", [white, cyan])] == [3.75, 1.75]


def test_the_expected_score_carries_gradients_through_answers_and_gates(colors):
    pixels = torch.tensor([0.6, 0.9, 0.9]).view(1, 3, 1, 1).expand(2, 3, 16, 16).clone().requires_grad_()
    scores = colors.rewards_from_pixels(pixels, ["a", "b"])
    p = torch.sigmoid(20 * (torch.tensor([0.6, 0.9, 0.9]) - 0.5))
    expected = 0.25 + 1.5 * (2 * p[1] - 1) + 2 * (2 * p[2] - 1) * p[0]
    assert scores.tolist() == pytest.approx([float(expected)] * 2, abs=1e-5)
    scores.sum().backward()
    red = pixels.grad.sum((2, 3))[0, 0]  # only the gate depends on red
    assert float(red) == pytest.approx(float(2 * (2 * p[2] - 1) * 20 * p[0] * (1 - p[0])), rel=1e-4)
    certain = torch.stack([torch.ones(3, 16, 16), torch.zeros(3, 16, 16)])
    with torch.no_grad():
        sure = colors.rewards_from_pixels(certain, ["a", "b"])
    assert sure.tolist() == pytest.approx(colors.score("a", images("white", "black")), abs=1e-3)


# Beside other scorers

NO_ANSWER = "Colors: the model has no answer to question 2, 'Is it green?': its outputs are not finite"
SHADES = ("white", "gray", "red", "black", "cyan")
COLOR_SCORES = [3.75, None, -3.25, -1.25, 1.75]


@pytest.fixture
def shades(tmp_path):
    """Paths of five images, one of which Colors cannot answer a question about, and of a missing file."""
    paths = [str(tmp_path / f"{name}.png") for name in SHADES]
    for path, image in zip(paths, images(*SHADES)):
        image.save(path)
    return [*paths, str(tmp_path / "none.png")]


@pytest.mark.parametrize("order", [("Colors", "tiny"), ("tiny", "Colors")])
def test_an_image_that_one_scorer_refuses_has_the_others_scores(colors, shades, order):
    colors.vlm.broken = "gray"
    tiny = RM.load("tiny", device="cpu")
    group = RM.ScorerGroup({name: {"Colors": colors, "tiny": tiny}[name] for name in order})
    prompts = ["a red circle"] * 6
    for batch_size in (2, 6):
        rows = list(group.score_rows(prompts, shades, batch_size=batch_size))
        assert [row.error for row in rows] == [None, NO_ANSWER, None, None, None, "no such file"]
        assert [row.scores.get("Colors") for row in rows] == [*COLOR_SCORES, None]
        alone = tiny.score_pairs(prompts[:5], shades[:5]).tolist()
        assert [row.scores["tiny"] for row in rows[:5]] == pytest.approx(alone, abs=2e-5)
        assert rows[5].scores == {}
    with pytest.raises(ImageError, match="no answer to question 2"):
        group.score_pairs(prompts[:5], shades[:5])


@pytest.mark.parametrize("order", [("Colors", "tiny"), ("tiny", "Colors")])
@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_a_bulk_run_writes_the_scores_of_the_scorers_that_read_an_image(named, shades, order, extension):
    prompts = ["a red circle"] * 6
    manifest, out = Path(shades[0]).parent / "pairs.csv", Path(shades[0]).parent / f"scores.{extension}"
    lines = [",".join(pair) for pair in zip(prompts, shades)]
    manifest.write_text("\n".join(["prompt,image", *lines, f",{shades[0]}"]) + "\n")
    settings = BulkSettings(order, devices=("cpu",), batch_size=4, shard_rows=5)
    summary = score_to_file(Manifest(manifest), out, settings)
    assert (summary.rows, summary.failed) == (7, 3)
    text = out.read_text()
    rows = (
        list(csv.DictReader(text.splitlines()))
        if extension == "csv"
        else [*map(json.loads, text.splitlines())]
    )
    found = [
        {name: float(row[name]) if row[name] not in ("", None) else None for name in order} for row in rows
    ]
    assert [row["error"] or None for row in rows[:6]] == [None, NO_ANSWER, None, None, None, "no such file"]
    assert rows[6]["error"] == "no prompt"
    assert [row["Colors"] for row in found] == [*COLOR_SCORES, None, None]
    alone = RM.load("tiny", device="cpu").score_pairs(prompts[:5], shades[:5]).tolist()
    assert [row["tiny"] for row in found[:5]] == pytest.approx(alone, abs=2e-5)
    assert [row["tiny"] for row in found[5:]] == [None, None]


def test_an_error_of_one_scorer_is_counted_by_its_reason(named, shades):
    folder = Path(shades[0]).parent
    (folder / "pairs.csv").write_text("prompt,image\n" + "".join(f"a red circle,{path}\n" for path in shades))
    settings = BulkSettings(("Colors", "tiny"), devices=("cpu",), batch_size=2, shard_rows=6)

    def interrupt(_: int, done: int, failed: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted):  # the row with the error is saved
        score_to_file(Manifest(folder / "pairs.csv"), folder / "out.csv", settings, on_progress=interrupt)
    summary = score_to_file(Manifest(folder / "pairs.csv"), folder / "out.csv", settings)
    assert summary.resumed_rows == 4
    assert summary.errors == {
        "the model has no answer to question 2, 'Is it green?'": 1,
        "no such file": 1,
    }


# Commands and the page

LOADER = """
from reward_core.hub.file_specs import PackageFile
from reward_core.models.model_spec import ModelSpec, Part
from reward_core.models.scorer_facts import ScorerFacts
from reward_core.models.visionreward.checklist import Checklist
from reward_core.models.visionreward.scorer import ChecklistReward
from reward_core.models.visionreward.unread_prompts import UnreadPrompts


class Loader:
    @classmethod
    def load_files(cls, files, options):
        from toy_vlm import ColorVLM

        scorer = ChecklistReward(ColorVLM(), Checklist.from_file(files.weights)).eval()
        scorer.vlm.broken = "gray"
        return scorer

    @classmethod
    def read_config(cls, files):
        return Checklist.from_file(files.weights)

    @classmethod
    def find_tokenizer(cls, files, config, options):
        return UnreadPrompts()


FACTS = ScorerFacts("colors", 1, 0.0, "CPU", "-3.25 to 3.75", "none", reads_prompt=False)
WEIGHTS = Part(PackageFile("PACKAGE", "checklist.json"), ("checklist.json",))
SPEC = ModelSpec("PACKAGE:Loader", {"weights": WEIGHTS}, None, FACTS)
"""


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Install a package with the scorer "Colors"."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    package = plugin_package.install(site, "colors_pkg", {"Colors": "colors_pkg:SPEC"}, LOADER)
    COLORS.save(package / "checklist.json")
    yield "Colors"
    sys.modules.pop("colors_pkg", None)
    for cached in (plugins.plugin_spec, plugins._warn_once):
        cached.cache_clear()


def test_rank_explains_each_score_in_80_columns_and_as_json(named, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    paths = ["cyan.png", "white.png"]
    for path, image in zip(paths, images("cyan", "white")):
        image.save(path)
    Path("broken.png").write_bytes(b"no image")
    done = command("rank", "any", *paths, "broken.png", "--model", named, "--explain", width=80)
    assert done.returncode == 1
    assert "broken.png" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    lines = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    assert lines.index("cold Is it blue? yes 2.0000 2.0000") < lines.index("cold Is it blue? yes 2.0000 -")
    assert "gates: red no" in " ".join(done.stdout.split())
    done = command("rank", "any", *paths, "--model", named, "--explain", "--json")
    first, second = json.loads(done.stdout)["results"]
    assert (first["image"], first["score"]) == (paths[1], 3.75)
    assert second["explanation"]["score"] == second["score"] == 1.75
    assert second["explanation"]["judgments"][1]["counts"] is False
    plain = json.loads(command("rank", "any", *paths, "--model", named, "--json").stdout)["results"]
    assert [row["score"] for row in plain] == [3.75, 1.75]
    assert "explanation" not in plain[0]
    done = command("rank", "any", *paths, "--model", "tiny", "--explain")
    assert "Cannot explain the scores of tiny: it has no checklist" in done.stderr


def test_the_page_shows_why_an_image_has_its_score(colors, tmp_path):
    path = tmp_path / "cyan.png"
    images("cyan")[0].save(path)
    result = rank_images({"Colors": colors, "tiny": RM.load("tiny", device="cpu")}, ["any"], [str(path)])
    assert [ranking.model for ranking in result.rankings] == ["Colors", "tiny"]
    assert result.rankings[0].scores == [[1.75]]
    page = results_html(result)
    assert page.count('<details class="rc-explained">') == 1  # tiny has no checklist
    assert '<td title="cold">Is it blue?</td><td>yes</td><td>no red</td>' in page

"""Templates of judges, and what is read from answers (tests/data/judges)."""

import json
from pathlib import Path

import pytest

from reward_core.errors import AnswerError, InputError
from reward_core.models.judges.answers import Answer
from reward_core.models.judges.built_in import TEMPLATES
from reward_core.models.judges.parsing import read_scores, read_shares, wins_of_first
from reward_core.models.judges.templates import JudgeTemplate, read_template

DATA = Path(__file__).parents[3] / "data" / "judges"
PARSES = json.loads((DATA / "parses.json").read_text())
POINTWISE, PAIRWISE = TEMPLATES["UnifiedReward-2.0"], TEMPLATES["UnifiedReward-2.0-pairwise"]
FINAL = JudgeTemplate("final", "{prompt}", labels=("Final Score",))
RANK = JudgeTemplate("rank", "{prompt}", "pairwise", "better_image")
# Answers of which authors' parsers make a number although they have no clear score; by index in PARSES.
UNCLEAR = {"pointwise": {6, 7, 8, 9, 10, 11, 12, 13}, "final_score": {5, 6, 8, 9}, "rank": {6, 7, 8, 10}}


def outcome(read, template, text):
    try:
        return read(template, Answer(text))
    except AnswerError as error:
        return error.reason


def test_texts_of_unifiedreward_are_the_authors():
    texts = json.loads((DATA / "templates.json").read_text())
    assert POINTWISE.text == texts["pointwise_2_0"]
    assert PAIRWISE.text == texts["pairwise_2_0"]
    assert POINTWISE.question("a {prompt} [x]").endswith("Text Caption: [a {prompt} [x]]")


def test_pointwise_answers_are_read_as_the_authors_do_or_are_errors():
    for i, case in enumerate(PARSES["pointwise"]):
        found = outcome(read_scores, POINTWISE, case["text"])
        if i in UNCLEAR["pointwise"]:
            assert isinstance(found, str), case
            continue
        # One of the two published parsers reads it, and then both agree with ours.
        for parser in ("training_code", "diffsynth"):
            values = {name: case[parser][name] for name in ("alignment", "coherence", "style")}
            if all(values.values()):
                assert found == pytest.approx(values, abs=1e-6), case
        assert set(found) == {"alignment", "coherence", "style"}


def test_final_scores_are_read_as_the_authors_do_or_are_errors():
    for i, case in enumerate(PARSES["final_score"]):
        found = outcome(read_scores, FINAL, case["text"])
        if i in UNCLEAR["final_score"]:
            assert isinstance(found, str), case
        else:
            expected = case["inference_code"] or float(case["preference_data_code"])
            assert found == {"final": expected}, case


def test_conclusions_are_read_or_are_errors():
    for i, case in enumerate(PARSES["rank"]):
        found = outcome(read_shares, RANK, case["text"])
        if i in UNCLEAR["rank"]:
            assert isinstance(found, str), case
            continue
        text = (case["answer_tag"] or case["text"]).lower()
        expected = 1.0 if "image 1" in text else 0.0 if "image 2" in text else 0.5
        assert wins_of_first(found) == expected, case


def test_shares_are_read_whole_or_are_errors():
    for case in PARSES["pairwise"]:
        found = outcome(read_shares, PAIRWISE, case["text"])
        if all(case["right_parse"].values()):
            assert found == {name: tuple(shares) for name, shares in case["right_parse"].items()}
        else:
            assert isinstance(found, str), case


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Final Score: 3-4", "not a number"),
        ("Final Score: 3,5", "not a number"),
        ("Final Score: 3 or 4", "not a number"),
        ("Final Score: 80%", "not a number"),
        ("Final Score: 4/10", "out of 10 instead of 5"),
        ("Final Score: 4 out of 10", "out of 10 instead of 5"),
        ("Final Score (1-10): 4", "no Final Score"),
        ("Semifinal Score: 4", "no Final Score"),
        ("Final Score: 1e0", "not a number"),
        ("Final Score: nan", "no Final Score"),
        ("<think>Final Score: 4", "thoughts have no end"),
        ("Final Score: 4" + " " * 2**18, "characters"),
    ],
)
def test_numbers_that_are_not_clear_are_errors(text, reason):
    with pytest.raises(AnswerError, match=reason) as caught:
        read_scores(FINAL, Answer(text))
    assert text[:10] in str(caught.value)
    assert len(str(caught.value)) < 600


def test_thoughts_and_mentions_without_a_number_are_skipped():
    text = "<think>Final Score: 1</think>Final Score: how good it is.\n__Final Score__ (1-5): `4.5`, I think"
    assert read_scores(FINAL, Answer(text)) == {"final": 4.5}
    number = JudgeTemplate("number", "{prompt}", parser="number", range=(0, 10))
    assert read_scores(number, Answer(" **7.5**\n")) == {"score": 7.5}
    with pytest.raises(AnswerError, match="not a number"):
        read_scores(number, Answer("7.5 because"))


def test_an_answer_that_was_cut_off_is_an_error():
    with pytest.raises(AnswerError, match="cut off"):
        read_scores(FINAL, Answer("Final Score: 4", complete=False))


def test_doubts_contradictions_and_wrong_sums_are_errors():
    for text in ("I doubt whether Image 1 is better.", "It isn't true that Image 2 is better."):
        with pytest.raises(AnswerError, match="not stated as a fact"):
            read_shares(RANK, Answer(text))
    text = PARSES["pairwise"][0]["text"]
    with pytest.raises(AnswerError, match=r"shares 0\.7 and 0\.5\d+ do not sum to 1"):
        read_shares(PAIRWISE, Answer(text.replace("0.435699999332428", "0.7")))
    with pytest.raises(AnswerError, match="several values of Style Score"):
        read_shares(PAIRWISE, Answer(f"{text}\n\nStyle Score:\n Image 1: 0.9\n Image 2: 0.1"))


def test_templates_come_from_json_and_yaml_files(tmp_path):
    path = tmp_path / "mood.yaml"
    path.write_text('text: "How merry is {prompt}?"\nlabels: [Mood]\nrange: [0, 10]\n')
    template = read_template(path)
    assert template == JudgeTemplate("mood", "How merry is {prompt}?", labels=("Mood",), range=(0, 10))
    path = tmp_path / "mood.json"
    path.write_text(json.dumps({"text": "{prompt}?", "kind": "yes_no", "name": "merry"}))
    assert read_template(path) == JudgeTemplate("merry", "{prompt}?", "yes_no")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"labels": ["Mood"]}, "no text"),
        ({"text": "How merry?", "labels": ["Mood"]}, "does not contain {prompt}"),
        ({"text": "{prompt}"}, "needs labels"),
        ({"text": "{prompt}", "labels": ["a"], "kind": "triple"}, "kind must be one of"),
        ({"text": "{prompt}", "labels": ["a"], "parser": "image_shares"}, "must be labeled_scores or number"),
        ({"text": "{prompt}", "labels": ["a"], "range": [5, 1]}, "two increasing numbers"),
        ({"text": "{prompt}", "labels": ["a"], "max_tokens": 0}, "max_tokens must be"),
        ({"text": "{prompt}", "labels": "a"}, "must be a list of strings"),
        ({"text": "{prompt}", "labels": ["a"], "moods": []}, "unknown moods"),
        ({"text": "{prompt}", "kind": "yes_no", "labels": ["yes"]}, "two labels"),
        ([], "no text"),
    ],
)
def test_invalid_templates_are_refused(content, problem, tmp_path):
    path = tmp_path / "mood.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read_template(path)
    assert problem in str(caught.value)

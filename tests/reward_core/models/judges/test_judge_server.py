"""Judges whose model is behind an OpenAI-compatible server (tests/judge_server.py)."""

import json
import logging
import threading
import time

import judge_server
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import AnswerError, ImageError, InputError, RequestError, ServerError
from reward_core.models.judges.answer_cache import AnswerCache
from reward_core.models.judges.built_in import TEMPLATES
from reward_core.models.judges.loading import make_judge
from reward_core.models.judges.server import ServerVLM
from reward_core.models.judges.server_requests import API_KEY_VARIABLE, ServerRequests
from reward_core.models.judges.templates import JudgeTemplate

NAME, PAIRWISE = "UnifiedReward-2.0", "UnifiedReward-2.0-pairwise"


@pytest.fixture
def server():
    with judge_server.serve() as judge:
        yield judge


@pytest.fixture(autouse=True)
def answers(tmp_path, monkeypatch):
    """The folder of stored answers: that of the command, too."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "reward-core" / "judge-answers"


@pytest.fixture
def images(tmp_path):
    """Four files of brightness 0, 0.2, 0.6 and 1."""
    paths = [tmp_path / f"{level}.png" for level in (0, 51, 153, 255)]
    for path in paths:
        Image.new("RGB", (24, 16), (int(path.stem),) * 3).save(path)
    return [str(path) for path in paths]


def new_judge(server, template=NAME, cache=None, workers=4, **options):
    options = {"timeout": 5.0, "backoff": 0.01, "retries": 2} | options
    vlm = ServerVLM(ServerRequests(server.url, **options), judge_server.MODEL, workers=workers)
    return make_judge(TEMPLATES.get(template, template), vlm, cache=cache)


# Scores


def test_a_judge_is_a_scorer_of_the_mean_of_its_dimensions(server, images):
    judge = RM.load(NAME, server=server.url)
    assert isinstance(judge, RM.Scorer)
    expected = [(2 * (1 + 4 * bright) + 3) / 3 for bright in (0, 0.2, 0.6, 1)]
    assert judge.score("a cat", images) == pytest.approx(expected)
    assert judge.score("a cat", images[3]) == pytest.approx(expected[3])
    assert judge.inference_rank("a cat", images)[0] == [4, 3, 2, 1]
    assert judge.score_pairs(["a", "b"], images[:2]).tolist() == pytest.approx(expected[:2])
    matrix = judge.score_matrix(["a", "b"], images)
    torch.testing.assert_close(matrix, torch.tensor([expected, expected]))
    detail = judge.details("a cat", images[2:3])[0]
    assert detail.dimensions == {"alignment": 3.4, "coherence": 3.4, "style": 3.0}
    assert detail.answer.startswith("Alignment Score (1-5): 3.4")
    request = next(r for r in server.requests if r["prompt"] == "a cat")
    assert (request["model"], request["temperature"]) == (judge_server.MODEL, 0)
    assert request["messages"][0]["content"][-1]["text"] == TEMPLATES[NAME].question("a cat")
    with pytest.raises(InputError, match="no gradient"):
        judge.rewards_from_pixels(torch.zeros(1, 3, 8, 8), ["a"])


def test_bad_images_and_answers_are_rows_with_an_error(server, images, tmp_path):
    server.faults = {"cut": ["Alignment Score (1-5): 3..."], "ten": [judge_server.POINTWISE.format(10, 1)]}
    server.faults["refused"] = [400]
    (tmp_path / "broken.png").write_bytes(b"no image")
    pictures = [*images, str(tmp_path / "broken.png")]
    judge = new_judge(server)
    prompts = ["fine", "cut", "ten", "refused", "fine"]
    rows = list(judge.score_rows(prompts, pictures))
    assert [row.image for row in rows] == pictures
    assert [row.score is None for row in rows] == [False, True, True, True, True]
    assert "cut off" in rows[1].error
    assert "10, which is not in 1 to 5" in rows[2].error
    assert "status 400 (no luck with key sesame)" in rows[3].error
    assert rows[4].error.startswith("not an image") or "image" in rows[4].error
    for prompt, image, kind in zip(prompts[1:], pictures[1:], (AnswerError, AnswerError, RequestError)):
        with pytest.raises(kind):
            judge.score(prompt, image)
    with pytest.raises(ImageError, match="broken"):
        judge.score("fine", pictures[-1])


def test_answers_that_nobody_reads_wait_for_nothing(server):
    """The garbage collector may end them, in any thread."""
    judge, read = new_judge(server), threading.Event()

    def questions():
        for _ in range(judge.vlm.questions_at_once):
            yield judge.question("a cat", ())
        read.wait(10)  # for an image that takes long

    outcomes = judge.ask(questions(), None)
    try:
        next(outcomes)
        started = time.monotonic()
        outcomes.close()
        assert time.monotonic() - started < 5
    finally:
        read.set()


def test_a_template_of_the_caller_asks_any_model(server, images, tmp_path):
    server.serving = ["some/vlm"]
    server.faults = {"a cat": ["Mood: 8"]}
    path = tmp_path / "mood.yaml"
    path.write_text('text: "How merry is [{prompt}]"\nlabels: [Mood]\nrange: [0, 10]\nmax_tokens: 7\n')
    judge = RM.load("some/vlm", server=server.url, template=path)
    assert judge.score("a cat", images[0]) == 8
    assert (server.requests[0]["model"], server.requests[0]["max_tokens"]) == ("some/vlm", 7)


# The server


@pytest.mark.slow
def test_overload_and_faults_of_the_server_are_retried(server, images):
    busy = (429, {"Retry-After": "0.2"})
    server.faults = {"busy": [busy, 500, None], "down": [503], "late": [1.5, None]}
    judge = new_judge(server, timeout=0.7)
    start = time.monotonic()
    assert judge.score("busy", images[3]) > 4
    assert time.monotonic() - start > 0.2
    assert server.counts["busy"] == 3
    assert judge.score("late", images[3]) > 4
    with pytest.raises(RequestError, match="status 503"):
        judge.score("down", images[0])
    assert server.counts["down"] == 3
    server.faults = {"late": [1.5]}
    with pytest.raises(RequestError, match=r"none came within 0\.3 seconds"):
        new_judge(server, timeout=0.3, retries=0).score("late", images[0])


def test_requests_run_at_once_but_not_too_many_and_keep_their_order(server, images):
    server.pause = 0.05
    judge = new_judge(server, workers=3)
    prompts = [f"prompt {i}" for i in range(12)]
    scores = judge.score_pairs(prompts, images * 3).tolist()
    assert scores == pytest.approx([(2 * (1 + 4 * bright) + 3) / 3 for bright in (0, 0.2, 0.6, 1)] * 3)
    assert 2 <= server.most_at_once <= 3


def test_a_server_that_cannot_be_used_is_an_error_with_advice(server, images, monkeypatch):
    server.serving = ["a/model", "b/model"]
    with pytest.raises(ServerError, match=r"serves 'a/model', 'b/model'.*served_model"):
        RM.load(NAME, server=server.url)
    assert RM.load(NAME, server=server.url, served_model="b/model").vlm.model == "b/model"
    with pytest.raises(ServerError, match=r"Cannot reach the server http://127.0.0.1:9/v1.*vllm serve"):
        RM.load(NAME, server="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match="password"):
        RM.load(NAME, server="http://user:secret@host/v1")
    for url in ("localhost:8000", "ftp://host", "http://"):
        with pytest.raises(InputError, match="not a URL"):
            RM.load(NAME, server=url)
    with pytest.raises(InputError, match="server with 'tiny': it is not a VLM judge"):
        RM.load("tiny", server=server.url)
    server.faults = {"moved": [(302, {"Location": "http://other"})], "lost": [404]}
    for prompt, status in (("moved", 302), ("lost", 404)):
        with pytest.raises(ServerError, match=f"status {status}") as caught:
            list(new_judge(server).score_rows([prompt], images[:1]))
        assert not isinstance(caught.value, RequestError)


def test_the_api_key_is_sent_but_neither_logged_nor_stored(server, images, answers, monkeypatch, caplog):
    monkeypatch.setenv(API_KEY_VARIABLE, "sesame")
    server.faults = {"denied": [401]}
    with caplog.at_level(logging.DEBUG):
        judge = RM.load(NAME, server=server.url)
        judge.score("a cat", images[0])
        with pytest.raises(ServerError, match=API_KEY_VARIABLE) as caught:
            judge.score("denied", images[0])
    assert server.requests[0]["authorization"] == "Bearer sesame"
    stored = "".join(path.read_text() for path in answers.rglob("*.json"))
    assert stored
    assert "sesame" not in f"{caught.value} {caplog.text} {stored}"


# Stored answers


def test_answers_are_asked_for_once(server, images, answers):
    first = RM.load(NAME, server=server.url)
    scores = first.score("a cat", [*images, images[0]])
    assert len(server.requests) == 4  # equal images are one question
    again = RM.load(NAME, server=server.url)
    assert again.score("a cat", [*images, images[0]]) == scores
    assert len(server.requests) == 4
    assert len(list(answers.rglob("*.json"))) == 4
    server.serving = [judge_server.MODEL, "x"]
    other = JudgeTemplate("style", "[{prompt}]", labels=("Style Score",))
    for prompt, options in (
        ("a dog", {}),
        ("a cat", {"served_model": "x"}),
        ("a cat", {"template": other}),
        ("a cat", {"answer_cache": False}),
    ):
        before = len(server.requests)
        RM.load(NAME, server=server.url, **options).score(prompt, images[0])
        assert len(server.requests) == before + 1


def test_unclear_answers_are_stored_and_failed_requests_are_not(server, images, tmp_path):
    server.faults = {"vague": ["it is nice"], "down": [500]}
    cache = AnswerCache(tmp_path / "answers")
    judge = new_judge(server, cache=cache)
    for _ in range(2):
        rows = list(judge.score_rows(["vague", "down"], images[:2]))
        assert [row.score for row in rows] == [None, None]
    assert server.counts == {"vague": 1, "down": 6}
    server.faults = {}
    assert judge.score("down", images[1]) > 1


def test_damaged_and_unwritable_caches_do_not_stop_a_run(server, images, tmp_path, caplog):
    cache = AnswerCache(tmp_path / "answers")
    score = new_judge(server, cache=cache).score("a cat", images[0])
    (path,) = cache.folder.rglob("*.json")
    path.write_text(path.read_text()[:-20])
    assert new_judge(server, cache=cache).score("a cat", images[0]) == score
    assert "Cannot read the stored answer" in caplog.text
    assert len(server.requests) == 2
    assert json.loads(path.read_text())["answer"]["complete"] is True
    (tmp_path / "file").touch()
    assert new_judge(server, cache=AnswerCache(tmp_path / "file")).score("a cat", images[:2])
    assert caplog.text.count("Cannot store answers") == 1


# Probabilities


def test_the_probability_of_yes_is_that_of_both_words(server, images):
    judge = new_judge(server, "yes-no")
    assert judge.score("a cat", images) == pytest.approx([0, 0.2, 0.6, 1], abs=1e-6)
    assert judge.details("a cat", images[2:3])[0].dimensions == {"yes": pytest.approx(0.6)}
    request = server.requests[0]
    assert (request["max_tokens"], request["logprobs"], request["top_logprobs"]) == (1, True, 20)
    server.logprobs = False
    with pytest.raises(ServerError, match="returns no top_logprobs"):
        list(judge.score_rows(["a cat"], images[:1]))
    server.logprobs = True
    other = new_judge(server, JudgeTemplate("colors", '"{prompt}"', "yes_no", labels=("red", "blue")))
    assert "begins with neither 'red' nor 'blue'" in next(other.score_rows(["a cat"], images[:1])).error


# Comparisons


def test_pairwise_judges_compare_both_orders(server, images):
    judge = new_judge(server, PAIRWISE)
    ranks, wins = judge.inference_rank("a cat", [images[1], images[3], images[0], images[1]])
    # The two equal images tie twice, beat the dark one in both orders and lose to the bright one.
    assert wins == pytest.approx([0.5, 1.0, 0.0, 0.5])
    assert ranks == [2, 1, 4, 3]
    orders = sorted(tuple(request["images"]) for request in server.requests)
    # The two questions with equal images are one.
    assert orders == sorted([(0.2, 0.2), *((a, b) for a in (0, 0.2, 1) for b in (0, 0.2, 1) if a != b)])
    result = judge.compare("a cat", images[2], images[0])
    assert (result.wins, result.orders_agree) == (1.0, True)
    assert judge.compare("a cat", images[0], images[0]).wins == 0.5
    with pytest.raises(InputError, match="at least two images"):
        judge.score("a cat", images[0])


def test_a_judge_that_prefers_a_position_is_a_tie(server, images):
    server.faults = {"a cat": ["Image 1 is better."]}
    judge = new_judge(server, JudgeTemplate("rank", "Image 1 or 2? [{prompt}]", "pairwise", "better_image"))
    result = judge.compare("a cat", images[0], images[3])
    assert (result.wins, result.orders_agree) == (0.5, False)
    assert judge.score("a cat", images) == [0.5] * 4
    server.faults = {"a dog": ["Image 1 is better.", "who knows"]}
    with pytest.raises(AnswerError, match="who knows"):
        judge.compare("a dog", images[0], images[3])


def test_comparisons_are_among_the_images_of_a_prompt(server, images, tmp_path):
    judge = new_judge(server, PAIRWISE)
    (tmp_path / "broken.png").write_bytes(b"no image")
    pictures = [images[0], images[0], images[3], str(tmp_path / "broken.png"), images[1], images[3]]
    rows = list(judge.score_rows(["a", "b", "a", "a", "b", "alone"], pictures))
    assert [row.score for row in rows] == [0.0, 0.0, 1.0, None, 1.0, None]
    assert "at least two images" in rows[5].error
    server.faults = {"c": ["who knows", None]}
    rows = list(judge.score_rows(["c"] * 3, images[1:]))
    assert sum(row.score is None for row in rows) == 2  # those of the one unclear comparison
    assert len(server.requests) == 2 + 2 + 6


# Commands


def test_commands_take_a_server(server, images, tmp_path, command, answers):
    options = ("--server", server.url, "--model", NAME)
    done = command("rank", "a cat", *images, *options, "--json")
    assert [row["image"] for row in json.loads(done.stdout)["results"]] == images[::-1]
    done = command("rank", "a cat", *images, "--server", server.url, "--model", PAIRWISE)
    assert done.returncode == 0, done.stderr
    assert "0.6667" in done.stdout
    asked = len(server.requests)
    (tmp_path / "prompts.json").write_text(json.dumps({"0.png": "a cat", "255.png": "a cat"}))
    out = tmp_path / "out.json"
    done = command(
        "score", "--prompts", tmp_path / "prompts.json", "--images", tmp_path, "--out", out, *options
    )
    assert done.returncode == 0, done.stderr
    assert [round(row["score"], 2) for row in json.loads(out.read_text())] == [1.67, 4.33]
    assert len(server.requests) == asked  # the answers of rank
    done = command("tag", images[0], "--prompt", "a cat", *options, "--no-answer-cache", "--json")
    assert "UnifiedReward-2.0 Score" in done.stdout
    assert len(server.requests) == asked + 1
    (tmp_path / "question.json").write_text('{"text": "[{prompt}]", "labels": ["Style Score"]}')
    template = ("--template", tmp_path / "question.json")
    done = command("tag", images[0], "--prompt", "a cat", *options, *template, "--skip-tagged", "--json")
    assert "UnifiedReward-2.0 question Score" in done.stdout  # another score than that of the usual question
    pairs = {"prompt": "a cat", "images": ["0.png", "51.png", "255.png"], "ranking": [3, 2, 1]}
    (tmp_path / "data.jsonl").write_text(json.dumps(pairs))
    for model in (NAME, PAIRWISE):
        data = ("--data", tmp_path / "data.jsonl", "--server", server.url, "--json")
        done = command("evaluate", model, *data)
        assert json.loads(done.stdout)["pooled_accuracy"] == 1.0, done.stderr
    done = command("rank", "a cat", *images, "--model", NAME, "--server", "http://127.0.0.1:9")
    assert (done.returncode, "Cannot reach the server" in done.stderr) == (2, True)


def test_bulk_runs_take_a_judge_and_resume_without_asking_again(server, images, tmp_path, command):
    table = tmp_path / "pairs.csv"
    lines = [f"prompt {i},{images[i % 4]}" for i in range(40)]
    table.write_text("\n".join(["prompt,image", *lines, ",a.png", "vague,0.png", "x,absent.png"]) + "\n")
    server.faults = {"vague": ["it is nice"], "prompt 30": [404]}
    out = ("--manifest", table, "--out", tmp_path / "scores.jsonl", "--quiet", "--batch-size", "4")
    options = ("--model", NAME, "--server", server.url, "--no-answer-cache", "--shard-rows", "8")
    done = command("score", *out, *options)
    assert "status 404" in done.stderr
    assert server.counts["prompt 1"] == 1
    server.faults = {"vague": ["it is nice"]}
    done = command("score", *out, *options)
    assert done.returncode == 1, done.stderr
    assert server.counts["prompt 1"] == 1
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(43))
    bright = [0, 0.2, 0.6, 1] * 10
    assert [row["score"] for row in rows[:40]] == pytest.approx([(2 * (1 + 4 * b) + 3) / 3 for b in bright])
    assert rows[40]["error"] == "no prompt"
    assert rows[41]["error"].startswith("Cannot read the answer of the judge: it has no Alignment Score")
    assert rows[42]["error"] == "no such file"
    assert server.most_at_once <= 4
    other = ("--manifest", table, "--out", tmp_path / "other.jsonl", "--server", server.url)
    done = command("score", *other, "--model", PAIRWISE)
    assert "a pairwise judge compares the images of a prompt" in done.stderr

"""Runs with VLM judges behind a server (tests/judge_server.py)."""

import json

import judge_server
import pytest

JUDGES = "UnifiedReward-2.0,UnifiedReward-2.0-pairwise"
SMALL = ("--generators", "faithful,hazy", "--limit", 1, "--json")


@pytest.fixture
def server():
    with judge_server.serve() as judge:
        yield judge


@pytest.mark.slow
def test_judges_of_a_server_are_scorers_beside_others(command, server, tmp_path):
    arguments = ("run", "shapes", "--scorers", f"oracle,{JUDGES}", *SMALL, "--no-answer-cache")
    done = command(*arguments, "--server", server.url, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "shapes" / "scores.jsonl").read_text().splitlines()]
    scores = {name: [row["score"] for row in rows if row.get("scorer") == name] for name in JUDGES.split(",")}
    absolute, wins = (scores[name] for name in JUDGES.split(","))
    assert all(1 <= score <= 5 for score in absolute)
    assert all(0 <= score <= 1 for score in wins)
    assert len(absolute) == len(wins) > 2
    asked = len(server.requests)
    assert command(*arguments, "--server", server.url, "--out", tmp_path).returncode == 0
    assert len(server.requests) == asked  # a finished run asks nothing again


@pytest.mark.slow
def test_scores_of_two_judges_are_not_mixed(command, server, tmp_path):
    server.serving = [judge_server.MODEL, "other"]
    arguments = ("run", "shapes", "--scorers", "UnifiedReward-2.0", *SMALL, "--no-answer-cache")
    arguments += ("--out", tmp_path, "--server", server.url)
    assert command(*arguments).returncode == 0
    done = command(*arguments, "--served-model", "other")
    assert done.returncode == 2
    assert "judge" in done.stderr


def test_options_of_judges_need_a_judge(command, tmp_path):
    done = command("run", "shapes", "--scorers", "oracle,tiny", "--server", "http://x/v1", "--out", tmp_path)
    assert done.returncode == 2
    assert "Cannot use server: none of the scorers is a VLM judge" in done.stderr

"""Metrics on cases computed by hand, and on oracle, constant and random scorers."""

import json

import numpy as np
import pytest

from reward_benchmark.metrics import (
    Resamples,
    average_ranks,
    compare_scorers,
    filtered_at,
    generator_table,
    kendall,
    preference_table,
    recalled_at,
    sign_flip_test,
    spearman,
)
from reward_benchmark.paper import TABLE1, TABLE1_SPEARMAN


@pytest.fixture(scope="module")
def ranks_of_prompts():
    """Ranks of 200 prompts with 9 images each, with ties and gaps."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, 7, 9).tolist() for _ in range(200)]


def test_accuracy_of_a_case_computed_by_hand():
    # Prompt 0: pairs (0,1) and (0,2) right, (1,2) tied. Prompt 1: equal scores, wrong.
    # Prompt 2: image 0 has no score; the remaining pair (1,2) is wrong.
    ranks = [[1, 3, 3], [1, 2], [1, 2, 5]]
    scores = [[0.5, 0.1, 0.2], [0.3, 0.3], [None, 0.1, 0.4]]
    table = preference_table(ranks, scores)
    assert table.pairs == 4
    assert table.pooled_accuracy.value == 2 / 4
    assert table.per_prompt_accuracy.value == 1 / 3
    assert (table.images, table.missing) == (7, 1)
    assert table.recall is None
    assert table.to_json()["filter"] is None


def test_retrieval_of_a_case_computed_by_hand():
    ranks = [1, 1, 2, 3, 4, 5, 6, 6]
    scores = [0.2, 0.6, 0.9, 0.8, 0.5, 0.4, 0.1, 0.3]
    # Top: 2, 3, 1, 4. Bottom: 6, 0, 7, 5. Best for people: 0 and 1. Worst: 6 and 7.
    assert [recalled_at(k, ranks, scores) for k in (1, 2, 4)] == [0, 0, 1]
    assert [filtered_at(k, ranks, scores) for k in (1, 2, 4)] == [1, 1, 1]
    # All tied: the probability that one of 2 relevant among 8 is among k drawn.
    constant = [0.0] * 8
    assert recalled_at(1, ranks, constant) == pytest.approx(2 / 8)
    assert recalled_at(2, ranks, constant) == pytest.approx(1 - (6 * 5) / (8 * 7))


def test_correlations_of_cases_computed_by_hand():
    assert average_ranks([3.0, 1.0, 3.0, 0.0]).tolist() == [1.5, 3, 1.5, 4]
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert kendall([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(4 / 6)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / np.sqrt(2 * 3))
    assert np.isnan(spearman([1, 1], [1, 2]))


@pytest.mark.parametrize("scorer", ["ImageReward-v1.0", "CLIP"])
def test_the_published_spearman_follows_from_the_published_means(scorer):
    means = [row.scores[scorer] for row in TABLE1.values()]
    assert round(float(spearman(means, [-row.rank for row in TABLE1.values()])), 2) == TABLE1_SPEARMAN[scorer]


def test_oracle_constant_and_random_scorers_get_their_expected_values(ranks_of_prompts):
    rng = np.random.default_rng(1)
    oracle = preference_table(ranks_of_prompts, [[-p for p in ranks] for ranks in ranks_of_prompts])
    assert oracle.pooled_accuracy.value == oracle.per_prompt_accuracy.value == 1
    assert all(part.at[k].value == 1 for part in (oracle.recall, oracle.filter) for k in (1, 2, 4))
    constant = preference_table(ranks_of_prompts, [[0.5] * len(ranks) for ranks in ranks_of_prompts])
    assert constant.pooled_accuracy.value == 0
    random = preference_table(
        ranks_of_prompts, [rng.random(len(ranks)).tolist() for ranks in ranks_of_prompts]
    )
    for accuracy in (random.pooled_accuracy, random.per_prompt_accuracy):
        assert accuracy.low < 0.5 < accuracy.high
        assert accuracy.low < accuracy.value < accuracy.high
    # A constant scorer has the recall of a random one, regardless of the order of files.
    assert random.recall.at[1].low < constant.recall.at[1].value < random.recall.at[1].high
    assert random.recall.n == 200


def test_intervals_have_their_nominal_coverage():
    """The 95% interval of the mean contains the truth in about 95% of 300 samples of 60 prompts."""
    rng = np.random.default_rng(2)
    resamples, covered = Resamples(60, 500), 0
    for _ in range(300):
        interval = resamples.ratio(rng.random(60), np.ones(60))
        covered += interval.low <= 0.5 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98  # 0.95 by design; 3 standard errors are 0.038


def test_paired_comparison_finds_the_better_scorer(ranks_of_prompts):
    rng = np.random.default_rng(3)
    good = [[-p + rng.normal(0, 1) for p in ranks] for ranks in ranks_of_prompts]
    bad = [[-p + rng.normal(0, 6) for p in ranks] for ranks in ranks_of_prompts]
    comparison = compare_scorers(ranks_of_prompts, good, bad)
    assert comparison.p_value < 0.001
    assert comparison.difference.low > 0
    same = compare_scorers(ranks_of_prompts, good, good)
    assert same.p_value == 1
    assert same.difference.value == 0
    back = compare_scorers(ranks_of_prompts, bad, good)
    assert back.difference.value == -comparison.difference.value


def test_sign_flip_of_cases_computed_by_hand():
    assert sign_flip_test([1, 1, 1]) == 2 / 8  # all plus or all minus, of 8
    assert sign_flip_test([0, 0]) == 1
    p_values = [sign_flip_test(np.random.default_rng(i).normal(size=40), 500) for i in range(200)]
    assert 0.3 < np.mean(p_values) < 0.7  # uniform without an effect


def test_generators_of_a_case_computed_by_hand():
    scores = {"a": [[1.0, 3.0], [5.0]], "b": [[0.0], [7.0, None]], "c": [[-1.0], [-1.0]]}
    table = generator_table(scores, {"a": 1, "b": 2, "c": 3})
    assert {name: row.mean.value for name, row in table.rows.items()} == {"a": 3.5, "b": 3.5, "c": -1}
    assert [row.rank for row in table.rows.values()] == [1.5, 1.5, 3]
    assert [row.wins for row in table.rows.values()] == [3, 3, 0]
    assert table.spearman.value == pytest.approx(3 / np.sqrt(12))
    assert (table.prompts, table.missing) == (2, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(
        ValueError,
        match=f"Cannot compare the generators: the score {bad} of b for prompt 1 is not a finite number",
    ):
        generator_table({"a": [[1.0], [2.0]], "b": [[1.0], [bad]]}, {})
    for measure in (recalled_at, filtered_at):
        with pytest.raises(ValueError, match="Cannot evaluate the scores: they must be finite numbers"):
            measure(1, [1, 2, 3], [0.1, bad, 0.3])


def test_a_prompt_missing_from_one_generator_is_excluded_for_all():
    scores = {"a": [[1.0], [9.0]], "b": [[2.0], [None]]}
    table = generator_table(scores, {"a": 1})
    assert {name: row.mean.value for name, row in table.rows.items()} == {"a": 1, "b": 2}
    assert table.spearman is None
    assert table.prompts == 1


@pytest.fixture
def files(tmp_path):
    rankings = [
        {"id": "x", "prompt": "p", "generations": ["1.png", "2.png"], "ranking": [1, 2]},
        {"id": "y", "prompt": "q", "generations": ["3.png", "4.png"], "ranking": [2, 1]},
    ]
    (tmp_path / "test.json").write_text(json.dumps(rankings))

    def write(content):
        (tmp_path / "scores.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return "metrics", "--rankings", tmp_path / "test.json", "--scores", tmp_path / "scores.json"

    return write


def test_the_metrics_command_prints_the_table(files, command):
    done = command(*files([{"id": "y", "rewards": [0.1, 0.7]}, {"id": "x", "rewards": [0.2, 0.3]}]))
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert (table["pooled_accuracy"], table["per_prompt_accuracy"], table["pairs"]) == (0.5, 0.5, 2)
    assert table["recall"] is None
    assert table["filter"] is None


@pytest.mark.parametrize(
    ("content", "output"),
    [
        ("[", "JSON"),
        ([{"id": "x", "rewards": [1, 2]}], "no rewards for 1 of 2 ids of the rankings, such as 'y'"),
        ([{"id": "x", "rewards": [1]}, {"id": "y", "rewards": [1, 2]}], "1 rewards for 2 images"),
        ([{"id": "x", "rewards": [1, "2"]}], "finite number"),
        ('[{"id": "x", "rewards": [1, NaN]}]', "finite number"),
        ([{"id": "x", "rewards": [1, 2]}] * 2, "repeats the id 'x'"),
        ({}, "a list of"),
        (
            [{"id": "x", "rewards": [None, 2]}, {"id": "y", "rewards": [1, None]}],
            "Cannot evaluate the scores: no prompt has two scored images",
        ),
    ],
)
def test_invalid_scores_are_refused_by_name(files, command, content, output):
    done = command(*files(content))
    assert done.returncode == 2
    assert output in done.stderr
    assert "scores.json" in done.stderr


def test_table1_files_of_the_original_are_read(tmp_path, command):
    for name, reward in (("openjourney", 0.3), ("vd", -0.2), ("cogview2", -1.0)):
        folder = tmp_path / "results" / "CLIP"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"id": str(i), "prompt": "p", "mean_score": 0, "rewards": [reward, reward]} for i in range(3)]
        (folder / f"CLIP-benchmark-{name}-result.json").write_text(json.dumps(rows))
    done = command("metrics", "--scores", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)["CLIP"]
    assert table["spearman"]["value"] == 1
    assert set(table["generators"]) == {"openjourney", "versatile-diffusion", "cogview2"}
    assert table["generators"]["openjourney"]["wins"] == 6

"""The files of a run: their contents, and which are refused."""

import json

import pytest
from small_run import arguments

from reward_benchmark.original import original_summary
from reward_benchmark.results import SuiteSummary


def edit(path, change):
    """Rewrite a JSON file with ``change``, which modifies the document or returns a new one."""
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


# Results


def test_a_summary_round_trips(finished):
    summary, folder = finished
    document = json.loads((folder / "summary.json").read_text())
    assert next(iter(document)) == "format_version"
    assert document["format_version"] == 2
    assert SuiteSummary.from_json(document) == summary
    assert summary.to_json() == document
    renderers, held_out = summary.parts
    assert renderers.scorers["oracle"].table.spearman.value == pytest.approx(1)
    assert held_out.scorers["random"].table.recall.at[1].value == document["parts"][1]["scorers"]["random"][
        "intervals"
    ]["recall"]["1"]["value"]  # fmt: skip


def test_published_values_round_trip(tmp_path):
    rankings = [
        {"id": str(i), "prompt": "p", "generations": ["a.png", "b.png"], "ranking": [1, 2]} for i in range(2)
    ]
    (tmp_path / "rankings.json").write_text(json.dumps(rankings))
    folder = tmp_path / "results"
    folder.mkdir()
    rewards = [{"id": str(i), "rewards": [0.2, 0.1 * i]} for i in range(2)]
    (folder / "test_CLIP.json").write_text(json.dumps(rewards))
    for name, reward in (("openjourney", 0.2726), ("sd2-1", 0.3), ("vd", 0.1), ("mine", 0.2)):
        rows = [{"id": str(i), "rewards": [reward]} for i in range(2)]
        (folder / f"CLIP-benchmark-{name}-result.json").write_text(json.dumps(rows))
    parts = tuple(original_summary(folder, tmp_path / "rankings.json"))
    summary = SuiteSummary("both", None, "", {}, parts)
    assert SuiteSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    table1, table3 = parts
    published = table1.scorers["CLIP"].published
    assert published["openjourney"].reproduced
    assert not published["sd2-1"].reproduced
    assert "mine" not in published
    assert table1.scorers["CLIP"].published_spearman == 0.6
    assert table3.scorers["CLIP"].published.recall == {1: 0.2722, 2: 0.4852, 4: 0.7817}


# Formats


@pytest.mark.parametrize("version", [None, 1, 0, -1, 3, "two", "2", 2.0, True, []])
@pytest.mark.parametrize("name", ["summary.json", "groups.json"])
def test_a_report_of_another_format_is_refused_by_name(folder, command, name, version):
    def change(document):
        document.pop("format_version")
        if version is not None:
            document["format_version"] = version

    edit(folder / name, change)
    before = (folder / "report.md").read_bytes()
    done = command("report", folder, "--html")
    assert done.returncode == 2
    shown = 1 if version is None else version
    assert (
        f"Cannot read '{folder / name}': it has format {shown!r}, this version reads format 2" in done.stderr
    )
    assert "Run `reward-benchmark run` with the same options again" in done.stderr
    assert ("update" in done.stderr) == (version == 3)
    assert (folder / "report.md").read_bytes() == before
    assert not (folder / "report.html").exists()


def test_groups_without_a_version_are_refused(folder, command):
    """Old files were lists."""
    edit(folder / "groups.json", lambda document: document["groups"])
    done = command("report", folder, "--html")
    assert done.returncode == 2
    assert f"Cannot read '{folder / 'groups.json'}': it must be a JSON object, got [" in done.stderr


def wrong(*steps, value):
    """Return a function that sets the value at a path of keys and indices; None removes it."""

    def change(document):
        *first, last = steps
        for step in first:
            document = document[step]
        if value is None:
            del document[last]
        else:
            document[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong("suite", value=None), "suite is missing"),
        (wrong("limit", value="2"), "limit must be a whole number, got '2'"),
        (wrong("environment", value=[]), "environment must be an object, got []"),
        (wrong("environment", "torch", value=2), "environment.torch must be a string, got 2"),
        (wrong("parts", value={}), "parts must be a list, got {}"),
        (wrong("parts", 0, value=3), "parts[0] must be an object, got 3"),
        (wrong("parts", 0, "kind", value="other"), "parts[0].kind must be 'preference' or 'generators'"),
        (wrong("parts", 0, "kind", value="preference"), "parts[0].scorers.oracle"),
        (wrong("parts", 0, "pictures", value=True), "parts[0].pictures must be a whole number, got True"),
        (wrong("parts", 0, "scorers", "random", "generators", "soft", "mean", value=None),
         "parts[0].scorers.random.generators.soft.mean is missing"),
        (wrong("parts", 0, "scorers", "random", "spearman", "value", value="high"),
         "parts[0].scorers.random.spearman.value must be a number, got 'high'"),
        (wrong("parts", 1, "scorers", "oracle", "intervals", value=None),
         "parts[1].scorers.oracle.intervals must be an object, got None"),
        (wrong("parts", 1, "scorers", "oracle", "intervals", "recall", "many", value={}),
         "parts[1].scorers.oracle.intervals.recall.many must have a whole number as its key"),
        (wrong("parts", 1, "failed", value={"a": None}), "parts[1].failed.a must be a string, got None"),
    ],
)  # fmt: skip
def test_an_invalid_value_in_a_summary_is_named(folder, command, change, message):
    edit(folder / "summary.json", change)
    done = command("report", folder)
    assert done.returncode == 2
    assert f"Cannot read '{folder / 'summary.json'}': {message}" in done.stderr
    assert "reward-benchmark run" in done.stderr


# Stored scores


@pytest.mark.parametrize("version", [None, 1, 3, "2", 2.5])
def test_scores_of_another_format_are_refused_and_kept(finished, folder, command, version):
    path = folder / "scores.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1].pop("format_version")
    if version is not None:
        lines[-1]["format_version"] = version
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"part": "half of a li')
    before = path.read_bytes()
    shown = 1 if version is None else version
    data = finished[1] / "data"
    for done in (
        command(*arguments(folder.parent, "--data", data)),
        command("report", folder, "--html"),
    ):
        assert done.returncode == 2
        assert f"Cannot read '{path}': it has format {shown!r}, this version reads format 2" in done.stderr
        assert "Remove the file to score all images again, or give another --out" in done.stderr
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"format_version": 2, "part": "a", "scorer": "b", "score": 1.0}', "picture is missing"),
        ('{"format_version": 2, "part": "a", "scorer": "b", "picture": "c", "score": "1"}', "score must be"),
        ('{"format_version": 2, "part": "a", "scorer": "b", "picture": "c", "score": true}', "score must be"),
        ('{"format_version": 2, "part": ["a"], "scorer": "b", "picture": "c", "score": 1}', "part must be"),
        ("no JSON", "Expecting value"),
        ("\x00", "Expecting value"),
    ],
)
def test_a_line_that_is_not_a_score_is_named(folder, command, line, message):
    path = folder / "scores.jsonl"
    number = len(path.read_text().splitlines()) + 1
    with path.open("a") as file:
        file.write(line + "\n")
    done = command("report", folder, "--html")
    assert done.returncode == 2
    assert f"Cannot read '{path}': line {number} is not a row of scores ({message}" in done.stderr
    assert "Remove the line" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"precision": "exact", "data": "x"}', "it has format 1, this version reads format 2"),
        ('{"format_version": 2, "precision": "exact"}', "data is missing"),
        ("[]", "it must be a JSON object, got []"),
        ("{", "as JSON: "),
    ],
)
def test_unreadable_settings_are_refused(finished, folder, command, content, message):
    (folder / "run.json").write_text(content)
    done = command(*arguments(folder.parent, "--data", finished[1] / "data"))
    assert done.returncode == 2
    assert str(folder / "run.json") in done.stderr
    assert message in done.stderr
    assert (folder / "run.json").read_text() == content

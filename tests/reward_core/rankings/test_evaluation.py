"""Evaluation on rankings, `reward-core evaluate`, and the tool that makes evaluation data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import reward_core as RM
from reward_core import shapes
from reward_core.errors import NonFiniteRewardError
from reward_core.files.score_file import ScoredRow
from reward_core.rankings import RankedPrompt, read_rankings
from reward_core.rankings.evaluation import evaluate

TOOL = Path(__file__).parents[3] / "tools" / "make_shapes_eval.py"


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """The folder and the output of the tool for a small evaluation set."""
    out = tmp_path_factory.mktemp("eval") / "held_out"
    done = subprocess.run(
        [sys.executable, TOOL, "--out", out, "--groups", "30", "--seed", "5"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def rows(*scores):
    return [
        ScoredRow("p", f"{i}.png", score, None if score is not None else "broken")
        for i, score in enumerate(scores)
    ]


def ranked(*ranks, **more):
    return RankedPrompt("0", "p", tuple(Path(f"{i}.png") for i in range(len(ranks))), ranks, **more)


# Counting pairs


def test_pairs_are_pooled_and_averaged_by_prompt():
    data = [ranked(1, 2), ranked(1, 2, 3), ranked(1, 1)]
    # The pair of the first group is correct, two of three pairs of the second; the third is a tie.
    result = evaluate(data, rows(2, 1, 3, 1, 2, 0, 5))
    assert (result.pairs, result.prompts) == (4, 2)
    assert result.pooled_accuracy == pytest.approx(3 / 4)
    assert result.per_prompt_accuracy == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(NonFiniteRewardError, match=f"the score of 2.png is {bad}"):
        evaluate([ranked(1, 2, 3)], rows(None, 1, bad))


def test_equal_scores_are_wrong():
    assert evaluate([ranked(1, 2)], rows(1, 1)).pooled_accuracy == 0


def test_gaps_use_utilities_if_known_and_ranks_otherwise():
    known = ranked(1, 2, 3, utilities=(0.9, 0.85, 0.1))
    result = evaluate([known, ranked(1, 3)], rows(3, 2, 1, 1, 2))
    assert {key: (share.pairs, share.accuracy) for key, share in result.by_gap.items()} == {
        "0.05-0.1": (1, 1.0),
        "0.5-1.0": (2, 1.0),
        "2 places": (1, 0.0),
    }


def test_accuracy_by_fault_uses_pairs_with_faultless_images():
    data = [ranked(1, 2, 3, 4, faults=((), ("blur",), ("noise",), ("blur", "noise")), objects=2)]
    result = evaluate(data, rows(4, 3, 5, 1))
    assert {key: (share.pairs, share.accuracy) for key, share in result.by_fault.items()} == {
        "blur": (1, 1.0),
        "noise": (1, 0.0),
    }
    assert result.by_objects["2"].pairs == result.pairs == 6


def test_images_without_a_score_are_excluded():
    result = evaluate([ranked(1, 2, 3), ranked(1, 2)], rows(2, None, 1, None, 1))
    assert (result.pairs, result.prompts, result.pooled_accuracy) == (1, 1, 1.0)
    with pytest.raises(ValueError, match="no prompt has two images with different ranks and with scores"):
        evaluate([ranked(1, 2)], rows(None, 1))
    with pytest.raises(ValueError, match="Cannot evaluate 'p': 1 scores for its 2 images"):
        evaluate([ranked(1, 2)], rows(1))


# The command


@pytest.mark.slow
def test_the_tiny_model_on_a_fresh_held_out_file(command, held_out):
    folder, output = held_out
    assert "30 groups, sha256 " in output
    done = command("evaluate", "tiny", "--data", folder, "--device", "cpu", "--batch-size", 64, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["pooled_accuracy"] > 0.88  # measured: 0.94
    assert result["per_prompt_accuracy"] > 0.88
    assert result["prompts"] == 30
    assert sum(share["pairs"] for share in result["by_gap"].values()) == result["pairs"] > 200
    far = [share for key, share in result["by_gap"].items() if float(key.split("-")[0]) >= 0.3]
    assert (
        sum(s["pairs"] * s["accuracy"] for s in far) / sum(s["pairs"] for s in far) > 0.96
    )  # measured: 0.99
    assert set(result["by_objects"]) <= {"1", "2"}
    assert set(result["by_fault"]) <= {*shapes.SEMANTIC, *shapes.CLEANLINESS}
    assert result["failed"] == []

    table = command("evaluate", "tiny", "--data", folder / "rankings.json", "--device", "cpu")
    assert f"{result['pooled_accuracy']:.1%}" in table.stdout
    blank = command("evaluate", "tiny", "--data", folder, "--device", "cpu", "--blank-prompts", "--json")
    assert blank.stderr == ""
    assert json.loads(blank.stdout)["pooled_accuracy"] < 0.65  # measured: 0.53


@pytest.mark.slow
def test_the_tool_is_deterministic_and_seeds_differ(held_out, tmp_path):
    folder, output = held_out
    for seed, same in ((5, True), (6, False)):
        out = tmp_path / str(seed)
        command = [sys.executable, TOOL, "--out", out, "--groups", "30", "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (done.stdout.split("sha256")[1] == output.split("sha256")[1]) is same
    again = subprocess.run([sys.executable, TOOL, "--out", folder], capture_output=True, text=True)
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr


def test_a_bad_image_does_not_stop_the_evaluation(command, held_out, tmp_path):
    source, _ = held_out
    data = json.loads((source / "rankings.json").read_text())[:3]
    (tmp_path / "rankings.json").write_text(json.dumps(data))
    for record in data:
        for name in record["generations"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((source / name).read_bytes())
    broken = tmp_path / data[0]["generations"][0]
    broken.write_bytes(b"")
    done = command("evaluate", "tiny", "--data", tmp_path, "--device", "cpu", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == [
        {"image": str(broken), "error": "the file is empty (0 bytes)"}
    ]
    assert str(broken) in done.stderr


def test_rankings_in_the_original_format_with_a_folder_of_images(command, model, folder, parity, tmp_path):
    images = sorted(p.name for p in (parity / "images").iterdir())[:3]
    data = [{"id": "000001-0001", "prompt": "a tree", "generations": images, "ranking": [1, 2, 2]}]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(data))
    done = command(
        "evaluate", folder, "--data", path, "--images", parity / "images", "--device", "cpu", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rewards = model.score("a tree", [parity / "images" / name for name in images])
    correct = [rewards[0] > other for other in rewards[1:]]
    assert result["pooled_accuracy"] == sum(correct) / 2
    assert result["by_gap"] == {"1 place": {"pairs": 2, "accuracy": sum(correct) / 2}}


BAD = {
    "not JSON": ("[", "Cannot read 'PATH' as JSON: "),
    "an object": ('{"a": 1}', "expected a list of records"),
    "empty": ("[]", "it has no records"),
    "no prompt": (
        '[{"generations": [], "ranking": []}]',
        "record 0 of 'PATH': the prompt must be a string, got None",
    ),
    "no images": (
        '[{"prompt": "p", "ranking": [1]}]',
        "record 0 of 'PATH': 'generations' must be a list of file names",
    ),
    "ranks as strings": (
        '[{"prompt": "p", "generations": ["a"], "ranking": ["1"]}]',
        "record 0 of 'PATH': 'ranking' must be a list of integers",
    ),
    "too few ranks": (
        '[{"prompt": "p", "generations": ["a", "b"], "ranking": [1]}]',
        "record 0 of 'PATH': it has 2 images, but 'ranking' is [1]",
    ),
    "invalid faults": (
        '[{"prompt": "p", "generations": ["a"], "ranking": [1], "faults": [3]}]',
        "record 0 of 'PATH': 'utilities' or 'faults' is invalid",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_invalid_record(command, tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "rankings.json"
    path.write_text(content)
    with pytest.raises(RM.errors.InputError) as caught:
        read_rankings(path)
    assert str(path) in str(caught.value)
    assert message.replace("PATH", str(path)) in str(caught.value)
    done = command("evaluate", "tiny", "--data", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(path) in done.stderr


def test_missing_files_are_named(command, tmp_path):
    done = command("evaluate", "tiny", "--data", tmp_path)
    assert done.returncode == 2
    assert f"Cannot read rankings from '{tmp_path / 'rankings.json'}': no such file" in done.stderr
    path = tmp_path / "rankings.json"
    path.write_text('[{"prompt": "p", "generations": ["a"], "ranking": [1]}]')
    done = command("evaluate", "tiny", "--data", path, "--images", tmp_path / "none")
    assert f"Cannot read images from '{tmp_path / 'none'}': no such folder" in done.stderr
    Image.new("RGB", (64, 64)).save(tmp_path / "a", "PNG")
    done = command("evaluate", "tiny", "--data", path, "--device", "cpu")
    assert done.returncode == 2
    assert "no prompt has two images with different ranks" in done.stderr

"""`check-precision`: agreement of faster precisions with exact, on the user's own images."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from tagged_images import INFOTEXT

import reward_core as RM
from reward_core.cli.tables import print_precisions
from reward_core.errors import InputError
from reward_core.models.compare_precisions import PrecisionComparison, PrecisionResult, faster_precisions
from reward_core.rankings.agreement import agreement

WIDTH = 80  # of the terminal
PROMPTS = ["a small red circle", "a green star above a blue square"]


@pytest.fixture
def images(tmp_path):
    """A folder of six images of colored tiles and a damaged file."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(6):
        tiles = generator.integers(0, 256, (2, 3, 3), dtype=np.uint8)
        Image.fromarray(tiles).resize((96, 80), Image.Resampling.NEAREST).save(folder / f"{i}.png")
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


def test_agreement_of_cases_computed_by_hand():
    exact = np.array([[0.0, 2.0, 4.0], [4.0, 2.0, 0.0]])  # standard deviation sqrt(8 / 3)
    std = np.sqrt(8 / 3)
    found = agreement(exact, exact + np.array([[0.0, 0.0, -3.0], [0.1, 0.0, 0.1]]))
    assert found.max_difference == pytest.approx(3 / std)
    assert found.mean_difference == pytest.approx(3.2 / 6 / std)
    assert found.tau == pytest.approx((1 / 3 + 1) / 2)
    assert (found.changed_winners, found.winner_loss) == (1, pytest.approx(2 / std))
    assert found.verdict == "unsafe"
    assert agreement(exact, exact + 0.1).verdict == "safe"
    close = np.array([[0.0, 3.99, 4.0], [4.0, 2.0, 0.0]])
    assert agreement(close, close + np.array([[0.0, 0.05, 0.0], [0.0, 0.0, 0.0]])).verdict == "close"
    assert agreement(exact, np.ones_like(exact)).tau == 0
    nan = agreement(exact, np.full_like(exact, np.nan))
    assert nan.verdict == "unsafe"


def test_equal_rewards_and_a_single_image_are_errors():
    with pytest.raises(InputError, match="same reward for each prompt"):
        agreement(np.array([[0.5, 0.5 + 1e-8], [0.9, 0.9]]), np.zeros((2, 2)))
    with pytest.raises(InputError, match="at least 2 images are needed, got 1"):
        agreement(np.ones((2, 1)), np.ones((2, 1)))


@pytest.mark.slow
def test_the_document_has_the_figures_of_the_rewards(command, images, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(["", *PROMPTS, PROMPTS[0], ""]))
    arguments = "tiny", "--images", images, "--device", "cpu", "--prompts", tmp_path / "prompts.txt"
    done = command("check-precision", *arguments, "--precision", "fast", "--json")
    document = json.loads(done.stdout)
    assert (document["images"], document["prompts"], document["prompt_source"]) == (6, PROMPTS, "file")
    assert document["failed"][0]["image"] == str(images / "damaged.png")
    assert done.returncode == 1
    assert "damaged.png" in done.stderr
    files = sorted(images.glob("[0-9].png"))
    exact, fast = (
        RM.load("tiny", device="cpu", precision=precision).score_matrix(PROMPTS, files)
        for precision in ("exact", "fast")
    )
    assert document["reward_std"] == pytest.approx(exact.std(correction=0).item(), rel=1e-4)
    figures = document["precisions"]["fast"]
    expected = agreement(exact.numpy(), fast.numpy())
    for name, value in vars(expected).items():
        assert figures[name] == pytest.approx(value, abs=1e-4), name
    assert figures["verdict"] == expected.verdict
    assert figures["speedup"] == pytest.approx(figures["images_per_s"] / document["exact"]["images_per_s"])


@pytest.mark.slow
def test_the_table_fits_80_columns_and_ends_with_a_verdict_for_each_precision(command, images):
    (images / "damaged.png").unlink()
    (images / "4.txt").write_text(INFOTEXT)  # of images 0, 2 and 4, evenly spread
    done = command(
        "check-precision", "tiny", "--images", images, "--device", "cpu", "--limit", 3, width=WIDTH
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= WIDTH
    assert "tiny: 3 images, each with 1 prompt from metadata or captions" in done.stdout
    for precision in faster_precisions():
        assert f"\n{precision}: " in done.stdout


def test_a_precision_that_the_machine_does_not_support_is_a_row_with_its_reason(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    result = PrecisionResult(reason="this processor has no AMX")
    comparison = PrecisionComparison([], PROMPTS, 1.0, 2.0, {"int8": result}, {})
    print_precisions("tiny", comparison, "(none found)")
    printed = capsys.readouterr().out
    assert re.search("int8 +│ not supported on this machine", printed)
    assert "int8: not supported on this machine (this processor has no AMX)" in printed
    expected = {"supported": False, "reason": "this processor has no AMX"}
    assert comparison.to_dict()["precisions"] == {"int8": expected}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "exact"], "Cannot compare precision 'exact' with exact: it must be one of 'fast'"),
        (["--limit", "1"], "at least 2 readable images are needed, found 1"),
        (["--prompts", "none.txt"], "Cannot read prompts from 'none.txt': no such file"),
    ],
)
def test_wrong_arguments_are_errors(command, images, arguments, message):
    done = command("check-precision", "tiny", "--images", images, "--device", "cpu", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr

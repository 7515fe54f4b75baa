"""Bulk runs in 16 and 8 bits on a CPU: the scores of the scoring methods, and reproducible ones."""

from dataclasses import replace

import pytest
import torch
from bulk_inputs import make_images, rows_of

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import InputError, RunInterrupted
from reward_core.scoring.precision import check_int8

ROWS, IMAGES, BATCH = 44, 30, 8
PROMPTS = ["a red circle", "two blue squares above a small green triangle", "a yellow star"]
SETTINGS = BulkSettings(model="tiny", devices=("cpu",), batch_size=BATCH, shard_rows=3 * BATCH, cache=12)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    """Rows with repeated images and prompts of several lengths."""
    folder = tmp_path_factory.mktemp("images")
    names = make_images(folder, IMAGES)
    rows = "".join(f"{PROMPTS[i % 3]},{names[i // 2 % IMAGES]}\n" for i in range(ROWS))
    (folder / "rows.csv").write_text("prompt,image\n" + rows)
    return Manifest(folder / "rows.csv")


def interrupted(_: int, done: int, failed: int) -> None:
    if done >= 2 * BATCH:
        raise KeyboardInterrupt


@pytest.fixture(params=["fast", "int8"])
def settings(request) -> BulkSettings:
    if request.param == "int8":
        try:
            check_int8(torch.device("cpu"))
        except InputError as error:
            pytest.skip(str(error))
    return replace(SETTINGS, precision=request.param)


@pytest.mark.parametrize("reproducible", [False, True])
def test_a_bulk_run_agrees_with_score_pairs(manifest, tmp_path, settings, reproducible):
    """At most 0.028 standard deviations were measured (fast). Exact differs by 0.051 (fast), 0.186 (int8)."""
    score_to_file(manifest, tmp_path / "scores.csv", replace(settings, reproducible=reproducible))
    rows = rows_of(tmp_path / "scores.csv")
    files = [str(manifest.path.parent / row["image"]) for row in rows]
    model = RM.load("tiny", device="cpu", precision=settings.precision)
    expected = model.score_pairs([row["prompt"] for row in rows], files, batch_size=BATCH)
    rewards = torch.tensor([float(row["score"]) for row in rows])
    assert (rewards - expected).abs().max() < 0.04 * expected.std()


def test_a_reproducible_run_resumes_to_the_same_bytes(manifest, tmp_path, settings):
    settings = replace(settings, reproducible=True)
    whole, out = tmp_path / "whole.csv", tmp_path / "scores.csv"
    score_to_file(manifest, whole, settings)
    with pytest.raises(RunInterrupted):
        score_to_file(manifest, out, settings, on_progress=interrupted)
    assert score_to_file(manifest, out, settings).resumed_rows == 2 * BATCH
    assert out.read_bytes() == whole.read_bytes()

"""Bulk runs on a CUDA GPU."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bulk_inputs import keep_first_shard, make_images, rows_of

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = "cuda"
ROWS, IMAGES = 100, 30
PROMPTS = ["a red circle", "two blue squares above a small green triangle", "a yellow star"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Rows with repeated images and prompts of several lengths; the last image is missing."""
    folder = tmp_path_factory.mktemp("images")
    make_images(folder, IMAGES)
    rows = [(PROMPTS[i % 3], f"{i // 2 % (IMAGES + 1)}.png") for i in range(ROWS)]
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "image"), *rows])
    return folder / "rows.csv"


def settings(precision: str) -> BulkSettings:
    return BulkSettings(
        model="tiny", devices=(DEVICE,), precision=precision, batch_size=8, shard_rows=16, cache=12
    )


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_bulk_run_agrees_with_score_pairs(manifest, tmp_path, precision):
    summary = score_to_file(Manifest(manifest), tmp_path / "scores.csv", settings(precision))
    rows = rows_of(tmp_path / "scores.csv")
    scored = [row for row in rows if row["error"] is None]
    assert (len(rows), summary.scored, summary.failed) == (ROWS, len(scored), ROWS - len(scored))
    assert {row["image"] for row in rows if row["error"]} == {f"{IMAGES}.png"}
    model = RM.load("tiny", device=DEVICE, precision=precision)
    files = [str(manifest.parent / row["image"]) for row in scored]
    expected = model.score_pairs([row["prompt"] for row in scored], files)
    rewards = torch.tensor([float(row["score"]) for row in scored])
    tolerance = {"exact": 1e-3, "fast": 0.02}[precision]
    assert (rewards - expected).abs().max() < tolerance * expected.std()


@pytest.mark.parametrize("shard_rows", [8, 16])
def test_two_processes_of_a_gpu_score_shards_of_one_or_two_batches(manifest, tmp_path, shard_rows):
    """Results arrive two batches late, which must not delay the next shard for ever."""
    one = replace(settings("exact"), shard_rows=shard_rows)
    two = replace(one, devices=(f"{DEVICE}:0", f"{DEVICE}:0"))
    for name, chosen in (("one.csv", one), ("two.csv", two)):
        assert score_to_file(Manifest(manifest), tmp_path / name, chosen).rows == ROWS
    scores = [[row["score"] for row in rows_of(tmp_path / name)] for name in ("one.csv", "two.csv")]
    for first, second in zip(*scores, strict=True):
        assert (first is None) == (second is None)
        assert first is None or float(first) == pytest.approx(float(second), abs=1e-3)


def test_a_run_resumes_with_the_same_rows(manifest, tmp_path):
    out = tmp_path / "scores"
    out.mkdir()
    score_to_file(Manifest(manifest), out, settings("fast"), file_format="csv")
    shards = {shard.name: rows_of(shard) for shard in out.glob("rows-*")}
    keep_first_shard(out)
    summary = score_to_file(Manifest(manifest), out, settings("fast"), file_format="csv")
    assert summary.resumed_rows == 16
    resumed = {shard.name: rows_of(shard) for shard in out.glob("rows-*")}
    assert resumed.keys() == shards.keys()
    for name, rows in resumed.items():
        for row, before in zip(rows, shards[name]):
            assert row | {"score": None} == before | {"score": None}
            if row["score"] is not None:
                assert float(row["score"]) == pytest.approx(float(before["score"]), abs=0.01)

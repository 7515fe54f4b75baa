"""Bulk runs of a small model on several cores: threads score different shards, each with one core."""

import csv
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import ClippedLevelsWarning, InputError, RunInterrupted
from reward_core.runs.cpus import usable_cpus

pytestmark = pytest.mark.skipif(usable_cpus() < 2, reason="needs two CPUs")
ROWS = 64
SETTINGS = BulkSettings(model="tiny", devices=("cpu",), batch_size=4, shard_rows=8)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def computing(monkeypatch) -> set[tuple[int, int]]:
    """The threads that encode images: identifier, number of torch's threads."""
    found = set()
    encode = RM.RewardModel.encode_pixels

    def observed(model, pixels):
        found.add((threading.get_ident(), torch.get_num_threads()))
        return encode(model, pixels)

    monkeypatch.setattr(RM.RewardModel, "encode_pixels", observed)
    return found


@pytest.fixture
def pairs(tmp_path) -> list[tuple[str, str]]:
    """Prompts and images. Two rows share an image, and the last image is missing."""
    generator = np.random.default_rng(3)
    for i in range(ROWS // 2 - 1):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return [(f"a red circle above {i} squares", f"{i // 2}.png") for i in range(ROWS)]


def csv_manifest(folder: Path, pairs: list[tuple[str, str]]) -> Manifest:
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "image"), *pairs])
    return Manifest(folder / "pairs.csv")


def parquet_manifest(folder: Path, pairs: list[tuple[str, str]]) -> Manifest:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(dict(zip(("prompt", "image"), zip(*pairs))))
    parquet.write_table(table, folder / "pairs.parquet", row_group_size=18)
    return Manifest(folder / "pairs.parquet")


@pytest.mark.parametrize("manifest", [csv_manifest, parquet_manifest])
def test_threads_with_one_core_each_score_the_same_bytes_as_one(
    tmp_path, pairs, computing, two_threads, manifest
):
    source, out, one = manifest(tmp_path, pairs), tmp_path / "scores.csv", tmp_path / "one.csv"
    assert score_to_file(source, out, SETTINGS).errors == {"no such file": 2}
    assert len(computing) == 2
    assert {torch_threads for _, torch_threads in computing} == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    score_to_file(source, one, SETTINGS)
    assert out.read_bytes() == one.read_bytes()


def test_torch_shares_the_cores_if_there_are_few_shards(tmp_path, pairs, computing, two_threads):
    score_to_file(csv_manifest(tmp_path, pairs[:24]), tmp_path / "scores.csv", SETTINGS)
    assert computing == {(threading.get_ident(), 2)}


def test_an_interrupted_run_ends_its_threads_and_resumes_to_the_same_bytes(tmp_path, pairs, two_threads):
    source, out, whole = csv_manifest(tmp_path, pairs), tmp_path / "scores.csv", tmp_path / "whole.csv"
    score_to_file(source, whole, SETTINGS)
    before = threading.active_count()

    def interrupt(rows: int, done: int, failed: int) -> None:
        if done >= 28:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted):
        score_to_file(source, out, SETTINGS, on_progress=interrupt)
    assert threading.active_count() == before
    assert score_to_file(source, out, SETTINGS).resumed_rows > 0
    assert out.read_bytes() == whole.read_bytes()


def test_an_error_in_a_thread_ends_the_run(tmp_path, pairs, two_threads):
    source = csv_manifest(tmp_path, pairs)

    def truncate(rows: int, done: int, failed: int) -> None:
        if not done:
            source.path.write_text("prompt,image\n")

    with pytest.raises(InputError, match="was changed during the run"):
        score_to_file(source, tmp_path / "scores.csv", SETTINGS, on_progress=truncate)


def test_all_threads_together_warn_once_and_at_the_callers_line(tmp_path, pairs, two_threads):
    for _, name in pairs:
        Image.fromarray(np.full((64, 64), 300, np.uint16)).save(tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score_to_file(csv_manifest(tmp_path, pairs), tmp_path / "scores.csv", SETTINGS)
    clipped = [warning for warning in caught if warning.category is ClippedLevelsWarning]
    assert [warning.filename for warning in clipped] == [__file__]

"""Bulk runs on a device whose results arrive some batches late, as those of a GPU do."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue

import pytest
import torch
from bulk_inputs import keep_first_shard, make_images

from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.bulk.engines import Work
from reward_core.bulk.engines.base import load_models
from reward_core.bulk.shards import Shards
from reward_core.errors import RunInterrupted
from reward_core.scoring.transfers import transfers_for

LAG = 2
BATCH = 8
IMAGES = 20
SETTINGS = BulkSettings(model="tiny", devices=("cpu",), batch_size=BATCH, shard_rows=2 * BATCH)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_images(folder, IMAGES)
    return folder


@pytest.fixture(scope="module")
def group():
    return load_models(SETTINGS, torch.device("cpu"))


@pytest.fixture
def late(monkeypatch):
    """Read the results of the CPU as late as those of a GPU."""
    monkeypatch.setattr(transfers_for(torch.device("cpu")), "lag", LAG)


def manifest(images: Path, rows: int) -> Manifest:
    """A manifest whose rows use the images in turn."""
    path = images / f"{rows}.csv"
    with path.open("w", newline="") as file:
        pairs = [(f"a red circle above {i} squares", f"{i % IMAGES}.png") for i in range(rows)]
        csv.writer(file).writerows([("prompt", "image"), *pairs])
    return Manifest(path)


def shards_of(received: Queue, numbers: range):
    """Yield shards, two at first, and each further one once all batches of an earlier one are received."""
    for n in numbers:
        if n >= numbers.start + 2:
            try:
                received.get(timeout=5)
            except Empty:
                raise AssertionError(
                    f"a finished shard was held back while shard {n} was waited for"
                ) from None
        yield n


@pytest.mark.parametrize("shard_rows", [3, BATCH, 2 * BATCH])
@pytest.mark.parametrize("rows", [1, 8, 9, 16, 17, 24, 25, 32, 33, 49])
def test_finished_batches_are_not_held_back_until_the_next_shard(
    images, tmp_path, group, late, rows, shard_rows
):
    source = manifest(images, rows).open(tmp_path)
    shards = Shards(source.rows, shard_rows)
    scorer = Work(SETTINGS, source, shards, BATCH).scorer(group)
    received: Queue = Queue()
    scored = []
    for batch in scorer.score(shards_of(received, range(len(shards)))):
        scored += batch.rows
        if batch.last:
            received.put(batch.shard)
    assert [row.prompt for row in scored] == [f"a red circle above {i} squares" for i in range(rows)]
    assert all(row.scores for row in scored)


def test_a_run_whose_results_are_late_resumes_to_the_same_bytes(images, tmp_path, late):
    """Some batches of an interrupted run are only encoded again, and have no result."""
    source, settings = manifest(images, 50), replace(SETTINGS, shard_rows=40)
    score_to_file(source, tmp_path / "whole.csv", settings)
    out = tmp_path / "scores.csv"

    def interrupt(_: int, done: int, failed: int) -> None:
        if done >= 3 * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(RunInterrupted):
        score_to_file(source, out, settings, on_progress=interrupt)
    summary = score_to_file(source, out, settings)
    assert summary.resumed_rows == 3 * BATCH
    assert summary.pictures_encoded > 50 - 40  # those of the unfinished shard too
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_processes_whose_results_are_late_end_and_resume(warm_python, images, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # read by the processes of the run, which are spawned
        "import torch\nfrom reward_core.scoring.transfers import transfers_for\n"
        f"transfers_for(torch.device('cpu')).lag = {LAG}\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def run(out: str, *more: object):
        files = ("--manifest", manifest(images, 49).path, "--out", f"{tmp_path}/{out}")
        sizes = ("--batch-size", BATCH, "--shard-rows", BATCH)
        command = ("-m", "reward_core", "score", *files, "--model", "tiny", *sizes, "--json", *more)
        done = warm_python.run(command, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    run("whole.csv", "--device", "cpu")
    assert run("scores/", "--format", "csv", "--devices", "cpu,cpu")["resumed_rows"] == 0
    keep_first_shard(tmp_path / "scores")
    (tmp_path / "scores").rename(tmp_path / "scores.csv.parts")
    assert run("scores.csv", "--devices", "cpu,cpu")["resumed_rows"] == BATCH
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()

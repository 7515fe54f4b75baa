"""Bulk runs and scoring methods whose images are decoded by processes: the same scores as with threads."""

import copy
import csv
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bulk_inputs import make_images, rows_of
from PIL import Image

from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import ImageNotFoundError, InputError
from reward_core.inputs.decoding_process import can_decode_in_processes
from reward_core.scoring import decoders
from reward_core.scoring.decoders import worth_processes

needs_processes = pytest.mark.skipif(not can_decode_in_processes(), reason="needs Linux")
SETTINGS = BulkSettings(model="tiny", devices=("cpu",), batch_size=8, shard_rows=16, cache=6, threads=2)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Images, some of them damaged, and pairs.csv, which also names missing ones and repeats some."""
    root = tmp_path_factory.mktemp("inputs")
    names = make_images(root, 30)
    (root / "7.png").write_bytes((root / "7.png").read_bytes()[:500])
    (root / "8.png").write_bytes(b"")
    Image.fromarray(np.full((70, 90), 40_000, np.uint16)).save(root / "9.png")
    images = [*names, *names[3:12], "missing.png", "", "https://example.com/a.png"]
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("prompt", "image"), *((f"{i} squares", n) for i, n in enumerate(images))]
        )
    return root


@pytest.mark.slow
@needs_processes
@pytest.mark.filterwarnings("ignore::reward_core.errors.ClippedLevelsWarning")
def test_processes_write_the_same_rows_as_threads(inputs, tmp_path):
    for name in ("threads", "processes"):
        settings = replace(SETTINGS, decoders=name)
        score_to_file(Manifest(inputs / "pairs.csv"), tmp_path / f"{name}.csv", settings)
    assert (tmp_path / "processes.csv").read_bytes() == (tmp_path / "threads.csv").read_bytes()
    errors = [row["error"] for row in rows_of(tmp_path / "processes.csv") if row["error"]]
    assert len(errors) == 7


@needs_processes
@pytest.mark.filterwarnings("ignore::reward_core.errors.ClippedLevelsWarning")
def test_images_in_a_table_are_decoded_by_processes(inputs, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    data = [(inputs / f"{i}.png").read_bytes() for i in range(10)]
    columns = {"prompt": ["a red circle"] * 10, "image": data}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    for name in ("threads", "processes"):
        settings = replace(SETTINGS, decoders=name)
        score_to_file(Manifest(tmp_path / "pairs.parquet"), tmp_path / f"{name}.csv", settings)
    assert (tmp_path / "processes.csv").read_bytes() == (tmp_path / "threads.csv").read_bytes()


@pytest.mark.slow
@needs_processes
def test_scoring_methods_return_the_same_with_processes(inputs, model, monkeypatch):
    images = [str(inputs / f"{i}.png") for i in range(7)]
    images[2:2] = [Image.open(images[0]), inputs / "10.png", Image.open(images[1]).convert("RGB")]
    expected = model.score("a red circle", images, batch_size=3)
    monkeypatch.setattr(decoders, "default_decoders", "processes")
    assert model.score("a red circle", images, batch_size=3) == expected
    with pytest.raises(ImageNotFoundError, match="no such file"):
        model.score("a red circle", [*images, str(inputs / "missing.png")])
    bad = [*images, str(inputs / "8.png"), *images]
    rows = list(model.score_rows(["a red circle"] * len(bad), bad, batch_size=3))
    assert [row.error is None for row in rows] == [True] * len(images) + [False] + [True] * len(images)


@needs_processes
@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_the_same_command_resumes(warm_python, inputs, tmp_path):
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "scores.csv"
    options = ("--model", "tiny", "--device", "cpu", "--batch-size", "4", "--shard-rows", "8", "--json")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = ((f"{i} squares", inputs / f"{i % 7}.png") for i in range(1200))
        csv.writer(file).writerows([("prompt", "image"), *rows])
    command = ["-m", "reward_core", "score", "--manifest", tmp_path / "pairs.csv", "--out", out, *options]
    command += ["--decoders", "processes", "--threads", 2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = warm_python.start(command, env=environment)
    while not list(Path(f"{out}.parts").glob("rows-*")):
        assert process.poll() is None, process.output()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "of 1200 rows are kept" in printed.replace(",", "")
    assert printed.count("\n") == 1, printed
    assert not psutil.wait_procs(children, timeout=2)[1]
    again = warm_python.run(command, env=environment)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["resumed_rows"] > 0
    assert len(rows_of(out)) == 1200


@pytest.mark.parametrize(
    ("device", "cpus", "images", "expected"),
    [
        ("cuda", 16, 1_000_000, True),
        ("cuda", 4, 5000, True),
        ("cuda", 3, 1_000_000, False),
        ("cuda", 16, 4999, False),
        ("cpu", 16, 1_000_000, False),
        ("mps", 16, 1_000_000, False),
    ],
)
def test_processes_are_used_for_many_images_on_a_gpu_with_several_cpus(device, cpus, images, expected):
    assert worth_processes(device, cpus, images) == expected


def test_unknown_decoders_are_refused():
    with pytest.raises(InputError, match="decoders must be one of auto, threads, processes, got 'fork'"):
        BulkSettings(decoders="fork")


@needs_processes
def test_processes_are_refused_where_the_transform_needs_torch(inputs, model, monkeypatch):
    class Mirrored(type(model.transform)):
        def prepare(self, image):
            return super().prepare(image).flip(1)

    transform = Mirrored(model.transform.size, (0, 0, 0), (1, 1, 1))
    mirroring = copy.deepcopy(model)
    mirroring.transform = transform
    images = [str(inputs / f"{i}.png") for i in range(2)]
    monkeypatch.setattr(decoders, "default_decoders", "processes")
    with pytest.raises(InputError, match="its transform needs torch"):
        mirroring.score("a red circle", images)

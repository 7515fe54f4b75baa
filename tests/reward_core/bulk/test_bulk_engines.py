"""Bulk runs on several processes and on Ray: the same bytes as on one device, even if a worker dies."""

import json
import os
import signal
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_python import Program

from reward_core.bulk.engines.processes import dealt
from reward_core.inputs.decoding_process import can_decode_in_processes

pytest.importorskip("pyarrow")
ROWS = 192  # so that a run is not over before a test kills one of its processes
COMMAND = ("-m", "reward_core", "score")
OPTIONS = ("--model", "tiny", "--batch-size", "4", "--shard-rows", "8", "--json")
# One thread in every process: results may round differently with another number of threads.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def inputs(warm_python, tmp_path_factory) -> Path:
    """Images, pairs.parquet with row groups that do not align with shards, and its scores whole.parquet."""
    import pyarrow
    import pyarrow.parquet

    root = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(2)
    for i in range(ROWS // 2):
        cells = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(root / f"{i}.png")
    columns = {
        "prompt": [f"a red circle above {i} squares" for i in range(ROWS)],
        "image": [f"{i % (ROWS // 2 + 1)}.png" for i in range(ROWS)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "pairs.parquet", row_group_size=18)
    arguments = score_arguments(root, root / "whole.parquet", "--device", "cpu")
    done = warm_python.run(arguments, env=ENVIRONMENT)
    assert json.loads(done.stdout)["errors"] == {"no such file": 1}
    return root


def score_arguments(inputs: Path, out: Path, *more: object) -> tuple:
    return (*COMMAND, "--manifest", inputs / "pairs.parquet", "--out", out, *OPTIONS, *more)


@pytest.fixture
def started(warm_python, inputs):
    """started(out, *options) -> a running program that scores the manifest."""
    return lambda out, *more: warm_python.start(score_arguments(inputs, out, *more), env=ENVIRONMENT)


@pytest.fixture
def run(warm_python, inputs):
    """run(out, *options) -> the completed process."""
    return lambda out, *more: warm_python.run(score_arguments(inputs, out, *more), env=ENVIRONMENT)


def first_shard(out: Path, process: Program) -> None:
    """Wait until a shard is finished."""
    parts = Path(f"{out}.parts")
    while not list(parts.glob("rows-*")):
        assert process.poll() is None, process.output()
        time.sleep(0.01)


def descendants(process: Program) -> list:
    psutil = pytest.importorskip("psutil")
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


# One process per device


def test_few_shards_are_dealt_to_all_devices():
    todo = deque(range(30))
    hands = dealt(todo, 8, 9)
    assert [len([shard for shard in hand if shard is not None]) for hand in hands] == [4] * 6 + [3] * 2
    assert hands[7] == [7, 15, 23, *[None] * 6]
    assert not todo


def test_shards_that_are_not_dealt_remain():
    todo = deque(range(9))
    assert dealt(todo, 2, 3) == [[0, 2, 4], [1, 3, 5]]
    assert list(todo) == [6, 7, 8]


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(run, inputs, tmp_path):
    out = tmp_path / "scores.parquet"
    done = run(out, "--devices", "cpu,cpu")
    assert done.returncode == 1, done.stderr
    assert out.read_bytes() == (inputs / "whole.parquet").read_bytes()
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["failed"]) == (ROWS, 1)
    assert {path.name for path in tmp_path.iterdir()} == {out.name, f".{out.name}.run"}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_process_ends_the_run_with_a_message_and_the_next_run_resumes(
    started, run, inputs, tmp_path
):
    out = tmp_path / "scores.parquet"
    process = started(out, "--devices", "cpu,cpu")
    first_shard(out, process)
    workers = [child for child in descendants(process) if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGSTOP)  # so that it cannot finish before it is killed
    time.sleep(0.2)
    os.kill(workers[1].pid, signal.SIGKILL)
    _, output = process.communicate(timeout=300)
    assert process.returncode == 2
    assert (
        "Cannot score on device cpu: its process ended unexpectedly (signal 9). Finished shards are kept"
        in output
    )
    assert not workers[0].is_running()
    done = run(out, "--device", "cpu")
    assert json.loads(done.stdout)["resumed_rows"] > 0
    assert out.read_bytes() == (inputs / "whole.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_processes_end_when_the_writer_is_killed(started, run, inputs, tmp_path):
    out = tmp_path / "scores.parquet"
    process = started(out, "--devices", "cpu,cpu")
    first_shard(out, process)
    children = descendants(process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 120
    while any(child.is_running() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run(out, "--devices", "cpu,cpu")
    assert out.read_bytes() == (inputs / "whole.parquet").read_bytes()


@pytest.mark.slow
def test_errors_of_a_worker_process_are_reported(run, inputs, tmp_path):
    (tmp_path / "model").mkdir()
    done = run(tmp_path / "scores.csv", "--devices", "cpu,cpu", "--model", tmp_path / "model")
    assert done.returncode == 2
    assert "model" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


# Ray (starting it takes most of the time)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ray_writes_the_same_bytes_after_an_actor_is_killed(started, inputs, tmp_path):
    """A local cluster with two workers, one of which is killed while it scores."""
    pytest.importorskip("ray")
    out = tmp_path / "scores.parquet"
    process = started(out, "--engine", "ray", "--workers", "2")
    first_shard(out, process)
    actors = [child for child in descendants(process) if "RayScorer" in " ".join(child.cmdline())]
    assert actors
    os.kill(actors[0].pid, signal.SIGKILL)
    printed, output = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert out.read_bytes() == (inputs / "whole.parquet").read_bytes()
    summary = json.loads(printed)
    assert (summary["rows"], summary["failed"], summary["resumed_rows"]) == (ROWS, 1, 0)


@pytest.mark.slow
@pytest.mark.skipif(not can_decode_in_processes(), reason="needs Linux")
def test_an_actor_keeps_its_decoding_processes_from_shard_to_shard_and_ends(started, inputs, tmp_path):
    pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "scores.parquet"
    options = ("--engine", "ray", "--workers", "1", "--decoders", "processes", "--threads", "2")
    process = started(out, *options)
    actors, decoding = set(), set()
    while process.poll(0.1) is None:
        for child in descendants(process):
            with suppress(psutil.Error):  # it has ended
                command = " ".join(child.cmdline())
                if "RayScorer" in command:
                    actors.add(child)
                if "decoding_worker" in command:
                    decoding.add(child)
    assert process.returncode == 1, process.output()
    assert (len(actors), len(decoding)) == (1, 2)
    assert not psutil.wait_procs(actors | decoding, timeout=30)[1]  # all have ended
    assert out.read_bytes() == (inputs / "whole.parquet").read_bytes()


@pytest.mark.slow
def test_unreadable_images_in_an_actor_are_reported_as_on_one_device(warm_python, inputs, tmp_path):
    pytest.importorskip("ray")
    datasets = pytest.importorskip("datasets")
    import pyarrow

    cells = pyarrow.array([b"a dog", b"\xff"], pyarrow.binary())
    prompts = pyarrow.Array.from_buffers(pyarrow.string(), 2, cells.buffers())
    table = pyarrow.table({"prompt": prompts, "image": [str(inputs / "0.png")] * 2})
    datasets.Dataset(table).save_to_disk(tmp_path / "data")
    output = {}
    for engine, more in (("local", ()), ("ray", ("--workers", "1"))):
        out = tmp_path / f"{engine}.csv"
        arguments = ("--dataset", tmp_path / "data", "--out", out, "--engine", engine, "--model", "tiny")
        done = warm_python.run([*COMMAND, *arguments, *more], env=ENVIRONMENT)
        assert done.returncode == 2
        output[engine] = done.stderr.splitlines()[-1]
    assert f"Cannot read rows 0 to 1 of the dataset '{tmp_path / 'data'}': 'utf-8' codec" in output["local"]
    assert output["ray"] == output["local"]

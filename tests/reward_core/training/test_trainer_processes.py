"""Training runs in other processes: on two ranks, killed, interrupted; and the command."""

import json
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from ranked_images import write_rankings
from safetensors.torch import load_file

import reward_core as RM
from reward_core.training import initialize_from_scratch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rankings")
    write_rankings(folder, "train", 22, seed=0)
    write_rankings(folder, "validation", 5, seed=1, images=3)
    return folder


@pytest.fixture(scope="module")
def start(folder, tmp_path_factory):
    """The folder of a randomly initialized model."""
    model = RM.load(folder, device="cpu")
    initialize_from_scratch(model, 0)
    path = tmp_path_factory.mktemp("start") / "model"
    model.save_pretrained(path)
    return path


def training(start, data, out, *settings, ranks=1):
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"] * (ranks > 1)
    common = ("trackers=[]", "warmup_steps=0", "lr=1e-3", "validations=1", "freeze=0.5", "workers=1")
    given = ("--init", start, "--data", data, "--out", out, *common, *settings)
    return [*launcher, "-m", "reward_core", "train", *map(str, given)]


def environment():
    return {
        **os.environ,
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def finish(python, arguments):
    done = python.run(arguments, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def finish_ranks(python, arguments):
    """Run a training on two ranks and return the first rank's stderr."""
    ranks = python.start_ranks(2, arguments, env=environment())
    outputs = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    return outputs[0]


@pytest.fixture
def python(warm_training_python):
    return warm_training_python


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def newest(folder):
    path = sorted((folder / "checkpoints").iterdir())[-1]
    return load_file(path / "tensors.safetensors"), json.loads((path / "state.json").read_text())["run"]


@pytest.mark.slow
def test_two_processes_equal_one_process(python, start, data, tmp_path):
    """The same micro-batches of 2 groups, computed by one process and by two processes.

    The last step of an epoch has only 2 groups, so that one of two processes has none. The gradient of a
    key bias is rounding noise; epsilon is above it, or Adam would scale it up to a full step.
    """
    more = ("batch_size=2", "steps=6", "epochs=2", "lr=1e-4", "epsilon=1e-6")
    more += ("dropout=0", "drop_path=0", "head_dropout=0")
    finish(python, training(start, data, tmp_path / "one", *more, "accumulation=2"))
    finish(python, training(start, data, tmp_path / "two", *more, "accumulation=1", ranks=2))
    (one, first), (two, second) = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert (first["processes"], second["processes"]) == (1, 2)
    assert first["step"] == second["step"] == 6
    before = load_file(start / "model.safetensors")
    assert one.keys() == two.keys()
    moved = max(float((w - before[name.removeprefix("model.")]).abs().max()) for name, w in one.items())
    assert moved > 3e-4
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-6, rtol=0), name
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for name in {
            "loss",
            "accuracy",
            "pairs",
            "gradient_norm",
            "validation/loss",
            "validation/accuracy",
        } & {*a}:
            assert a[name] == pytest.approx(b[name], rel=1e-5), name
    pairs = [row["pairs"] for row in rows(tmp_path / "two") if "pairs" in row]
    assert len({*pairs}) > 1  # the steps have different sizes


def wait_for_steps(folder, steps, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        if sum('"gradient_norm"' in line for line in lines) >= steps:
            return
        assert process.poll() is None, process.output()
        time.sleep(0.02)
    raise AssertionError("no step within two minutes")


@pytest.mark.slow
def test_a_resumed_run_on_two_ranks_is_bit_identical(python, start, data, tmp_path):
    more = ("batch_size=1", "accumulation=1", "steps=9", "checkpoint_every=3", f"cache={tmp_path / 'cache'}")
    finish_ranks(python, training(start, data, tmp_path / "whole", *more))
    arguments = training(start, data, tmp_path / "killed", *more)
    ranks = python.start_ranks(2, arguments, env=environment())
    wait_for_steps(tmp_path / "killed", 5, ranks[0])  # between two checkpoints
    for rank in ranks:
        rank.kill()
        rank.wait()
    output = finish_ranks(python, arguments)
    assert "resuming after step" in output
    (one, _), (two, _) = newest(tmp_path / "whole"), newest(tmp_path / "killed")
    for name, weight in one.items():
        assert weight.equal(two[name]), name

    def steps(folder):
        return [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows(tmp_path / folder)]

    assert steps("whole") == steps("killed")  # each step once, with the same values


@pytest.mark.slow
def test_training_in_16_bit_keeps_float32_weights(python, start, data, tmp_path):
    more = ("mixed_precision=bf16", "gradient_checkpointing=true", "epochs=8", "accumulation=1", "freeze=0")
    finish(python, training(start, data, tmp_path / "half", *more))
    validations = [row["validation/loss"] for row in rows(tmp_path / "half") if "validation/loss" in row]
    assert validations[-1] < validations[0] - 0.02
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert "bf16, torch" in (tmp_path / "half" / "README.md").read_text()


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_resume(python, start, data, tmp_path):
    arguments = training(start, data, tmp_path / "run", "batch_size=1", "accumulation=1", "epochs=200")
    process = python.start(arguments, env=environment())
    wait_for_steps(tmp_path / "run", 1, process)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopping after this step" in output
    assert "run the same command to resume" in output
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert 1 <= json.loads((checkpoint / "state.json").read_text())["run"]["step"] < 4400
    RM.load(tmp_path / "run", device="cpu")  # the best weights so far


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_a_full_disk_is_a_one_line_error_and_keeps_existing_files(python, start, data, tmp_path):
    out = tmp_path / "run"
    more = ("steps=4", "checkpoint_every=2", "checkpoints=9")
    arguments = training(start, data, out, *more)
    finish(python, arguments)
    last = out / "checkpoints" / "step-000004"
    shutil.rmtree(last)
    full_disk = {"RLIMIT_FSIZE": 15_000}  # writing larger files fails, as on a full disk
    before = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".safetensors", ".pt")}
    full = python.run(arguments, env=environment(), limits=full_disk)
    assert full.returncode == 2
    assert "Traceback" not in full.stderr
    assert f"reward-core: Cannot write into '{out}" in full.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in before} == before
    assert not list((out / "checkpoints").glob(".*"))
    assert not list(out.glob(".saving-*"))
    assert "resuming after step 2" in finish(python, arguments)
    assert last.is_dir()
    # The same in a new folder.
    arguments = training(start, data, tmp_path / "new", *more)
    full = python.run(arguments, env=environment(), limits=full_disk)
    assert full.returncode == 2
    assert f"reward-core: Cannot write into '{tmp_path / 'new'}': " in full.stderr.splitlines()[-1]


def test_the_command_reports_invalid_settings(start, data, tmp_path, command):
    for arguments, output in (
        (("--init", start, "--data", tmp_path), "no train.json"),
        (("--data", data, "epoch=3"), "Cannot use the setting 'epoch': unknown. Did you mean 'epochs'?"),
        (("--init", "nothing", "--data", data, "--out", tmp_path / "x"), "is neither a known name"),
        (("--init", start, "--data", data, "image_size=50"), "it must be a multiple of 16"),
        (("--init", start), "no data given"),
    ):
        done = command("train", *arguments)
        assert done.returncode == 2
        assert output in done.stderr
    done = command(
        "train", "--init", start, "--data", data, "--out", tmp_path / "dry", "--dry-run", "cpu=true"
    )
    assert done.returncode == 0
    assert "data: train 22 groups" in done.stdout
    assert not (tmp_path / "dry" / "checkpoints").exists()

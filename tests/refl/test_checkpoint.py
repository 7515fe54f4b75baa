"""Full disks and power loss: no file is left partly written."""

import os
import sys

import pytest
import torch
from synced_files import recorded
from toy_runs import redness, train

from refl.errors import ConfigError
from reward_core.errors import CheckpointError


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
@pytest.mark.parametrize("rank", [4, 0], ids=["lora", "full"])
def test_an_unwritable_checkpoint_is_a_one_line_error(pipelines, warm_training_python, tmp_path, rank):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    settings = ("rollout.height=16", "rollout.steps=4", "run.steps=1", "run.trackers=[]", "run.cpu=true",
                "validation.prompts=0", f"model.lora_rank={rank}", "run.batch_size=1")  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    done = warm_training_python.run(
        ["-m", "refl", "train", "--model", pipelines("sd"), "--prompts", prompts,
         "--reward", "tiny", "--out", tmp_path / "run", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        limits={"RLIMIT_FSIZE": 15_000},  # writing larger files fails, as on a full disk
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Cannot write into" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks up file descriptors in /proc")
@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_a_checkpoint_is_on_disk_before_older_files_are_removed(pipelines, tmp_path, monkeypatch, rank):
    more = ("run.checkpoint_every=1", "run.checkpoints=1", "validation.every=1", "validation.stop_reward=red",
            "validation.stop_patience=9", "validation.keep_best=true", f"model.lora_rank={rank}")  # fmt: skip
    with recorded(monkeypatch) as writes:
        train(pipelines("sd"), tmp_path / "run", *more)
    assert {"step-000001", "step-000002", "best-000000.safetensors", "model"} <= set(writes.names)
    assert writes.unsynced == []
    assert writes.unsynced_folders == set()
    assert "step-000001" in writes.beside["step-000002"]  # removed only afterwards


def weights_of(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.trainable.parameters])


def test_a_finished_run_continues_to_the_bits_of_a_longer_one(pipelines, tmp_path):
    more = ("optimizer.lr=1e-3", "optimizer.warmup_steps=3", "model.lora_rank=4", "run.cpu=true")
    train(pipelines("sd"), tmp_path / "part", *more, steps=2)
    continued, rows = train(pipelines("sd"), tmp_path / "part", *more, steps=4)
    whole, _ = train(pipelines("sd"), tmp_path / "whole", *more, steps=4)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert torch.equal(weights_of(continued), weights_of(whole))
    card = (tmp_path / "part/model/README.md").read_text()
    assert "4 steps" in card or "steps: 4" in card


def test_a_run_does_not_become_shorter(pipelines, tmp_path):
    train(pipelines("sd"), tmp_path, "run.cpu=true", steps=3)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(ConfigError, match=r"Cannot train 2 steps \(run\.steps\) .* has taken 3"):
        train(pipelines("sd"), tmp_path, "run.cpu=true", steps=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_a_decaying_learning_rate_depends_on_the_number_of_steps(pipelines, tmp_path):
    more = ("optimizer.schedule=linear", "run.cpu=true")
    train(pipelines("sd"), tmp_path, *more, steps=1)
    with pytest.raises(CheckpointError, match=r"run\.steps was 1, now 2"):
        train(pipelines("sd"), tmp_path, *more, steps=2)


def test_a_run_that_stopped_early_says_that_it_does_not_continue(pipelines, tmp_path, caplog):
    more = ("validation.every=1", "validation.stop_reward=red", "validation.stop_patience=1", "run.cpu=true",
            "optimizer.lr=1.0", "model.lora_rank=4")  # fmt: skip

    def worse(pixels, prompts):
        calls.append(prompts)
        return 0 * redness(pixels, prompts) - len(calls)

    calls = []
    caplog.set_level("INFO", "refl")
    stopped, _ = train(pipelines("sd"), tmp_path, *more, steps=5, rewards={"red": worse})
    assert stopped.state.stopped
    step = stopped.state.step
    again, _ = train(pipelines("sd"), tmp_path, *more, steps=6, rewards={"red": worse})
    assert again.state.step == step < 5
    assert f"the run stopped early at step {step} and does not continue" in caplog.text

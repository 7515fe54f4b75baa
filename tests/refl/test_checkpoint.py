"""Disks that take no more: one line, and nothing half written is left."""

import os
import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="this system has no such limits")


def limit():
    """No file may grow beyond 15 kB: writing fails as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))


@pytest.mark.parametrize("rank", [4, 0], ids=["lora", "full"])
def test_an_unwritable_checkpoint_is_a_one_line_error(pipelines, tmp_path, rank):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    given = ("rollout.height=16", "rollout.steps=4", "run.steps=1", "run.trackers=[]", "validation.prompts=0",
             f"model.lora_rank={rank}", "run.batch_size=1", "run.cpu=true")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "refl", "train", "--model", pipelines("sd"), "--prompts", prompts,
         "--reward", "tiny", "--out", tmp_path / "run", *(word for one in given for word in ("--set", one))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Cannot write into" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run/checkpoints").glob(".*"))

"""Two runs in one folder, interrupted runs, and full disks."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from small_run import SCORERS, arguments, config

from reward_benchmark.run import run
from reward_core.errors import OutputError

# One run at a time


def test_a_folder_in_use_by_another_run_is_refused(folder, command):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with FileLock(folder / ".benchmark.lock"):
        done = command(*arguments(folder.parent))
        with pytest.raises(OutputError, match="another run"):
            run(config(folder.parent))
    assert done.returncode == 2
    assert str(folder) in done.stderr
    assert "another run" in done.stderr
    assert "give another" in done.stderr or "choose another" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_lock_of_a_killed_run_does_not_block_the_next_one(finished, folder):
    """The lock is held by another process, not just by another handle of this one."""
    script = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(folder / ".benchmark.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match="another run"):
            run(config(folder.parent, data=finished[1] / "data"))
        holder.kill()
        holder.wait()
    (folder / "run.json").unlink()
    assert run(config(folder.parent, data=finished[1] / "data")).parts == finished[0].parts


# Interrupted runs and full disks


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_keeps_its_scores_and_prints_how_to_resume(
    finished, settings, warm_python, tmp_path, number, code
):
    summary, before = finished
    path = tmp_path / "shapes" / "scores.jsonl"
    more = ("--data", before / "data", "--scorers", ",".join([*SCORERS, "tiny"]))  # tiny is slow enough
    command = ["-m", "reward_benchmark", *arguments(tmp_path, *more)]
    process = warm_python.start(command, env=settings)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (path.is_file() and path.stat().st_size):
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    message = "what is finished is kept. Run the same command again to resume"
    assert process.output()[1] == f"reward-benchmark: interrupted; {message}\n"
    kept = path.read_bytes()
    assert 32 <= kept.count(b"\n") < 4 * sum(part.images for part in summary.parts)
    assert run(config(tmp_path, data=before / "data")).parts == summary.parts
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at the scores", "at the summary"])
def test_a_full_disk_is_a_one_line_error_and_keeps_finished_scores(finished, command, tmp_path, moment):
    """A limit on file sizes stands in for a full disk: a write fails in both cases."""
    resource = pytest.importorskip("resource", reason="this system has no such limits")
    summary, before = finished
    path = tmp_path / "shapes" / "scores.jsonl"
    sizes = [(before / name).stat().st_size for name in ("scores.jsonl", "groups.json")]
    limit = sizes[0] // 2 if moment == "at the scores" else sizes[1] - 1
    if moment == "at the summary":
        path.parent.mkdir()
        for name in ("scores.jsonl", "run.json"):
            shutil.copy(before / name, path.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = command(*arguments(tmp_path, "--data", before / "data"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.returncode == 2
    assert done.stderr == (
        f"reward-benchmark: Cannot write to '{path.parent}': no space left (File too large). Finished "
        "work is kept. Free some space, then run the same command again.\n"
    )
    kept = path.read_bytes()
    assert kept.count(b"\n") >= 32
    assert not list(path.parent.glob(".*.tmp"))
    assert run(config(tmp_path, data=before / "data")).parts == summary.parts
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])

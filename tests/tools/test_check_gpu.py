"""The GPU check, run on a CPU."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_gpu.py"


def check(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), "--device", "cpu", "--size", "tiny", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_facts_are_written_and_summarized(tmp_path):
    done = check("--only", "facts,gpu-tests", "--budget", 60, "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "found" / "results.jsonl").read_text().splitlines()]
    stages = {row["stage"]: row for row in rows if "stage" in row}
    assert stages["facts"]["code"] == 0
    assert stages["gpu-tests"]["last"] == "skipped: needs a GPU"
    parts = {row["part"]: row["found"] for row in rows if "part" in row}
    assert parts["matmul, TFLOP/s"].keys() >= {"bf16", "fp16", "tf32", "fp32"}
    assert parts["JPEG files decoded a second"]["512: 1 thread"] > 0
    assert not any("error" in found for found in parts.values())
    summary = (tmp_path / "found" / "summary.txt").read_text()
    assert summary in done.stdout
    assert "[matmul, TFLOP/s]" in summary
    assert (tmp_path / "found" / "log.txt").stat().st_size > 0


@pytest.mark.slow
def test_every_measurement_of_scoring_succeeds(tmp_path):
    done = check("--only", "fast,bulk", "--budget", 100, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows if "stage" in row] == [0, 0]
    parts = {row["part"]: row["found"] for row in rows if "part" in row}
    assert [part for part, found in parts.items() if "error" in found] == []
    assert parts["fast, eager"]["images_per_s"] > 0
    assert parts["two other threads"]["wrong"] == 0
    assert parts["two other threads"]["difference between threads' images, over std"] > 0.1


def test_without_time_left_stages_are_skipped(tmp_path):
    done = check("--only", "facts,bulk", "--budget", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["last"] for row in rows] == ["skipped: no time left"] * 2


def test_the_installation_of_wheels_counts_as_time(tmp_path):
    with zipfile.ZipFile(tmp_path / "a_wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_wheel.py", "")
        wheel.writestr(
            "a_wheel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: a_wheel\nVersion: 1.0\n"
        )
        wheel.writestr(
            "a_wheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("a_wheel-1.0.dist-info/RECORD", "")
    done = check("--only", "facts", "--budget", 5.1, "--wheels", tmp_path, "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    assert "facts: skipped: no time left" in done.stdout  # a stage needs 5 seconds


def test_an_unknown_stage_is_refused(tmp_path):
    done = check("--only", "speed", "--out", tmp_path)
    assert done.returncode == 2
    assert "unknown stage 'speed'; the stages are facts, gpu-tests, scoring" in done.stderr


def test_a_broken_library_is_reported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    monkeypatch.syspath_prepend(tmp_path)
    from gpu_check.facts import library_state

    (tmp_path / "half_a_library.py").write_text("import a_missing_part")
    (tmp_path / "half_a_library-1.2.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: half_a_library\nVersion: 1.2\n"
    (tmp_path / "half_a_library-1.2.dist-info" / "METADATA").write_text(metadata)
    assert library_state("half_a_library", load=False) == "1.2"
    broken = "1.2, cannot be imported: ModuleNotFoundError: No module named 'a_missing_part'"
    assert library_state("half_a_library", load=True) == broken
    assert library_state("no-such-library", load=True) == "not installed"
    assert library_state("Pillow", load=True)[0].isdigit()


def test_a_stage_that_fails_keeps_the_results_it_printed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    from check_gpu import Checker, Stage

    code = """
print('{"variants": {"a": 1}}')
print('{"variants": {"a": 1, "b": 2}}')
print('a warning')
print('{"variants": {"a": 1, "b"', end='')
raise SystemExit(3)
"""
    checker = Checker("cpu", tmp_path, tmp_path, budget=60)
    checker.run(Stage("results", 60, ["-c", code]))
    checker.run(Stage("words", 60, ["-c", "print('no results')"]))
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["code"] for row in rows] == [3, 0]
    assert rows[0]["result"] == {"variants": {"a": 1, "b": 2}}
    assert rows[1]["last"] == "no results"


def test_on_a_cpu_no_stage_sees_a_gpu(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    from check_gpu import Checker, Stage

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for device, visible in (("cpu", ""), ("cuda", "0")):
        checker = Checker(device, tmp_path, tmp_path, budget=60)
        checker.run(
            Stage("gpus", 60, ["-c", "import os; print('gpus:', os.environ['CUDA_VISIBLE_DEVICES'])"])
        )
        assert json.loads((tmp_path / "results.jsonl").read_text())["last"] == f"gpus: {visible}"


def test_children_of_a_finished_stage_are_killed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    from check_gpu import Checker, Stage

    ticks = tmp_path / "ticks"
    child = f"import time\nwhile True: open({str(ticks)!r}, 'a').write('.'); time.sleep(0.02)"
    code = f"""
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, '-c', {child!r}])
while not pathlib.Path({str(ticks)!r}).exists():
    time.sleep(0.02)
"""
    Checker("cpu", tmp_path, tmp_path, budget=60).run(Stage("parent", 60, ["-c", code]))
    time.sleep(0.1)  # until the signal has arrived
    size = ticks.stat().st_size
    time.sleep(0.5)
    assert ticks.stat().st_size == size


def test_a_row_that_was_cut_off_loses_no_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    from check_gpu import Checker, Stage
    from gpu_check.summary import summary

    path = tmp_path / "results.jsonl"
    code = f'open({str(path)!r}, \'a\').write(\'{{"part": "one", "found": {{}}}}\\n{{"part": "tw\')'
    Checker("cpu", tmp_path, tmp_path, budget=60).run(Stage("killed", 60, ["-c", code]))
    assert path.read_text().count("\n") == 3
    assert "killed          0" in summary(tmp_path)

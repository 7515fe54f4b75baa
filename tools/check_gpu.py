"""Check and measure the project on a GPU, within a few minutes.

    python tools/check_gpu.py                            # a GPU, full size, at most 9 minutes
    python tools/check_gpu.py --device cpu --size tiny   # the same stages on a CPU, to see that they run

It runs the GPU tests and measures the card's own rates, scoring, the fast path in variants, bulk scoring from
JPEG files, refl and reward training. Each stage is a process with a time limit; a failed stage does not stop
the others. Nothing has to be installed but torch and the libraries that the project imports.

Results are written to --out: summary.txt (one page, also printed), results.jsonl (written after each
measurement), kernels.txt, syncs.txt (lines at which the host waits for the GPU) and log.txt.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from gpu_check.summary import summary

ROOT = Path(__file__).resolve().parent.parent
SHORTEST = 5  # seconds; a stage with less time left is not started
LOG_BYTES = 400_000  # of each stage in log.txt


@dataclass(frozen=True)
class Stage:
    name: str
    limit: int  # seconds
    command: list[str]  # arguments of Python
    needs_gpu: bool = False


def stages(device: str, size: str, out: Path, work: Path) -> list[Stage]:
    """Return all stages, the most important first.

    The limits of the first six fit into 540 seconds. All together are longer, because most end sooner.
    """
    full = size == "full"
    own = ["--device", device, "--size", size, "--out", str(out), "--work", str(work)]
    scoring = ["--device", device, "--size", size, "--from", "files", "--no-compile", "--profile"]
    scoring += ["--timed", "1024", "--pictures", "64"] if full else ["--timed", "8", "--pictures", "8"]
    refl = ["--size", "sd1", "--repeats", "2"] if full else ["--size", "small", "--repeats", "1"]
    refl += ["--seconds", "70"]
    pytest = ["-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={work / 'pytest'}"]
    pytest.append("--continue-on-collection-errors")  # of tests whose libraries are not installed
    if (work / "site" / "xdist").is_dir() or importlib.util.find_spec("xdist"):
        pytest += ["-n", "4"]  # most of their time is that of starting kernels for the first time
    tests = ["tests/reward_core/scoring", "tests/reward_core/inputs/test_image_transform.py"]
    tests += ["tests/refl/test_rollout.py", "-k", "not inductor and not compile"]
    training = ["--device", device, "--size", size, "--groups", "24" if full else "2"]
    return [
        Stage("facts", 30, ["-m", "gpu_check.facts", *own]),
        Stage("gpu-tests", 130, [*pytest, "-m", "gpu", *gpu_test_files()], needs_gpu=True),
        Stage("scoring", 75, ["tools/bench_scoring.py", *scoring]),
        Stage("fast", 120, ["-m", "gpu_check.fast", *own]),
        Stage("bulk", 80, ["-m", "gpu_check.bulk", *own]),
        Stage("refl", 95, ["tools/bench_refl.py", *refl]),
        Stage("training", 60, ["tools/bench_training.py", *training]),
        Stage("tests", 60, [*pytest, "-m", "not gpu and not slow", *tests]),
    ]


def gpu_test_files() -> list[str]:
    """Return the test files with GPU tests.

    The others may import libraries that are not installed, which would stop pytest.
    """
    files = sorted(ROOT.glob("tests/**/test_*.py"))
    return [str(file) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


class Checker:
    """Runs stages and writes their results.

    Args:
        device: "cuda" or "cpu".
        out: folder of results.
        work: folder for temporary files.
        budget: seconds for all stages together.
    """

    def __init__(self, device: str, out: Path, work: Path, budget: float) -> None:
        self.device, self.out, self.work = device, out, work
        self.end = monotonic() + budget
        self.environment = environment(work, device)
        for name in ("log.txt", "results.jsonl"):
            (out / name).write_text("")
        for name in ("kernels.txt", "syncs.txt", "summary.txt"):
            (out / name).unlink(missing_ok=True)

    def run(self, stage: Stage) -> None:
        limit = min(stage.limit, self.end - monotonic())
        if stage.needs_gpu and self.device != "cuda":
            self.skip(stage, "skipped: needs a GPU")
        elif limit < SHORTEST:
            self.skip(stage, "skipped: no time left")
        else:
            print(f"{stage.name} (at most {limit:.0f} s)", flush=True)
            log = self.work / f"{stage.name}.log"
            started = monotonic()
            code = run_limited([sys.executable, *stage.command], limit, log, self.environment)
            self.write(stage.name, code, monotonic() - started, log)

    def skip(self, stage: Stage, reason: str) -> None:
        print(f"{stage.name}: {reason}", flush=True)
        self.append({"stage": stage.name, "code": "-", "seconds": 0, "last": reason})

    def write(self, name: str, code: int | str, seconds: float, log: Path) -> None:
        output = log.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace")
        with (self.out / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"\n=== {name}: exit {code}, {seconds:.1f} s\n{output}")
        lines = [line for line in output.splitlines() if line.strip()]
        print("\n".join(f"    {line[:300]}" for line in lines[-3:]), flush=True)
        found: dict[str, Any] = {"stage": name, "code": code, "seconds": round(seconds, 1)}
        result = last_result(lines)
        if result is None:
            found["last"] = lines[-1][:300] if lines else ""
        else:
            found["result"] = result
        self.append(found)

    def append(self, found: dict[str, Any]) -> None:
        path = self.out / "results.jsonl"
        cut_off = path.stat().st_size and not path.read_bytes().endswith(b"\n")  # by a stage that was killed
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * bool(cut_off) + json.dumps(found) + "\n")


def last_result(lines: list[str]) -> dict[str, Any] | None:
    """Return the last line that is a JSON object. A stage that is cut off has printed its results so far."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:  # cut off within the line
                continue
    return None


def environment(work: Path, device: str) -> dict[str, str]:
    """Return environment variables with which Python finds the project without an installation.

    With device "cpu" they hide all GPUs, which some stages would use.
    """
    folders = [*sorted(ROOT.glob("packages/*/src")), ROOT / "tools", work / "site"]
    paths = [str(folder) for folder in folders]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {
        **os.environ,
        **hidden,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        # Triton's candidates for matrix multiplications take minutes to compile.
        "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS": "ATEN",
    }


def run_limited(command: list[str], limit: float, log: Path, env: dict[str, str]) -> int | str:
    """Run a command in the project's root; return its exit status, or "time" if it ran past the limit."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return "time"
        finally:  # after Ctrl-C, and if only its children are left, they would compete with the next stage
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def install(wheels: Path, site: Path) -> None:
    """Install all wheels of a folder into another folder, without their dependencies."""
    files = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
    if files:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*command, "--target", str(site), *files], check=False, timeout=60)


def main() -> None:
    names = [stage.name for stage in stages("cpu", "tiny", Path(), Path())]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--budget", type=float, default=540, help="seconds in total (default: %(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help=f"stages to run: {','.join(names)}")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder (default: %(default)s)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use without installing them")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else names
    unknown = [name for name in only if name not in names]
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; the stages are {', '.join(names)}")

    started = monotonic()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    try:
        if args.wheels:
            install(args.wheels, work / "site")
        checker = Checker(args.device, out, work, args.budget - (monotonic() - started))
        for stage in stages(args.device, args.size, out, work):
            if stage.name in only:
                checker.run(stage)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = summary(out)
    (out / "summary.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}\ntotal {monotonic() - started:.0f} s; results in {out}")


if __name__ == "__main__":
    main()

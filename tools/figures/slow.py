"""Figures that train models or score a million rows: minutes to hours."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from PIL import Image

from . import curves
from .record import ROOT, environment, last_json, run_python, save_png, write_record

RUNS = ROOT / "runs" / "figures"  # interrupted runs resume from here
SEEDS = (0, 1, 2)


def write_report(name: str, report: Any, command: str) -> None:
    """Write a record whose machine and versions are those that the run itself reports."""
    first = dict(report[0] if isinstance(report, list) else report)
    known = {key: first[key] for key in ("machine", "versions")}
    print(write_record(name, report, known, command))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def refl_demo() -> None:
    """Fine-tune the tiny pipeline with three seeds: report, curve, images before and after (25 min)."""
    for seed in SEEDS:
        run_python("-m", "refl.demo", "--out", RUNS / "refl-demo", "--seed", seed)
        folder = RUNS / "refl-demo" / "full" / f"seed-{seed}"
        command = f"hatch run refl-demo --seed {seed}"
        write_report(f"refl_demo_seed_{seed}", read(folder / "report.json"), command)
        if seed == 0:
            with Image.open(folder / "grid.png") as image:
                save_png(image, "refl_before_after.png")
    curves.make()


def hacking() -> None:
    """Optimize a reward too far, with and without regularizers (2 h)."""
    folder = RUNS / "hacking"
    run_python("tools/show_reward_hacking.py", "--out", folder)
    command = "python tools/show_reward_hacking.py --out runs/hacking"
    write_report("refl_hacking", read(folder / "hacking.json"), command)
    with Image.open(folder / "pictures.png") as image:
        save_png(image, "reward_hacking_pictures.png")
    curves.make()


def strategies() -> None:
    """Compare the strategies of refl at equal compute (1 h)."""
    folder = RUNS / "strategies"
    run_python("tools/compare_strategies.py", "--out", folder)
    command = "python tools/compare_strategies.py --out runs/strategies"
    write_report("refl_strategies", read(folder / "strategies.json"), command)


def script(name: str, *arguments: object) -> None:
    """Run a script of tools/ whose last line is a JSON document, and write that as a record."""
    before, started = environment(), time.perf_counter()
    numbers = last_json(run_python(f"tools/bench_{name}.py", *arguments))
    command = " ".join(map(str, ("python", f"tools/bench_{name}.py", *arguments)))
    print(write_record(name, numbers, before | {"seconds": round(time.perf_counter() - started, 1)}, command))


def bulk() -> None:
    """Score up to a million rows: memory, speed, time to resume (15 min)."""
    script("bulk", "--rows", 10_000, 1_000_000)


def training() -> None:
    """Train at full size the original's way and this trainer's way (10 min)."""
    script("training", "--groups", 2, "--pairs", 8)

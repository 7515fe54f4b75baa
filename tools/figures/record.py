"""Files of figures: PNGs, and JSON records with numbers, command, date, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from reward_core.files.json_file import write_json
from reward_core.runs.cpus import usable_cpus

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
MAX_BYTES = 200_000  # of a PNG in true color
PACKAGES = ("torch", "transformers", "diffusers", "gradio", "numpy", "pillow")


def write_record(name: str, numbers: Any, environment: dict[str, Any], command: str = "") -> Path:
    """Write docs/results/NAME.json and return its path.

    Args:
        name: name of the file, without suffix.
        numbers: the measured numbers; a JSON value.
        environment: machine, versions and seconds (see ``environment``).
        command: command that repeats the measurement; default: ``hatch run figures NAME``.
    """
    path = RESULTS / f"{name}.json"
    head = {
        "command": command or f"hatch run figures {name}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    write_json(path, head | environment | {"numbers": numbers})
    return path


def environment() -> dict[str, Any]:
    """Return machine, load and versions. Call it first: the load is then that of other work."""
    from refl.demo.study import processor

    return {
        "machine": {"cpu": processor(), "cores": usable_cpus(), "load": round(os.getloadavg()[0], 1)},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def save_png(image: Image.Image | bytes, name: str) -> str:
    """Write a small PNG to docs/NAME and return the name. Large ones get 256 colors."""
    if isinstance(image, bytes):
        image = Image.open(BytesIO(image))
    image = image.convert("RGB")
    path = DOCS / name
    image.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    return name


def run_python(*arguments: object, **variables: str) -> str:
    """Run Python with these arguments in the repository's root and return what it prints.

    Args:
        arguments: arguments of Python, such as a script of tools/ and its options.
        variables: further environment variables.
    """
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def last_json(output: str) -> Any:
    """Return the JSON document in the last line."""
    return json.loads(output.strip().splitlines()[-1])

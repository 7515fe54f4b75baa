"""Build the folder of a Hugging Face Space.

python tools/make_space.py --out space
hf upload USER/NAME space --repo-type space

A Space installs requirements.txt before it copies any other file, so the package cannot be installed from the
folder. Its source is copied next to app.py instead. Requires Python 3.11.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "packages" / "reward-core"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    out = parser.parse_args().out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        parser.error(f"Cannot write to '{out}': not an empty folder.")
    shutil.copytree(ROOT / "tools" / "space", out, dirs_exist_ok=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE / "src" / "reward_core", out / "reward_core", ignore=ignored)
    shutil.copy(PACKAGE / "LICENSE", out / "LICENSE")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    lines = [f"# Requirements of reward_core at commit {commit()}.", *project["dependencies"]]
    lines += project["optional-dependencies"]["app"]
    (out / "requirements.txt").write_text("\n".join(lines) + "\n")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"wrote {out} ({size / 2**20:.1f} MB); try it with: python {out / 'app.py'}")


def commit() -> str:
    """Return the checkout's commit, with "-dirty" if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()

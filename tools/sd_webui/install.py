"""Run by the WebUI at its start, with its own Python: installs reward-core once, from a pinned source.

The source is, first found: the environment variable REWARD_CORE_SOURCE (a folder, a wheel, or a pinned
git address), the checkout that this folder lies in, what `reward-core install-extension` wrote down.
It is never a bare name from an index: as long as nobody has published it, anybody could.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The WebUI has torch, transformers, Pillow and numpy, in versions of its own that must stay; of the rest
# only what is not there is fetched.
ALSO_NEEDED = {"tokenizers": "tokenizers", "safetensors": "safetensors", "huggingface_hub": "huggingface_hub"}


def find_source():
    """What to give to pip, or None."""
    given = os.environ.get("REWARD_CORE_SOURCE", "").strip()
    if given:
        return given
    checkout = HERE.parents[1] / "packages" / "reward-core"
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    record = HERE / "reward_core_source.json"
    if not record.is_file():
        return None
    source = json.loads(record.read_text(encoding="utf-8"))["source"]
    return source if source.startswith("git+") or "://" in source or os.path.exists(source) else None


def is_pinned(source):
    """A path, an address of a file, or a git address with a revision; never a bare name."""
    if source.startswith("git+"):
        return "@" in source.split("://", 1)[-1].split("/", 1)[-1]
    return "://" in source or os.path.exists(source)


def install(*what):
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--no-deps", *what])


def main():
    if importlib.util.find_spec("reward_core") is not None:
        return 0
    source = find_source()
    if source is None or not is_pinned(source):
        shown = f"{source!r} is neither a path nor pinned" if source else "no source is known"
        print(
            f"ImageReward: reward-core is not installed ({shown}). In a checkout of it run\n"
            f'    "{sys.executable}" -m pip install --no-deps ./packages/reward-core\n'
            "or set REWARD_CORE_SOURCE to that folder and start again."
        )
        return 0  # the WebUI starts all the same; the accordion says what is missing
    print(f"ImageReward: installing reward-core from {source}")
    install(source)
    missing = [name for module, name in ALSO_NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        install(*missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())

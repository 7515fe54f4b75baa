"""Install reward-core into the WebUI's Python when the WebUI starts.

The source is the first of: the environment variable REWARD_CORE_SOURCE (a folder, a wheel, or a git URL
with a revision), the checkout that contains this folder, the path recorded by `reward-core
install-extension`. A bare package name is refused: the name is not registered on the public index, so
anybody could publish a package under it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The WebUI comes with its own versions of torch, transformers, Pillow and numpy, which must not change.
# These packages are installed only if they are missing.
ALSO_NEEDED = {"tokenizers": "tokenizers", "safetensors": "safetensors", "huggingface_hub": "huggingface_hub"}


def find_source():
    """Return the source to install from, or None."""
    from_environment = os.environ.get("REWARD_CORE_SOURCE", "").strip()
    if from_environment:
        return from_environment
    checkout = HERE.parents[1] / "packages" / "reward-core"
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    record = HERE / "reward_core_source.json"
    if not record.is_file():
        return None
    source = json.loads(record.read_text(encoding="utf-8"))["source"]
    return source if source.startswith("git+") or "://" in source or os.path.exists(source) else None


def is_pinned(source):
    """Return whether a source is a path or a pinned URL, not a bare name."""
    if source.startswith("git+"):
        return "@" in source.split("://", 1)[-1].split("/", 1)[-1]
    return "://" in source or os.path.exists(source)


def install(*packages):
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--no-deps", *packages])


def main():
    if importlib.util.find_spec("reward_core") is not None:
        return 0
    source = find_source()
    if source is None or not is_pinned(source):
        problem = f"{source!r} is neither a path nor pinned" if source else "no source found"
        print(
            f"ImageReward: Cannot install reward-core: {problem}. In a checkout of the repository run\n"
            f'    "{sys.executable}" -m pip install --no-deps ./packages/reward-core\n'
            "or set REWARD_CORE_SOURCE to that folder, then restart the WebUI."
        )
        return 0  # the WebUI starts anyway; the accordion shows what is missing
    print(f"ImageReward: installing reward-core from {source}")
    install(source)
    missing = [name for module, name in ALSO_NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        install(*missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())

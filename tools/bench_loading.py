"""Measure memory and time of loading a full-size model from .pt and folder.

    python tools/bench_loading.py

Writes seeded weights of ImageReward-v1.0's size (1.79 GB) in both formats to a temporary folder, then loads
each in a separate process and measures its peak resident memory. A ratio is
(peak - peak of `import torch` alone) / size of the file. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORT_TORCH = "import torch; "
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
SCORE = """
import sys, time
started = time.perf_counter()
import reward_core as RM
from PIL import Image
model = RM.load(sys.argv[1], device="cpu")
reward = model.score("a red house by the ocean", Image.linear_gradient("L"))
assert reward == reward
print(time.perf_counter() - started)
"""
MAKE = """
import sys
from pathlib import Path
import torch
import reward_core as RM
from reward_core.network.config import RewardConfig
from reward_core.inputs.tokenizer import PromptTokenizer
root = Path(sys.argv[1])
(root / "pt").mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a red house by the ocean".split()]
words += [f"[unused{i}]" for i in range(30522 - len(words))]
(root / "pt" / "vocab.txt").write_text("\\n".join(words) + "\\n")
torch.manual_seed(0)
tokenizer = PromptTokenizer.from_vocab(root / "pt" / "vocab.txt")
model = RM.RewardModel(RewardConfig.imagereward_v1(), tokenizer)
torch.save(model.state_dict(), root / "pt" / "ImageReward.pt")
model.save_pretrained(root / "folder")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="parent folder of the 3.6 GB of files (default: the system's temporary one)",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        # In a separate process, so that this one stays small.
        run(MAKE, folder)
        (base,) = run(IMPORT_TORCH + PEAK)
        result = {}
        for name, path in (
            ("pt", Path(folder, "pt/ImageReward.pt")),
            ("safetensors", Path(folder, "folder")),
        ):
            seconds, peak = run(SCORE + PEAK, str(path))
            file = path if path.is_file() else path / "model.safetensors"
            result[f"{name}_ratio"] = round((peak - base) / file.stat().st_size, 3)
            result[f"{name}_seconds"] = round(seconds, 2)
            size = file.stat().st_size / 1e9
            print(f"{name}: {size:.2f} GB on disk, peak {peak / 1e9:.2f} GB, {seconds:.1f} s")
        print(f"import torch alone: {base / 1e9:.2f} GB")
    keys = ("pt_ratio", "safetensors_ratio", "pt_seconds", "safetensors_seconds")
    print(json.dumps({key: result[key] for key in keys}))


def run(code: str, *args: str) -> list[float]:
    """Run ``code`` in a new interpreter and return the numbers that it prints."""
    done = subprocess.run([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


if __name__ == "__main__":
    main()

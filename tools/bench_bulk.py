"""Measure bulk scoring: speed, memory, start-up and resume time.

    python tools/bench_bulk.py                                     # the bundled tiny model
    python tools/bench_bulk.py --model full --timed 32 --rows 32   # ImageReward-v1.0's size, seeded weights

The resident rate is the speed of the same model on the same images and prompts in the same batches, already
decoded and tokenized in memory. Speed is measured on distinct files, one row each. Memory is the peak of a
separate process that scores --rows rows (neighboring rows share a file; the cache holds 256 files). Start-up
is the time from the call to the first batch of the longest manifest. Resume is the time in which a run finds
that all shards are finished. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from time import perf_counter

import torch
from scoring_workload import build, synchronize, varied_images

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.bulk.image_states import states_digest
from reward_core.bulk.shard_index import ShardIndex, ShardRecord
from reward_core.inputs.image_file import state_text

# Runs the command, then prints its peak memory in kB. The child itself prints it, because the peak that the
# system reports to the parent includes the parent's own memory at the fork.
MEASURED_COMMAND = """
import sys
from reward_core.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""
PROMPTS = ("a red circle above {} blue squares", "a green star left of {} small triangles")


def make_files(folder: Path, count: int, side: int) -> None:
    (folder / "pictures").mkdir()
    images = varied_images(min(count, 64), side)
    for i in range(count):
        # Transposed and marked, so that no two files are equal.
        image = images[i % len(images)].transpose(i // len(images) % 7)
        image.putpixel((0, 0), (i % 256, i // 256 % 256, 0))
        image.save(folder / "pictures" / f"{i}.png", compress_level=1)


def make_manifest(folder: Path, rows: int, files: int) -> Path:
    """Write a manifest; neighboring rows share images if files are too few."""
    path = folder / f"rows-{rows}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "image"))
        for i in range(rows):
            image = i * min(files, rows) // rows
            writer.writerow((PROMPTS[i % len(PROMPTS)].format(i), f"pictures/{image}.png"))
    return path


@torch.no_grad()
def resident_rate(model: RM.RewardModel, manifest: Path, batch: int) -> float:
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    from PIL import Image

    batches = []
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        pixels = [model.transform.from_pil(Image.open(manifest.parent / row["image"])) for row in chunk]
        tokens = model.tokenizer([row["prompt"] for row in chunk])
        batches.append([tensor.to(model.device) for tensor in (torch.stack(pixels), *tokens)])
    model(*batches[0])
    synchronize(model.device)
    started = perf_counter()
    for inputs in batches:
        model(*inputs)
    synchronize(model.device)
    return len(rows) / (perf_counter() - started)


def peak_of_a_process(manifest: Path, out: Path, model: str, device: str, batch: int) -> tuple[float, float]:
    """Return the peak resident memory in MB and the seconds of the command."""
    command = [
        sys.executable,
        "-c",
        MEASURED_COMMAND,
        "score",
        "--manifest",
        str(manifest),
        "--out",
        str(out),
    ]
    options = ["--model", model, "--device", device, "--batch-size", str(batch), "--quiet"]
    started = perf_counter()
    done = subprocess.run([*command, *options], stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"Cannot score '{manifest}': {done.stderr}")
    return int(done.stderr.split()[-1]) / 1024, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="name or folder; full: seeded weights of full size")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--files", type=int, default=10_000, help="distinct images (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="image side in pixels (default: %(default)s)")
    parser.add_argument(
        "--timed", type=int, default=2_000, help="files to measure speed (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="rows to measure memory"
    )
    args = parser.parse_args()
    result: dict[str, object] = {"device": args.device, "model": args.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, args.files, args.side)
        model_name = args.model
        if model_name == "full":
            model_name = str(folder / "model")
            build("full", folder).save_pretrained(model_name)
        settings = BulkSettings(model=model_name, devices=(args.device,), batch_size=args.batch_size)

        timed = make_manifest(folder, min(args.timed, args.files), args.files)
        model = RM.load(model_name, device=args.device)
        resident = resident_rate(model, timed, args.batch_size)
        del model
        summary = score_to_file(Manifest(timed), folder / "timed.csv", settings)
        result["resident_images_per_s"] = round(resident, 2)
        result["bulk_files_per_s"] = round(summary.rows_per_second, 2)
        result["share_of_resident"] = round(summary.rows_per_second / resident, 3)
        print(json.dumps(result), file=sys.stderr, flush=True)

        peaks = {}
        for rows in args.rows:
            manifest = make_manifest(folder, rows, args.files)
            out = folder / f"scores-{rows}.csv"
            peak, took = peak_of_a_process(manifest, out, model_name, args.device, args.batch_size)
            peaks[rows] = {"peak_rss_mb": round(peak, 1), "seconds": round(took, 1)}
            print(f"{rows:,} rows: {peak:.0f} MB, {took:.1f} s", file=sys.stderr, flush=True)
        result["rows"] = peaks
        mb = [measured["peak_rss_mb"] for measured in peaks.values()]
        result["peak_ratio"] = round(max(mb) / min(mb), 3)

        longest = make_manifest(folder, max(args.rows), args.files)
        result.update(start_and_resume(longest, folder, settings, folder / f"scores-{max(args.rows)}.csv"))
    print(json.dumps(result))


class FirstBatchDoneError(Exception):
    """Raised to stop a run after its first batch."""


def start_and_resume(manifest: Path, folder: Path, settings: BulkSettings, scores: Path) -> dict[str, float]:
    """Return the seconds to the first batch, and those of a finished run."""
    out = f"{folder / 'shards'}/"
    first_batch_at: list[float] = []

    def at_first_batch(rows: int, done: int, failed: int) -> None:
        if done:
            first_batch_at.append(perf_counter())
            raise FirstBatchDoneError

    started = perf_counter()
    with suppress(FirstBatchDoneError):
        score_to_file(Manifest(manifest), out, settings, file_format="csv", on_progress=at_first_batch)
    split(scores, Path(out), manifest, settings.shard_rows)
    resumed_at = perf_counter()
    summary = score_to_file(Manifest(manifest), out, settings, file_format="csv")
    assert summary.resumed_rows == summary.rows
    resume = perf_counter() - resumed_at
    return {"start_s": round(first_batch_at[0] - started, 2), "resume_s": round(resume, 2)}


def split(scores: Path, folder: Path, manifest: Path, rows: int) -> None:
    """Split a file of scores into the shards of a run, with their checksums."""
    index = ShardIndex(folder)
    with scores.open("rb") as file, manifest.open(newline="") as pairs:
        header, images = file.readline(), (row["image"] for row in csv.DictReader(pairs))
        for shard in count():
            if not (lines := list(islice(file, rows))):
                break
            content = header + b"".join(lines)
            (folder / f"rows-{shard * rows:012d}.csv").write_bytes(content)
            states = [state_text(str(manifest.parent / image)) for image in islice(images, len(lines))]
            checksum = hashlib.sha256(content).hexdigest()
            index.add(ShardRecord(shard, checksum, states_digest(states), {}))


if __name__ == "__main__":
    main()

"""Bulk runs that are killed, run out of disk space, run twice at once or whose input changes."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.cli import main
from reward_core.errors import RunInterrupted, StaleScoresWarning

pytest.importorskip("pyarrow")
ROWS, IMAGES = 160, 31
OPTIONS = ("--model", "tiny", "--device", "cpu", "--batch-size", "8", "--shard-rows", "16", "--cache", "12")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Images and pairs.csv, in which some images are missing and consecutive rows share an image."""
    root = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(1)
    for i in range(IMAGES):
        cells = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(root / f"{i}.png")
    rows = [(f"a red circle above {i} squares", f"{i // 3 % (IMAGES + 1)}.png") for i in range(ROWS)]
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "image"), *rows])
    return root


def arguments(inputs: Path, out: Path, *more: object) -> list[str]:
    return list(map(str, ["score", "--manifest", inputs / "pairs.csv", "--out", out, *OPTIONS, *more]))


# Runs the command in forked processes with everything imported, so that they are killed while scoring.
KILLER = """
import json, os, signal, sys, time
from pathlib import Path
import torch, pyarrow.parquet, filelock, rich.progress
torch.set_num_threads(1)
from reward_core.cli import main
from reward_core import bulk
import reward_core.bulk.progress_bar, reward_core.bulk.engines

for line in sys.stdin:
    arguments, parts, shards, delay = json.loads(line)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(main(arguments))
    done = 0
    if delay is not None:
        while not done and len(list(Path(parts).glob("rows-*"))) < shards:
            time.sleep(0.001)
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
    if not done:
        _, status = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - started]), flush=True)
"""


@pytest.fixture
def killer():
    """run(arguments, parts, shards, delay) -> (exit code, seconds).

    Runs the command to its end, or kills it ``delay`` seconds after the folder ``parts`` has ``shards``
    finished shards.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", KILLER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def run(arguments, parts="", shards=0, delay=None):
        print(json.dumps([arguments, parts, shards, delay]), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_killed_at_ten_random_moments_resumes_to_the_same_bytes(inputs, tmp_path, killer):
    whole, out = tmp_path / "whole.parquet", tmp_path / "scores.parquet"
    killer(arguments(inputs, whole))
    whole.unlink()
    code, seconds = killer(arguments(inputs, whole))  # the first run was slower, with cold file caches
    assert code == 1  # some images are missing
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    parts = f"{out}.parts"
    killed = shards_kept = 0
    while killed < 10:
        present = len(list(Path(parts).glob("rows-*")))
        # Every other kill is soon after the next shard is finished, however fast this machine is.
        if killed % 2:
            code, _ = killer(arguments(inputs, out), parts, present + 1, moments.uniform(0, 0.05 * seconds))
        else:
            code, _ = killer(arguments(inputs, out), parts, 0, moments.uniform(0.2 * seconds, seconds))
        if code == -signal.SIGKILL:
            killed += 1
            shards_kept += len(list(Path(parts).glob("rows-*")))
        else:  # the run finished before the kill
            assert code == 1, f"seed {seed}"
            assert out.read_bytes() == whole.read_bytes(), f"seed {seed}"
            out.unlink()
    code, _ = killer(arguments(inputs, out))
    assert code == 1, f"seed {seed}"
    assert out.read_bytes() == whole.read_bytes(), f"seed {seed}"
    names = {out.name, whole.name}
    assert {path.name for path in tmp_path.iterdir()} == names | {f".{name}.run" for name in names}
    assert shards_kept > 0  # some kills came after a shard was finished


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["scores.csv", *(pytest.param(f"scores.{x}", marks=pytest.mark.slow) for x in ("jsonl", "parquet"))],
)
def test_a_run_resumes_from_any_shards_with_the_same_bytes(command, inputs, tmp_path, name):
    folder = tmp_path / "shards"
    form = name.split(".")[1]
    assert command(*arguments(inputs, f"{folder}/", "--format", form)).returncode == 1
    whole = tmp_path / f"whole.{form}"
    assert command(*arguments(inputs, whole)).returncode == 1
    out = tmp_path / name
    parts = shutil.copytree(folder, f"{out}.parts")
    shards = sorted(Path(parts).glob("rows-*"))
    lost = (0, 1, 3, 5, len(shards) - 1)
    for shard in lost:
        shards[shard].unlink()
    (Path(parts) / f".{shards[3].name}.1.tmp").write_text("half a")  # left over from a killed run
    done = command(*arguments(inputs, out, "--json"))
    summary = json.loads(done.stdout)
    assert summary["resumed_rows"] == ROWS - 5 * 16
    # Images are not cached across shards, so each missing shard encodes all of its images.
    by_shard = [{i // 3 % (IMAGES + 1) for i in range(16 * s, 16 * s + 16)} - {IMAGES} for s in lost]
    assert summary["pictures_encoded"] == sum(map(len, by_shard))
    assert out.read_bytes() == whole.read_bytes()
    rows = sum(1 for _ in csv.DictReader(whole.open(newline=""))) if form == "csv" else ROWS
    assert rows == ROWS
    assert summary["failed"] == sum(i // 3 % (IMAGES + 1) == IMAGES for i in range(ROWS))


CHANGES = {
    "a row of the manifest": lambda content: content.replace(b"above 7 squares", b"above 8 squares"),
    "more rows": lambda content: content + b"a dog,1.png\n",
}


@pytest.mark.parametrize(
    "change", ["a row of the manifest", pytest.param("more rows", marks=pytest.mark.slow)]
)
def test_a_changed_manifest_is_refused(command, inputs, tmp_path, change):
    copy = shutil.copytree(inputs, tmp_path / "copy")
    out = unfinished_run(copy, tmp_path)
    content = (copy / "pairs.csv").read_bytes()
    (copy / "pairs.csv").write_bytes(CHANGES[change](content))
    done = command(*arguments(copy, out))
    assert done.returncode == 2
    assert "it has a run with other settings or input: input was" in done.stderr
    (copy / "pairs.csv").write_bytes(content)
    assert command(*arguments(copy, out)).returncode == 1


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (("--model", "tiny-judge"), "model was tiny ("),
        (("--batch-size", "4"), "batch_size was 8, now 4"),
        (("--shard-rows", "32"), "shard_rows was 16, now 32"),
        (("--cache", "0"), "cache was 12, now 0"),
    ],
)
def test_other_settings_are_refused(command, inputs, unfinished, tmp_path, options, output):
    shutil.copytree(unfinished, tmp_path / "scores.csv.parts")
    done = command(*arguments(inputs, tmp_path / "scores.csv", *options))
    assert done.returncode == 2
    assert output in done.stderr


@pytest.fixture(scope="module")
def unfinished(inputs, tmp_path_factory) -> Path:
    """The folder with the finished shards of a run that has not ended."""
    return Path(f"{unfinished_run(inputs, tmp_path_factory.mktemp('unfinished'))}.parts")


def unfinished_run(inputs: Path, tmp_path: Path) -> Path:
    """Return a target with an unfinished run."""
    out = tmp_path / "scores.csv"
    parts = f"{tmp_path / 'scores.csv.parts'}/"
    assert main(arguments(inputs, parts, "--format", "csv")) == 1
    next(Path(parts).glob("rows-*")).unlink()
    return out


@pytest.mark.slow
def test_a_second_run_on_the_same_target_is_refused(command, run, inputs, tmp_path):
    import filelock

    out = tmp_path / "scores.csv"
    folder = Path(f"{out}.parts")
    folder.mkdir()
    with filelock.FileLock(folder / ".bulk-lock"):
        held = run(*arguments(inputs, out))
    assert held.returncode == 2
    assert f"Cannot use '{out}': another run is using it" in held.stderr
    assert command(*arguments(inputs, out)).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at a shard", pytest.param("when joining", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_full_disk_keeps_finished_shards(command, inputs, tmp_path, form, moment):
    """A limit on the size of files simulates a full disk: writing fails in both cases."""
    resource = pytest.importorskip("resource")
    whole, out = tmp_path / f"whole.{form}", tmp_path / f"scores.{form}"
    assert command(*arguments(inputs, f"{tmp_path / 'shards'}/", "--format", form)).returncode == 1
    assert command(*arguments(inputs, whole)).returncode == 1
    shards = (tmp_path / "shards").glob("*")
    smallest = min(path.stat().st_size for path in shards if path.name.startswith("rows-"))
    limit = smallest - 1 if moment == "at a shard" else whole.stat().st_size - 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        done = command(*arguments(inputs, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    saved_shards = 0 if moment == "at a shard" else ROWS // 16
    assert done.returncode == 2
    assert f"File too large. {saved_shards} finished shards are kept" in done.stderr
    assert not out.exists()
    summary = json.loads(command(*arguments(inputs, out, "--json")).stdout)
    assert summary["resumed_rows"] == 16 * saved_shards
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write anywhere")
def test_an_unwritable_folder_is_reported(command, inputs, tmp_path):
    tmp_path.chmod(0o500)
    done = command(*arguments(inputs, tmp_path / "scores.csv"))
    tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert "Cannot write '" in done.stderr
    assert "Permission denied" in done.stderr


def test_a_target_in_a_virtual_file_system_is_refused(command, inputs):
    done = command(*arguments(inputs, "/proc/self/scores.csv"))
    assert done.returncode == 2
    assert "Cannot write '" in done.stderr


# Unfinished shards


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_reports_saved_rows_and_the_same_command_resumes(
    command, warm_python, inputs, tmp_path, number, code
):
    out = tmp_path / "scores.csv"
    options = [*arguments(inputs, out), "--shard-rows", "48"]
    process = warm_python.start(["-m", "reward_core", *options])
    parts = Path(f"{out}.parts")
    for _ in range(6000):
        if list(parts.glob("rows-*")):
            break
        time.sleep(0.002)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    message = re.fullmatch(
        rf"reward-core: interrupted; (\d+) of {ROWS} rows are kept; the same command resumes from there\n",
        printed,
    )
    assert message, printed
    assert int(message[1]) >= 48
    assert json.loads(command(*options, "--json").stdout)["resumed_rows"] == int(message[1])


PAIRS = random.Random(2).choices(range(14), k=48)  # images repeat at short and long distances
SETTINGS = BulkSettings(model="tiny", devices=("cpu",), batch_size=8, shard_rows=40, cache=6)


@pytest.fixture(
    scope="module",
    params=["csv", pytest.param("parquet with the bytes of images", marks=pytest.mark.slow)],
)
def pairs(request, inputs, tmp_path_factory) -> tuple[Manifest, bytes]:
    """A manifest, and the scores of an uninterrupted run."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("pairs")
    prompts = [f"a red circle above {i} squares" for i in range(len(PAIRS))]
    if request.param == "csv":
        path = folder / "pairs.csv"
        lines = [f"{prompt},{image}.png\n" for prompt, image in zip(prompts, PAIRS)]
        path.write_text("prompt,image\n" + "".join(lines))
    else:
        path = folder / "pairs.parquet"
        images = [(inputs / f"{image}.png").read_bytes() for image in PAIRS]
        table = pyarrow.table({"prompt": prompts, "image": images})
        pyarrow.parquet.write_table(table, path, row_group_size=20)
    manifest = Manifest(path, images=inputs)
    score_to_file(manifest, folder / "whole.jsonl", SETTINGS)
    return manifest, (folder / "whole.jsonl").read_bytes()


def interrupted_at(rows: int):
    def on_progress(_: int, done: int, failed: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.slow
def test_a_run_interrupted_at_every_batch_ends_with_the_same_bytes(pairs, tmp_path):
    manifest, whole = pairs
    out = tmp_path / "scores.jsonl"
    for done in range(8, len(PAIRS) + 1, 8):
        with pytest.raises(RunInterrupted) as interrupted:
            score_to_file(manifest, out, SETTINGS, on_progress=interrupted_at(done))
        assert (interrupted.value.saved, interrupted.value.rows) == (done, len(PAIRS))
    summary = score_to_file(manifest, out, SETTINGS)
    assert (summary.resumed_rows, summary.pictures_encoded) == (len(PAIRS), 0)
    assert out.read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} == {out.name, f".{out.name}.run"}


def test_only_batches_with_changed_images_are_encoded_again(inputs, tmp_path):
    """The last row's image is also in the second batch, so of the scored batches only that one is encoded."""
    images = [*range(8), 8, *range(9, 16), *range(16, 24), *range(24, 31), 8]
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("prompt,image\n" + "".join(f"a red circle,{image}.png\n" for image in images))
    settings = replace(SETTINGS, cache=20)
    source = Manifest(manifest, images=inputs)
    score_to_file(source, tmp_path / "whole.csv", settings)
    with pytest.raises(RunInterrupted):
        score_to_file(source, tmp_path / "scores.csv", settings, on_progress=interrupted_at(24))
    summary = score_to_file(source, tmp_path / "scores.csv", settings)
    assert (summary.resumed_rows, summary.pictures_encoded) == (24, 8 + 7)
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_rows_of_an_unfinished_shard_are_saved_periodically(pairs, tmp_path):
    manifest, whole = pairs
    out, copy = tmp_path / "scores.jsonl", tmp_path / "copy"

    def copy_parts(_: int, done: int, failed: int) -> None:
        if done == 24:  # the files that a run killed now would leave
            shutil.copytree(f"{out}.parts", copy)

    score_to_file(manifest, out, replace(SETTINGS, save_seconds=0), on_progress=copy_parts)
    assert out.read_bytes() == whole
    copy.rename(f"{out}.parts")
    assert score_to_file(manifest, out, SETTINGS).resumed_rows == 24
    assert out.read_bytes() == whole


@pytest.mark.parametrize("damage", ["a digit", "cut", "of another run"])
def test_damaged_saved_rows_are_scored_again(pairs, tmp_path, damage):
    manifest, whole = pairs
    out = tmp_path / "scores.jsonl"
    with pytest.raises(RunInterrupted):
        score_to_file(manifest, out, SETTINGS, on_progress=interrupted_at(24))
    (part,) = Path(f"{out}.parts").glob(".bulk-part-*")
    data = part.read_bytes()
    at = data.rindex(b".") + 1
    changed = {"a digit": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "cut": data[:-20]}
    part.write_bytes(changed.get(damage, b"[]\n"))
    with pytest.warns(StaleScoresWarning, match=re.escape(part.name)):
        assert score_to_file(manifest, out, SETTINGS).resumed_rows == 0
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_saved_rows_of_a_changed_image_are_scored_again(inputs, tmp_path):
    copy = shutil.copytree(inputs, tmp_path / "copy")
    source, out = Manifest(copy / "pairs.csv"), tmp_path / "scores.csv"
    with pytest.raises(RunInterrupted):
        score_to_file(source, out, SETTINGS, on_progress=interrupted_at(24))
    os.utime(copy / "3.png", ns=(1, 1))
    with pytest.warns(StaleScoresWarning, match="rows-000000000000.csv"):
        assert score_to_file(source, out, SETTINGS).resumed_rows == 0

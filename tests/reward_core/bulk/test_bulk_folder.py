"""Bulk scoring of a folder: changed prompts, unreadable files, a full disk."""

import errno
import os
import shutil
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin
import pytest
from bulk_inputs import FAST, NOT_READ, READ, keep_first_shard, make_images, rows_of

pytest.importorskip("pyarrow")
COUNT = 12


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(make_images(folder, COUNT)):
        (folder / name).with_suffix(".txt").write_text(f"a red circle {i}")
    return folder


def unfinished_run(command, images: Path, out: Path) -> tuple:
    arguments = ("score", "--folder", images, "--out", f"{out}/", "--format", "csv", *FAST)
    assert command(*arguments).returncode == 0
    keep_first_shard(out)
    return arguments


@pytest.mark.parametrize("text", ["a red square 5", None], ids=["rewritten", "removed"])
def test_a_prompt_that_changed_is_refused(command, images, tmp_path, text):
    arguments = unfinished_run(command, images, tmp_path / "scores")
    if text is None:
        (images / "5.txt").unlink()
    else:
        (images / "5.txt").write_text(text)
    done = command(*arguments)
    assert done.returncode == 2
    assert "it has a run with other settings or input: input was {names_and_prompts" in done.stderr


def test_another_folder_with_the_same_names_and_prompts_is_refused(command, images, tmp_path):
    arguments = unfinished_run(command, images, tmp_path / "scores")
    other = shutil.copytree(images, tmp_path / "other")
    assert command(*arguments, "--folder", other).returncode == 2
    assert command(*arguments).returncode == 0


def test_an_unreadable_subfolder_becomes_an_error_row(command, images, tmp_path):
    """Its path is too long, which is an error for root too."""
    name = "x" * 250
    at = os.open(images, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        out = tmp_path / "scores.jsonl"
        assert command("score", "--folder", images, "--out", out, *FAST).returncode == 1
        *good, last = rows_of(out)
    finally:
        shutil.rmtree(images / name)
    assert len(good) == COUNT
    assert all(row["error"] is None for row in good)
    assert last["image"].startswith(f"{name}/{name}")
    assert last["error"] == "cannot read the folder: File name too long"


def test_a_full_disk_while_listing_names_reports_the_path(command, images, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        done = command("score", "--folder", images, "--out", tmp_path / "scores.csv", *FAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.returncode == 2
    assert "Cannot write the list of images '" in done.stderr
    assert "scores.csv.parts/.bulk-pictures.jsonl': File too" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_an_image_without_read_permission_is_not_reported_as_damaged(command, images, tmp_path, monkeypatch):
    """The error is simulated, because root can read every file."""

    def denied(file, *more, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), file)

    monkeypatch.setattr(PIL.Image, "open", denied)
    out = tmp_path / "scores.jsonl"
    assert command("score", "--folder", images, "--out", out, *FAST).returncode == 1
    assert {row["error"] for row in rows_of(out)} == {"cannot be read: Permission denied"}


def test_captions_in_other_encodings_are_read_or_an_error(command, images, tmp_path):
    texts = [*READ, *NOT_READ]
    for i, text in enumerate(texts):
        (images / f"{i}.txt").write_bytes(text)
    out = tmp_path / "scores.jsonl"
    assert command("score", "--folder", images, "--out", out, *FAST).returncode == 1
    rows = {row["image"]: row for row in rows_of(out)}
    for i, text in enumerate(texts):
        row = rows[f"{i}.png"]
        assert row["prompt"] == READ.get(text)
        if text in NOT_READ:
            assert row["error"].startswith(f"cannot read the prompt: {i}.txt: ")
            assert NOT_READ[text] in row["error"]


# Prompts from metadata


def add_metadata(image: Path, prompt: str) -> None:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64")
    PIL.Image.open(image).save(image, pnginfo=info)


def test_prompts_are_read_from_metadata_as_tag_reads_them(command, images, tmp_path):
    for i in range(4):
        add_metadata(images / f"{i}.png", f"a blue square {i}")
    for i in (2, 5):
        (images / f"{i}.txt").unlink()
    out = tmp_path / "scores.jsonl"
    arguments = ("score", "--folder", images, "--out", out, *FAST)
    done = command(*arguments, "--prompt-from-metadata", "--json")
    assert done.returncode == 1
    rows = {row["image"]: row for row in rows_of(out)}
    prompts = [f"a blue square {i}" for i in range(4)] + ["a red circle 4", None, "a red circle 6"]
    assert [rows[f"{i}.png"]["prompt"] for i in range(7)] == prompts
    assert rows["5.png"]["error"].startswith("no prompt: ")
    assert "--prompt-from-metadata" not in done.stderr

    done = command(*arguments, "--json", "--overwrite")
    assert done.returncode == 1
    assert {row["image"]: row["prompt"] for row in rows_of(out)}["1.png"] == "a red circle 1"
    assert "--prompt-from-metadata reads" in done.stderr


def test_a_changed_prompt_in_the_metadata_is_scored_again(command, images, tmp_path):
    out = tmp_path / "scores"
    add_metadata(images / "0.png", "a blue square")
    arguments = ("score", "--folder", images, "--out", f"{out}/", "--format", "jsonl", *FAST)
    assert command(*arguments, "--prompt-from-metadata").returncode == 0
    add_metadata(images / "0.png", "a green star")
    assert command(*arguments, "--prompt-from-metadata").returncode == 0
    assert rows_of(min(out.glob("rows-*")))[0]["prompt"] == "a green star"
    done = command(*arguments)
    assert done.returncode == 2
    assert "prompt_from_metadata True" in done.stderr


def test_prompts_from_metadata_require_a_folder(command, tmp_path):
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("prompt,image\na,a.png\n")
    for source in (("--manifest", manifest), ("--prompts", manifest, "--images", tmp_path)):
        done = command("score", *source, "--out", tmp_path / "s.csv", *FAST[:2], "--prompt-from-metadata")
        assert done.returncode == 2
        assert "--prompt-from-metadata" in done.stderr

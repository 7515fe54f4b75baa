"""Where a bulk run writes: what it must not replace, and what it finds there."""

import csv
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from bulk_world import FAST, keep_first_shard, make_pictures, rows_of

pytest.importorskip("pyarrow")
import pyarrow.parquet

COUNT = 20


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """Pictures with their prompts beside them, and pairs.csv."""
    root = tmp_path_factory.mktemp("world")
    names = make_pictures(root, COUNT)
    for i, name in enumerate(names):
        (root / name).with_suffix(".txt").write_text(f"a red circle {i}")
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("prompt", "image"), *((f"a red circle {i}", n) for i, n in enumerate(names))]
        )
    return root


@pytest.fixture
def world(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "world"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The input is not replaced


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["itself", "symlink", "hard link"])
def test_a_manifest_is_not_replaced_by_its_scores(command, world, link):
    manifest = out = world / "pairs.csv"
    if link:
        out = world / "scores.csv"
        link(manifest, out)
    before = contents(world)
    done = command("score", "--manifest", manifest, "--out", out, *FAST)
    assert done.returncode == 2
    assert f"{out}: it is the input {manifest}, which the scores would replace" in done.stderr
    assert contents(world) == before


def test_a_tar_is_not_replaced_by_its_scores(command, world):
    pytest.importorskip("webdataset")
    tar = world / "tar.csv"
    with tarfile.open(tar, "w") as opened:
        opened.add(world / "0.png", "0.png")
        opened.add(world / "0.txt", "0.txt")
    before = contents(world)
    done = command("score", "--tars", tar, "--out", tar, *FAST)
    assert done.returncode == 2
    assert "which the scores would replace" in done.stderr
    assert contents(world) == before


def test_a_datasets_file_is_not_replaced_by_its_scores(command, world):
    (world / "data").mkdir()
    file = shutil.copy(world / "pairs.csv", world / "data" / "train.csv")
    before = contents(world)
    done = command("score", "--dataset", world / "data", "--out", file, *FAST)
    assert done.returncode == 2
    assert "which the scores would replace" in done.stderr
    assert contents(world) == before


def test_what_lies_in_a_folder_given_as_target_stays(command, world):
    for name in (".notes.tmp", "pictures.jsonl", "lock", "run.json"):
        (world / name).write_text("mine")
    before = contents(world)
    other = ("score", "--folder", world, "--out", f"{world}/", *FAST, "--format", "csv")
    assert command(*other, "--model", world / "0.png").returncode == 2
    assert contents(world) == before
    assert command(*other).returncode == 0
    assert {path: data for path, data in contents(world).items() if path in before} == before
    done = command(*other, "--cache", 3)
    assert done.returncode == 2
    assert "cache was 256, now 3" in done.stderr
    assert "give another --out to begin anew" in done.stderr
    assert "remove" not in done.stderr


def test_what_lies_in_the_folder_of_parts_stays(command, world, tmp_path):
    out = tmp_path / "scores.csv"
    notes = Path(f"{out}.parts") / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert command("score", "--manifest", world / "pairs.csv", "--out", out, *FAST).returncode == 0
    assert contents(notes.parent) == {notes: b"mine"}


def test_an_empty_target_is_refused(command, world, monkeypatch):
    monkeypatch.chdir(world)
    before = contents(world)
    done = command("score", "--manifest", "pairs.csv", "--out", "", *FAST)
    assert done.returncode == 2
    assert "--out is empty" in done.stderr
    assert contents(world) == before


def test_a_finished_folder_is_read_as_a_dataset(command, world, tmp_path):
    out = tmp_path / "scores"
    assert command("score", "--folder", world, "--out", f"{out}/", *FAST).returncode == 0
    assert pyarrow.parquet.read_table(out)["row"].to_pylist() == list(range(COUNT))


# What an earlier run left


def begun(command, world: Path, out: Path, form: str = "csv") -> tuple:
    """The arguments of a run into a folder that was stopped after its first shard."""
    arguments = ("score", "--manifest", world / "pairs.csv", "--out", f"{out}/", "--format", form, *FAST)
    assert command(*arguments).returncode == 0
    keep_first_shard(out)
    return arguments


def test_another_format_in_the_same_folder_is_refused(command, world, tmp_path):
    *arguments, _ = (*begun(command, world, tmp_path / "scores"), None)
    arguments[arguments.index("csv")] = "jsonl"
    done = command(*arguments)
    assert done.returncode == 2
    assert "format was csv, now jsonl" in done.stderr
    assert [path.suffix for path in (tmp_path / "scores").glob("rows-*")] == [".csv"]


def test_a_very_long_prompt_in_a_shard_is_gone_on_from(command, world, tmp_path):
    records = [
        {"prompt": "a red circle " * 13_000 if i == 1 else "a dog", "image": "0.png"} for i in range(9)
    ]
    manifest = world / "pairs.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = ("score", "--manifest", manifest, "--out", f"{tmp_path / 'out'}/", "--format", "csv", *FAST)
    assert command(*arguments).returncode == 0
    field_limit = csv.field_size_limit()
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_rows"] == 9
    assert csv.field_size_limit() == field_limit


DAMAGED = {
    "a number": ("jsonl", lambda text: "5\n" * 8),
    "a list": ("jsonl", lambda text: text + "[]\n"),
    "nested too deeply": ("jsonl", lambda text: "[" * 100_000 + "\n"),
    "a cut line of JSON": ("jsonl", lambda text: text[:-1]),
    "a cut row": ("csv", lambda text: text[: text.rindex(",") - 3]),
    "a cut end": ("csv", lambda text: text[:-2]),
    "other columns": ("csv", lambda text: text.replace("prompt", "caption", 1)),
    "an open quote": ("csv", lambda text: text.replace(",0.png", ',"0.png', 1)),
    "empty": ("csv", lambda text: ""),
    "only an empty line": ("csv", lambda text: "\r\n"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_shard_that_is_not_whole_is_named(command, world, tmp_path, kind):
    form, damage = DAMAGED[kind]
    arguments = begun(command, world, tmp_path / "scores", form)
    (shard,) = (tmp_path / "scores").glob("rows-*")
    with shard.open(newline="") as file:
        text = file.read()
    with shard.open("w", newline="") as file:
        file.write(damage(text))
    done = command(*arguments)
    assert done.returncode == 2
    assert f"{shard}: damaged, remove it to have it made anew: " in done.stderr
    shard.unlink()
    assert command(*arguments).returncode == 0


def test_a_shard_of_parquet_with_other_columns_is_named(command, world, tmp_path):
    arguments = begun(command, world, tmp_path / "scores", "parquet")
    (shard,) = (tmp_path / "scores").glob("rows-*")
    table = pyarrow.parquet.read_table(shard)
    pyarrow.parquet.write_table(table.select(["row", "error"]), shard)
    done = command(*arguments)
    assert done.returncode == 2
    assert f"{shard}: damaged, remove it to have it made anew: columns row, error, not " in done.stderr


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_settings_of_an_earlier_run_that_cannot_be_read_are_named(command, world, tmp_path, content):
    arguments = begun(command, world, tmp_path / "scores")
    file = tmp_path / "scores" / ".bulk-run.json"
    file.write_text(content, encoding="latin-1")
    done = command(*arguments)
    assert done.returncode == 2
    assert f"{file}: " in done.stderr
    assert "give another --out" in done.stderr


# Names


def test_a_file_name_that_is_no_utf8_may_have_an_error(command, world, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy(world / "0.png", world / name)
    except OSError:
        pytest.skip("the file system wants UTF-8")
    for form in ("parquet", "csv"):
        out = tmp_path / f"scores.{form}"
        assert command("score", "--folder", world, "--out", out, *FAST).returncode == 1
        rows = pyarrow.parquet.read_table(out).to_pylist() if form == "parquet" else rows_of(out)
        assert rows[-1]["image"] == "caf\\udce9.png"
        assert rows[-1]["error"] == "no prompt: caf\\udce9.txt is not there"

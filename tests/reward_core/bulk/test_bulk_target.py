"""Bulk targets: files that must not be overwritten, and the files of an earlier run."""

import csv
import json
import os
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from bulk_inputs import FAST, keep_first_shard, make_images, rows_of

import reward_core
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.errors import InputError, OutputError, StaleScoresWarning

pytest.importorskip("pyarrow")
import pyarrow.parquet

COUNT = 20
SMALL = BulkSettings(model="tiny", devices=("cpu",), batch_size=4, shard_rows=8)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """Images with prompts in text files, and pairs.csv."""
    root = tmp_path_factory.mktemp("inputs")
    names = make_images(root, COUNT)
    for i, name in enumerate(names):
        (root / name).with_suffix(".txt").write_text(f"a red circle {i}")
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("prompt", "image"), *((f"a red circle {i}", n) for i, n in enumerate(names))]
        )
    return root


@pytest.fixture
def inputs(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "inputs"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The input is not overwritten


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["itself", "symlink", "hard link"])
def test_scores_do_not_overwrite_the_manifest(command, inputs, link):
    manifest = out = inputs / "pairs.csv"
    if link:
        out = inputs / "scores.csv"
        link(manifest, out)
    before = contents(inputs)
    done = command("score", "--manifest", manifest, "--out", out, *FAST)
    assert done.returncode == 2
    assert f"Cannot write '{out}': it is the input file '{manifest}', which the scores" in done.stderr
    assert contents(inputs) == before


def test_scores_do_not_overwrite_a_tar(command, inputs):
    pytest.importorskip("webdataset")
    tar = inputs / "tar.csv"
    with tarfile.open(tar, "w") as opened:
        opened.add(inputs / "0.png", "0.png")
        opened.add(inputs / "0.txt", "0.txt")
    before = contents(inputs)
    done = command("score", "--tars", tar, "--out", tar, *FAST)
    assert done.returncode == 2
    assert "which the scores would overwrite" in done.stderr
    assert contents(inputs) == before


def test_a_new_folder_needs_a_slash(command, inputs):
    done = command("score", "--folder", inputs, "--out", inputs / "new", *FAST)
    assert done.returncode == 2
    assert f"or a folder: '{inputs}/new/'." in done.stderr


def test_scores_do_not_overwrite_a_file_of_the_dataset(command, inputs):
    (inputs / "data").mkdir()
    file = shutil.copy(inputs / "pairs.csv", inputs / "data" / "train.csv")
    before = contents(inputs)
    done = command("score", "--dataset", inputs / "data", "--out", file, *FAST)
    assert done.returncode == 2
    assert "which the scores would overwrite" in done.stderr
    assert contents(inputs) == before


@pytest.mark.parametrize("link", [False, True], ids=["itself", "symlink"])
@pytest.mark.parametrize("output", ["scores/", "scores.csv"])
def test_overwriting_shards_does_not_remove_the_input(command, inputs, tmp_path, output, link):
    folder = tmp_path / (output if output.endswith("/") else f"{output}.parts")
    unfinished_run(command, inputs, folder)
    manifest = shard = folder / "rows-000000000000.csv"
    if link:
        manifest = tmp_path / "pairs.csv"
        manifest.symlink_to(shard)
    options = ("--manifest", manifest, "--images", inputs, "--format", "csv", "--out", f"{tmp_path}/{output}")
    before = contents(tmp_path)
    done = command("score", *options, *FAST, "--overwrite")
    assert done.returncode == 2
    assert f"it has the input file '{manifest}', which a shard of the scores would overwrite" in done.stderr
    assert contents(tmp_path) == before


def test_overwriting_a_folder_keeps_files_that_are_not_its_shards(command, inputs, tmp_path):
    out = tmp_path / "scores"
    unfinished_run(command, inputs, out)
    manifest = out / "rows-to-score.csv"
    manifest.write_text("prompt,image\na dog,0.png\n")
    (out / "rows-1.parquet").write_text("mine")
    options = ("--manifest", manifest, "--images", inputs, "--format", "csv", "--out", f"{out}/", *FAST)
    assert command("score", *options, "--overwrite").returncode == 0
    assert "a dog" in manifest.read_text()
    assert (out / "rows-1.parquet").read_text() == "mine"


def test_existing_files_in_the_target_folder_are_kept(command, inputs):
    for name in (".notes.tmp", "pictures.jsonl", "lock", "run.json"):
        (inputs / name).write_text("mine")
    before = contents(inputs)
    other = ("score", "--folder", inputs, "--out", f"{inputs}/", *FAST, "--format", "csv")
    assert command(*other, "--model", inputs / "0.png").returncode == 2
    assert contents(inputs) == before
    assert command(*other).returncode == 0
    assert {path: data for path, data in contents(inputs).items() if path in before} == before
    done = command(*other, "--cache", 3)
    assert done.returncode == 2
    assert "cache was 256, now 3" in done.stderr
    assert "use another --out, or add --overwrite to start over" in done.stderr
    assert "remove" not in done.stderr


def test_existing_files_in_the_parts_folder_are_kept(command, inputs, tmp_path):
    out = tmp_path / "scores.csv"
    notes = Path(f"{out}.parts") / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert command("score", "--manifest", inputs / "pairs.csv", "--out", out, *FAST).returncode == 0
    assert contents(notes.parent) == {notes: b"mine"}


def test_an_empty_target_is_refused(command, inputs, monkeypatch):
    monkeypatch.chdir(inputs)
    before = contents(inputs)
    done = command("score", "--manifest", "pairs.csv", "--out", "", *FAST)
    assert done.returncode == 2
    assert "Cannot write the scores: --out is empty. Set it to" in done.stderr
    assert contents(inputs) == before


def test_a_finished_folder_is_read_as_a_dataset(command, inputs, tmp_path):
    out = tmp_path / "scores"
    assert command("score", "--folder", inputs, "--out", f"{out}/", *FAST).returncode == 0
    assert pyarrow.parquet.read_table(out)["row"].to_pylist() == list(range(COUNT))


# Files of an earlier run


def unfinished_run(command, inputs: Path, out: Path, form: str = "csv") -> tuple:
    """Return the arguments of a run into a folder that has only its first shard."""
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", f"{out}/", "--format", form, *FAST)
    assert command(*arguments).returncode == 0
    keep_first_shard(out)
    return arguments


def test_another_format_in_the_same_folder_is_refused(command, inputs, tmp_path):
    *arguments, _ = (*unfinished_run(command, inputs, tmp_path / "scores"), None)
    arguments[arguments.index("csv")] = "jsonl"
    done = command(*arguments)
    assert done.returncode == 2
    assert "format was csv, now jsonl" in done.stderr
    assert [path.suffix for path in (tmp_path / "scores").glob("rows-*")] == [".csv"]


def test_a_run_resumes_from_a_shard_with_a_very_long_prompt(command, inputs, tmp_path):
    records = [
        {"prompt": "a red circle " * 13_000 if i == 1 else "a dog", "image": "0.png"} for i in range(9)
    ]
    manifest = inputs / "pairs.jsonl"
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_shard_is_named_and_scored_again(command, inputs, tmp_path, kind):
    form, damage = DAMAGED[kind]
    arguments = unfinished_run(command, inputs, tmp_path / "scores", form)
    (shard,) = (tmp_path / "scores").glob("rows-*")
    intact = shard.read_bytes()
    with shard.open(newline="") as file:
        text = file.read()
    with shard.open("w", newline="") as file:
        file.write(damage(text))
    done = command(*arguments, "--json")
    assert done.returncode == 0
    assert f"scoring the rows of {shard.name} in {shard.parent} again: it was changed" in done.stderr
    assert json.loads(done.stdout)["resumed_rows"] == 0
    assert shard.read_bytes() == intact


def test_a_changed_digit_in_a_shard_of_a_file_is_not_joined(command, inputs, tmp_path):
    whole, out = tmp_path / "whole.csv", tmp_path / "scores.csv"
    options = ("--manifest", inputs / "pairs.csv", *FAST)
    assert command("score", *options, "--out", whole).returncode == 0
    unfinished_run(command, inputs, Path(f"{out}.parts"))
    (shard,) = Path(f"{out}.parts").glob("rows-*")
    change_digit(shard)
    done = command("score", *options, "--out", out)
    assert done.returncode == 0
    assert shard.name in done.stderr
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_only_the_changed_shard_of_a_finished_folder_is_rescored(command, inputs, tmp_path):
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", f"{tmp_path / 'scores'}/", *FAST)
    for form in ("jsonl", "parquet"):
        out = tmp_path / f"scores-{form}"
        arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", f"{out}/", "--format", form, *FAST)
        assert command(*arguments).returncode == 0
        _, shard, _ = sorted(out.glob("rows-*"))
        intact = shard.read_bytes()
        change_digit(shard)
        done = command(*arguments, "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)["resumed_rows"] == COUNT - 8
        assert shard.read_bytes() == intact


def test_a_shard_without_a_checksum_is_scored_again(command, inputs, tmp_path):
    out = tmp_path / "scores"
    arguments = unfinished_run(command, inputs, out)
    (shard,) = out.glob("rows-*")
    index = out / ".bulk-shards.jsonl"
    index.write_bytes(index.read_bytes()[:40])  # as if the run was killed while writing it
    done = command(*arguments, "--json")
    assert done.returncode == 0
    assert shard.name in done.stderr
    assert json.loads(done.stdout)["resumed_rows"] == 0
    assert json.loads(command(*arguments, "--json").stdout)["resumed_rows"] == COUNT


@pytest.mark.slow
def test_a_shard_that_changes_during_the_run_is_not_joined(inputs, tmp_path):
    whole, out = tmp_path / "whole.csv", tmp_path / "scores.csv"
    score_to_file(Manifest(inputs / "pairs.csv"), whole, SMALL)

    def damage(rows: int, done: int, failed: int) -> None:
        if done == rows:
            change_digit(next(Path(f"{out}.parts").glob("rows-*")))

    with pytest.raises(OutputError, match=r"rows-0000.* was changed after it was written. Run the same"):
        score_to_file(Manifest(inputs / "pairs.csv"), out, SMALL, on_progress=damage)
    assert not out.exists()
    with pytest.warns(StaleScoresWarning, match="rows-0000"):
        score_to_file(Manifest(inputs / "pairs.csv"), out, SMALL)
    assert out.read_bytes() == whole.read_bytes()


def change_digit(shard: Path) -> None:
    """Change one bit of the last digit in a file of scores, or in the middle of a binary one."""
    data = bytearray(shard.read_bytes())
    digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
    data[len(data) // 2 if shard.suffix == ".parquet" else digits[-1]] ^= 1
    shard.write_bytes(data)


# Images that change between two runs


@pytest.mark.parametrize("kind", ["manifest", "folder", "dataset"])
def test_an_image_replaced_by_one_of_the_same_size_is_scored_again(command, inputs, tmp_path, kind):
    out = tmp_path / "scores"
    source = ("--manifest", inputs / "pairs.csv") if kind == "manifest" else ("--folder", inputs)
    if kind == "dataset":
        pytest.importorskip("datasets")
        source = ("--dataset", inputs / "pairs.csv")
    arguments = ("score", *source, "--out", f"{out}/", "--format", "csv", *FAST)
    images = [inputs / "0.png", inputs / "1.png"]
    size = 1 + max(image.stat().st_size for image in images)
    padded = [
        image.read_bytes().ljust(size, b"\0") for image in images
    ]  # bytes after a PNG's end are ignored
    for image, content in zip(images, padded):
        image.write_bytes(content)
    assert command(*arguments).returncode == 0
    first, *_ = sorted(out.glob("rows-*"))
    before = first.read_bytes()
    for image, content in zip(images, reversed(padded)):
        image.write_bytes(content)
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert f"scoring the rows of {first.name} in" in done.stderr
    assert "one or more of their images changed" in done.stderr
    assert json.loads(done.stdout)["resumed_rows"] > 0
    assert first.read_bytes() != before
    after = contents(out)
    shutil.rmtree(out)
    assert command(*arguments).returncode == 0
    assert all(after[shard] == shard.read_bytes() for shard in out.glob("rows-*"))


def test_a_missing_image_is_scored_once_it_exists(command, inputs, tmp_path):
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", f"{tmp_path / 'scores'}/", *FAST)
    shutil.move(inputs / "9.png", tmp_path / "9.png")
    assert command(*arguments).returncode == 1
    shutil.move(tmp_path / "9.png", inputs / "9.png")
    done = command(*arguments, "--json")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert (summary["resumed_rows"], summary["failed"], summary["errors"]) == (COUNT - 8, 0, {})


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_settings_of_an_earlier_run_are_reported(command, inputs, tmp_path, content):
    arguments = unfinished_run(command, inputs, tmp_path / "scores")
    file = tmp_path / "scores" / ".bulk-run.json"
    file.write_text(content, encoding="latin-1")
    done = command(*arguments)
    assert done.returncode == 2
    assert f"Cannot resume from '{file}': " in done.stderr
    assert "Use another --out" in done.stderr


# Names


def test_a_non_utf8_file_name_can_have_an_error_row(command, inputs, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.copy(inputs / "0.png", inputs / name)
    except OSError:
        pytest.skip("the file system requires UTF-8")
    for form in ("parquet", "csv"):
        out = tmp_path / f"scores.{form}"
        assert command("score", "--folder", inputs, "--out", out, *FAST).returncode == 1
        rows = pyarrow.parquet.read_table(out).to_pylist() if form == "parquet" else rows_of(out)
        assert rows[-1]["image"] == "caf\\udce9.png"
        assert rows[-1]["error"] == "no prompt: caf\\udce9.txt does not exist"


# Finished output


@pytest.mark.parametrize("out", ["scores.csv", "scores/"])
def test_the_same_command_on_finished_output_scores_nothing(command, inputs, tmp_path, out):
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", f"{tmp_path}/{out}", *FAST)
    assert command(*arguments).returncode == 0
    before = contents(tmp_path)
    done = command(*arguments, "--json")
    assert done.returncode == 0
    assert f"finished before, nothing to score: {COUNT} scores in" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["scored"], summary["resumed_rows"], summary["pictures_encoded"]) == (COUNT, COUNT, 0)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("out", ["scores.csv", "scores/"])
def test_finished_output_is_replaced_only_on_request(command, inputs, tmp_path, out):
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", f"{tmp_path}/{out}", *FAST)
    assert command(*arguments).returncode == 0
    before = contents(tmp_path)
    other = tuple("tiny-judge" if word == "tiny" else word for word in arguments)
    done = command(*other)
    assert done.returncode == 2
    assert re.search(r"other settings or input: model was tiny \(\w+\.\.\.\), now tiny-judge \(", done.stderr)
    assert "--overwrite" in done.stderr
    assert contents(tmp_path) == before
    done = command(*other, "--overwrite", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_rows"] == 0
    assert contents(tmp_path) != before
    assert "finished before" in command(*other).stderr
    done = command(*other, "--overwrite", "--json")
    assert json.loads(done.stdout)["resumed_rows"] == 0


def stopped_at(rows: int):
    """Return a progress callback that fails once so many rows are done."""

    def on_progress(_: int, done: int, failed: int) -> None:
        if done >= rows:
            raise MemoryError

    return on_progress


@pytest.mark.parametrize("cache", [256, 3], ids=["same settings", "other settings"])
def test_a_finished_folder_is_kept_until_the_first_new_scores(inputs, tmp_path, cache):
    source, out = Manifest(inputs / "pairs.csv"), f"{tmp_path / 'scores'}/"
    score_to_file(source, out, SMALL)
    before = contents(tmp_path)
    other = replace(SMALL, cache=cache)
    with pytest.raises(MemoryError):
        score_to_file(source, out, other, overwrite=True, on_progress=stopped_at(0))
    assert contents(tmp_path) == before
    assert score_to_file(source, out, SMALL).resumed_rows == COUNT
    with pytest.raises(MemoryError):
        score_to_file(source, out, other, overwrite=True, on_progress=stopped_at(12))
    assert len(list(Path(out).glob("rows-*"))) == 1
    assert score_to_file(source, out, other).resumed_rows == 12
    assert contents(tmp_path).keys() == before.keys()


def test_a_full_disk_at_the_first_new_shard_keeps_a_finished_folder(inputs, tmp_path):
    """A limit on the size of files simulates a full disk."""
    resource = pytest.importorskip("resource")
    source, out = Manifest(inputs / "pairs.csv"), f"{tmp_path / 'scores'}/"
    score_to_file(source, out, SMALL)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            score_to_file(source, out, SMALL, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before


def test_an_interrupted_overwrite_resumes(command, inputs, tmp_path):
    arguments = unfinished_run(command, inputs, tmp_path / "scores")
    done = command(*arguments, "--overwrite", "--json")
    assert json.loads(done.stdout)["resumed_rows"] == 8


def test_a_resumed_run_keeps_a_file_made_since_it_was_interrupted(inputs, tmp_path):
    source, out = Manifest(inputs / "pairs.csv"), tmp_path / "scores.csv"
    with pytest.raises(MemoryError):
        score_to_file(source, out, SMALL, on_progress=stopped_at(12))
    out.write_text("mine")
    with pytest.raises(InputError, match=r"it was written by something else after .* began. .*--overwrite"):
        score_to_file(source, out, SMALL)
    assert out.read_text() == "mine"
    with pytest.raises(MemoryError):
        score_to_file(source, out, SMALL, overwrite=True, on_progress=stopped_at(16))
    assert out.read_text() == "mine"
    assert score_to_file(source, out, SMALL).resumed_rows == 16  # it was allowed to replace this file
    assert out.read_text() != "mine"


@pytest.mark.parametrize("replaced", [True, False])
def test_a_run_killed_when_it_replaced_the_file_resumes(inputs, tmp_path, replaced):
    source, out, copy = Manifest(inputs / "pairs.csv"), tmp_path / "scores.csv", tmp_path / "copy"
    out.write_text("mine")

    def copy_parts(rows: int, done: int, failed: int) -> None:
        if done == rows:  # the files that a run killed before it removed them would leave
            shutil.copytree(f"{out}.parts", copy)

    score_to_file(source, out, SMALL, overwrite=True, on_progress=copy_parts)
    finished = out.read_bytes()
    copy.rename(f"{out}.parts")
    if not replaced:
        out.write_text("mine")
    assert score_to_file(source, out, SMALL).resumed_rows == COUNT
    assert out.read_bytes() == finished
    assert {path.name for path in tmp_path.iterdir()} == {"inputs", out.name, f".{out.name}.run"}


def test_a_finished_file_with_other_contents_or_images_is_kept(command, inputs, tmp_path):
    out = tmp_path / "scores.csv"
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", out, *FAST)
    out.write_text("mine")
    done = command(*arguments)
    assert (done.returncode, out.read_text()) == (2, "mine")
    assert f"Cannot write '{out}': it exists, and no record says which run wrote it" in done.stderr
    assert command(*arguments, "--overwrite").returncode == 0
    shutil.copy(inputs / "1.png", inputs / "0.png")
    done = command(*arguments)
    assert done.returncode == 2
    assert "images changed after they were scored" in done.stderr
    out.write_text(out.read_text() + "more\n")
    done = command(*arguments)
    assert done.returncode == 2
    assert f"Cannot write '{out}': it was changed after it was written" in done.stderr


def test_an_unknown_file_is_refused_before_the_model_is_loaded(command, inputs, tmp_path):
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    broken = ("--model", inputs / "0.png", "--device", "cpu")
    done = command("score", "--manifest", inputs / "pairs.csv", "--out", out, *broken)
    assert done.returncode == 2
    assert f"Cannot write '{out}': it exists, and no record says which run wrote it" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"inputs", out.name}


def test_the_same_model_in_a_renamed_folder_resumes(command, inputs, tmp_path):
    model = shutil.copytree(Path(reward_core.__file__).parent / "demo" / "tiny", tmp_path / "model")
    arguments = ("score", "--manifest", inputs / "pairs.csv", "--out", tmp_path / "scores.csv", *FAST[2:])
    assert command(*arguments, "--model", model).returncode == 0
    done = command(*arguments, "--model", model.rename(tmp_path / "renamed"))
    assert done.returncode == 0, done.stderr
    assert "finished before" in done.stderr


def test_one_score_and_one_error_are_singular(command, inputs, tmp_path):
    (inputs / "two.csv").write_text("prompt,image\na dog,0.png\na dog,none.png\n")
    done = command("score", "--manifest", inputs / "two.csv", "--out", tmp_path / "scores.csv", *FAST)
    assert done.stderr.startswith(f"1 score in {tmp_path / 'scores.csv'}\n1 row has an error")

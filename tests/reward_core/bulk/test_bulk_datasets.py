"""Bulk scoring of datasets of the `datasets` library: splits, and datasets that cannot be read."""

import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from bulk_inputs import FAST, make_images, rows_of

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")

COUNT = 12
PROMPTS = [f"a red circle above {i} blue squares" for i in range(COUNT)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A new cache of the library for each test, in this process and in its child processes."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(path))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with 0.png, 1.png, ..."""
    root = tmp_path_factory.mktemp("pictures")
    make_images(root, COUNT)
    return root


def dataset(images: Path, split: str | None = None) -> "datasets.Dataset":
    """Return a dataset with absolute paths of images."""
    columns = {"prompt": PROMPTS, "image": [str(images / f"{i}.png") for i in range(COUNT)]}
    return datasets.Dataset.from_dict(columns, split=split)


def scored(command, name: object, out: Path, *more: object) -> list[dict]:
    done = command("score", "--dataset", name, "--out", out, *FAST, *more)
    assert done.returncode == 0, done.stderr
    return rows_of(out)


def refused(command, name: object, folder: Path, *more: object) -> str:
    """Return the error, without the program's name; no file may be left."""
    done = command("score", "--dataset", name, "--out", folder / "scores.csv", *FAST, *more)
    assert done.returncode == 2
    (output,) = (line for line in done.stderr.splitlines() if line.startswith("reward-core:"))
    assert not list(folder.glob("scores.csv*"))
    return output.removeprefix("reward-core: ")


# Single files


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet", "CSV"])
def test_a_data_file(command, images, tmp_path, form):
    """Paths of images are relative to the file."""
    rows = [{"prompt": prompt, "image": f"{i}.png"} for i, prompt in enumerate(PROMPTS)]
    data = datasets.Dataset.from_list(rows)
    file = images / f"pairs[1]*.{form}"
    if form == "parquet":
        data.to_parquet(file)
    elif form.lower() == "csv":
        data.to_csv(file)
    else:
        data.to_json(file, lines=form == "jsonl")
    dataset(images).save_to_disk(tmp_path / "saved")
    scores = scored(command, file, tmp_path / "scores.csv")
    expected = scored(command, tmp_path / "saved", tmp_path / "expected.csv")
    assert [row["score"] for row in scores] == [row["score"] for row in expected]
    assert [row["image"] for row in scores] == [row["image"] for row in rows]


def test_invalid_data_files_are_refused(command, tmp_path):
    for name, content in (("pairs.txt", "prompt,image\na dog,a.png\n"), ("pairs.jsonl", "")):
        (tmp_path / name).write_text(content)
    reason = "the extension of a data file must be one of .csv, .json, .jsonl, .parquet."
    path = tmp_path / "pairs.txt"
    assert refused(command, path, tmp_path) == f"Cannot load '{path}': {reason}"
    assert refused(command, tmp_path / "pairs.jsonl", tmp_path).endswith("pairs.jsonl': it has no rows.")


# Datasets that cannot be read


def broken_csv(folder: Path) -> None:
    (folder / "train.csv").write_text('prompt,image\na dog,a.png\n"')


def half_a_state(folder: Path) -> None:
    datasets.Dataset.from_dict({"prompt": ["a dog"], "image": ["a.png"]}).save_to_disk(folder)
    (folder / "state.json").write_text("{}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (broken_csv, "Error tokenizing data. C error: EOF inside string starting at row 2"),
        (half_a_state, "KeyError: '_data_files'"),
    ],
)
def test_a_broken_dataset_is_reported_with_the_reason(command, tmp_path, make, reason):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    output = refused(command, tmp_path / "data", tmp_path)
    assert output.startswith(f"Cannot load the dataset '{tmp_path / 'data'}': ")
    assert reason in output


@pytest.mark.parametrize("content", ['prompt,image\na dog,a.png\n"', "\n\n"], ids=["open quote", "blank"])
def test_a_broken_file_is_reported_with_the_reason(command, tmp_path, content):
    file = tmp_path / "pairs.csv"
    file.write_text(content)
    output = refused(command, file, tmp_path)
    reason = "Error tokenizing data" if "dog" in content else "No columns to parse from file"
    assert output.startswith(f"Cannot load the dataset '{file}': {reason}")


def test_unreadable_rows_are_reported_and_the_rows_before_them_kept(command, images, tmp_path):
    rows, bad = 100, 70
    cells = pyarrow.array([b"a dog"] * bad + [b"\xff"] + [b"a dog"] * (rows - bad - 1), pyarrow.binary())
    prompts = pyarrow.Array.from_buffers(pyarrow.string(), rows, cells.buffers())
    table = pyarrow.table({"prompt": prompts, "image": [str(images / "0.png")] * rows})
    datasets.Dataset(table).save_to_disk(tmp_path / "data")
    done = command("score", "--dataset", tmp_path / "data", "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    reason = "'utf-8' codec can't decode byte 0xff"
    data = tmp_path / "data"
    assert done.stderr.startswith(f"reward-core: Cannot read rows 64 to 99 of the dataset '{data}': {reason}")
    assert done.stderr.count("\n") == 1
    assert len(list((tmp_path / "scores.csv.parts").glob("rows-*"))) >= 5


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused(command, tmp_path, name):
    assert refused(command, name, tmp_path) == "Cannot load the dataset: its name is empty."


# Splits and configurations


def test_a_saved_folder_without_splits_refuses_a_split(command, images, tmp_path):
    dataset(images).save_to_disk(tmp_path / "data")
    output = refused(command, tmp_path / "data", tmp_path, "--split", "train")
    assert output == f"Cannot load '{tmp_path / 'data'}': no split 'train'. It was saved without splits."


def test_a_split_saved_separately_is_selected_by_name(command, images, tmp_path):
    dataset(images, "val").save_to_disk(tmp_path / "data")
    output = refused(command, tmp_path / "data", tmp_path, "--split", "train")
    assert output == f"Cannot load '{tmp_path / 'data'}': no split 'train'. It is the split 'val'."
    assert len(scored(command, tmp_path / "data", tmp_path / "scores.csv", "--split", "val")) == COUNT


def test_train_is_the_default_of_saved_splits(command, images, tmp_path):
    whole = dataset(images)
    splits = {"val": whole.select(range(3)), "train": whole.select(range(5))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "data")
    assert len(scored(command, tmp_path / "data", tmp_path / "train.csv")) == 5
    assert len(scored(command, tmp_path / "data", tmp_path / "val.csv", "--split", "val")) == 3
    output = refused(command, tmp_path / "data", tmp_path, "--split", "test")
    assert output == f"Cannot load '{tmp_path / 'data'}': no split 'test'. It has val, train."


@pytest.mark.parametrize("form", ["saved", "saved splits", "file"])
def test_a_configuration_for_a_dataset_without_one_is_refused(command, images, tmp_path, form):
    data, name = dataset(images), tmp_path / "data.csv"
    if form == "file":
        data.to_csv(name)
    else:
        (data if form == "saved" else datasets.DatasetDict(train=data)).save_to_disk(name)
    output = refused(command, name, tmp_path, "--configuration", "small")
    kind = "data file" if form == "file" else "saved folder"
    assert output == (f"Cannot load '{name}': a {kind} has no configurations. Remove configuration='small'.")


# Progress bars of the library


@pytest.mark.slow
def test_quiet_hides_the_progress_bars_of_the_library(run, images, tmp_path):
    dataset(images).to_csv(tmp_path / "pairs.csv")
    arguments = ("score", "--dataset", tmp_path / "pairs.csv", "--out", tmp_path / "scores.csv", *FAST)
    done = run(*arguments, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_progress_bars_of_the_library_appear_on_a_terminal_only(run, images, tmp_path):
    dataset(images).to_csv(tmp_path / "pairs.csv")
    done = run("score", "--dataset", tmp_path / "pairs.csv", "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 0, done.stderr
    assert "Generating train split" not in done.stderr
    assert done.stderr.count("\n") == 1  # the summary


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals need POSIX")
def test_the_progress_bar_starts_below_those_of_the_library(images, tmp_path):
    import fcntl
    import pty
    import termios

    dataset(images).to_csv(tmp_path / "pairs.csv")
    arguments = ["--dataset", tmp_path / "pairs.csv", "--out", tmp_path / "scores.csv", *FAST]
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # its default width is 0
    process = subprocess.Popen(
        [sys.executable, "-m", "reward_core", "score", *map(str, arguments)],
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    os.close(terminal)
    output = b""
    with suppress(OSError):  # raised on Linux when the other end is closed
        while block := os.read(controller, 4096):
            output += block
    os.close(controller)
    assert process.wait(timeout=300) == 0
    assert 0 <= output.rfind(b"Generating train split") < output.find(b"scoring")


def test_files_with_different_columns_are_explained(command, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("prompt,image\na dog,a.png\n")
    (tmp_path / "data" / "b.csv").write_text("text,image,seed\na dog,a.png,1\n")
    done = command("score", "--dataset", tmp_path / "data", "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert "its files have different columns" in done.stderr
    assert "Give one file, or files with the same columns." in done.stderr

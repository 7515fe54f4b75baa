"""`reward-core prepare` from a local hub, from datasets and from files of pairs.

The hub's client reads the address of the hub on import, so tests with the local hub run in other processes;
each test makes several checks.
"""

import io
import json
import os
import signal
import subprocess
import time
import zipfile

import pytest
from filelock import FileLock
from hub_server import Hub, commit_of
from small_imagerewarddb import REPO, sample_image, small_imagerewarddb, table, zipped

from reward_core.inputs.image_file import open_image
from reward_core.rankings import read_splits, untied_pairs

FIGURES = {  # counts of small_imagerewarddb; a complete prompt has 5 untied pairs
    "train": {"prompts": 19, "pictures": 73, "untied_pairs": 88, "skipped": 6, "dropped": 1},
    "validation": {"prompts": 9, "pictures": 33, "untied_pairs": 38, "skipped": 6, "dropped": 1},
    "test": {"prompts": 9, "pictures": 33, "untied_pairs": 38, "skipped": 6, "dropped": 1},
}


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def start(hub, tmp_path, warm_python):
    """start(*arguments of python) -> a running program that uses the local hub."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    settings |= {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200",
    }  # fmt: skip

    return lambda *arguments: warm_python.start(arguments, env=settings)


@pytest.fixture
def prepare(start, tmp_path):
    """prepare(*more) -> the completed process of `prepare imagerewarddb` into tmp_path/data."""

    def prepare(*more, subset="1k"):
        process = start(*hub_arguments(tmp_path, subset), *more)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    return prepare


def hub_arguments(tmp_path, subset="1k"):
    return "-m", "reward_core", "prepare", "imagerewarddb", "--subset", subset, "--out", tmp_path / "data"


def kill_when(process, condition):
    """Kill a process as soon as a condition is true."""
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()


def whole(tmp_path, files, out="data"):
    """Check that all files with final names are complete; return the names of the unpacked zips."""
    names = []
    for folder in sorted((tmp_path / out / "images").glob("*/[!.]*")):
        name = f"images/{folder.parent.name}/{folder.name}.zip"
        with zipfile.ZipFile(io.BytesIO(files[name])) as archive:
            assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".prepared.json"} == {
                member: archive.read(member) for member in archive.namelist()
            }
        names.append(folder.name)
    for path in (tmp_path / out).glob("*.json"):
        json.loads(path.read_text())
    for path in (tmp_path / out / "downloads").glob("images/*/*.zip"):
        assert path.read_bytes() == files[f"images/{path.parent.name}/{path.name}"]
    return names


@pytest.mark.slow
def test_a_killed_download_of_imagerewarddb_resumes(hub, start, prepare, tmp_path):
    files = small_imagerewarddb({"train": 8, "validation": 2, "test": 2})
    third = "images/train/train_3.zip"
    # Images that take long enough to decode for a kill in between.
    with zipfile.ZipFile(io.BytesIO(files[third])) as archive:
        files[third] = zipped(
            {n: sample_image(n, 400) if n.endswith("webp") else b"[]" for n in archive.namelist()}
        )
    hub.repos[REPO] = {"main": files}
    out = tmp_path / "data"

    # Killed while the third zip is downloaded: two zips are unpacked, the third has no final file.
    address = f"/{REPO}/resolve/{commit_of(files)}/{third}"
    hub.stalled[address] = 3000
    kill_when(start(*hub_arguments(tmp_path)), lambda: hub.asked_for(f"GET {address}"))
    assert whole(tmp_path, files) == ["train_1", "train_2"]
    assert not (out / "downloads" / third).exists()
    assert not (out / "train.json").exists()

    # Killed while it is unpacked and checked.
    hub.stalled.clear()
    hub.requests.clear()
    unpacking = out / "images/train"
    kill_when(start(*hub_arguments(tmp_path)), lambda: list(unpacking.glob(".unpacking-*/*.webp")))
    assert whole(tmp_path, files) == ["train_1", "train_2"]
    assert list(unpacking.glob(".unpacking-*"))
    assert len(hub.asked_for(f"GET {address}")) == 1
    assert not [
        r for r in hub.requests if "train_1.zip" in r.line or "metadata" in r.line or "/api/" in r.line
    ]

    # The same command resumes and finishes, even if a connection is dropped.
    hub.requests.clear()
    hub.dropped[address.replace("train_3", "train_4")] = 2000
    done = prepare("--json")
    if done.returncode == 2:  # the client fails or resumes after a dropped connection
        assert "train_4.zip" in done.stderr
        assert "it resumes the download" in done.stderr
        assert whole(tmp_path, files) == ["train_1", "train_2", "train_3"]
        done = prepare("--json")
    assert not hub.dropped
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"] == FIGURES
    names = ["test_1", "test_2", "train_1", "train_2", "train_3", "train_4", "validation_1", "validation_2"]
    assert whole(tmp_path, files) == names
    assert not list(out.rglob(".unpacking-*"))
    assert not list((out / "downloads").rglob("*.zip"))
    assert not hub.asked_for("train_3")  # its download was complete
    assert "the first 4 training zips have 20 prompts, but subset 1k should have about 1,000" in done.stderr
    assert "free: " in done.stderr

    # The trainer can read the folder, and Pillow every image.
    splits = read_splits(out)
    for name, data in splits.items():
        assert sum(untied_pairs(item.ranks) for item in data) == FIGURES[name]["untied_pairs"]
        assert all(open_image(image).size[0] in (24, 400) for item in data for image in item.images)
    assert splits["train"][0].id == "train-0001-0"
    assert splits["train"][0].ranks == (2, 2, 4)
    skipped = json.loads((out / "skipped.json").read_text())
    assert [entry["reason"][:14] for entry in skipped["skipped"][:4]] == [
        "not an image i", "the file is em", "damaged or tru", "no such file i",
    ]  # fmt: skip
    assert [entry["id"] for entry in skipped["dropped"]] == [f"{split}-0001-2" for split in FIGURES]

    # A larger subset fetches what it adds, also without a way to the rest.
    hub.requests.clear()
    done = prepare(subset="2k")
    assert done.returncode == 0, done.stderr
    assert {r.line.rsplit("/")[-1] for r in hub.requests} == {f"train_{n}.zip" for n in (5, 6, 7, 8)}
    assert len(read_splits(out)["train"]) == 39
    assert f"listed in {out / 'skipped.json'}" in done.stderr
    assert "untied pairs" in done.stdout


@pytest.mark.slow
def test_invalid_inputs_are_refused(hub, start, tmp_path):
    """Each branch of the repository has one thing wrong."""
    good = small_imagerewarddb({"train": 4, "validation": 1, "test": 1}, broken=False)
    first = "images/train/train_1.zip"

    def branch(name, **changed):
        files = {**good, **changed}
        hub.repos.setdefault(REPO, {})[name] = {k: v for k, v in files.items() if v is not None}

    branch("good")
    wrong, huge = zipped({"a.webp": sample_image("wrong")}), zipped({"a.webp": sample_image("huge")})
    hub.claims = {wrong: {"sha256": "0" * 64}, huge: {"size": 10**16}}
    branch("wrong", **{first: wrong})
    branch("huge", **{first: huge})
    branch(
        "outside", **{first: zipped({"a.webp": sample_image("a"), "../../../out.webp": sample_image("b")})}
    )
    branch("damaged", **{first: good[first][: len(good[first]) // 2]})
    branch("few", **{first: None})
    branch("incomplete", **{"metadata-test.parquet": None})
    branch("columns", **{"metadata-test.parquet": table([{"image": "x", "text": "y"}])})
    code = f"""
import sys, json, pathlib
from reward_core.errors import RewardCoreError
from reward_core.prepare import prepare_imagerewarddb
root, results = pathlib.Path({str(tmp_path)!r}), {{}}
def attempt(name, **more):
    try:
        prepared = prepare_imagerewarddb(root / name, "1k", revision=name, **more)
        results[name] = prepared.to_dict()["splits"]["train"]
    except RewardCoreError as error:
        results[name] = [type(error).__name__, str(error)]
for name in {list(hub.repos[REPO])} + ["nowhere"]:
    attempt(name, download_root=root / "downloads")
print(json.dumps(results))
"""
    process = start("-c", code)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["good"] == {"prompts": 20, "pictures": 80, "untied_pairs": 100, "skipped": 0, "dropped": 0}
    kinds = {name: result[0] for name, result in results.items() if name != "good"}
    assert kinds == {
        "wrong": "HubError", "huge": "DiskFullError", "outside": "InputError", "damaged": "InputError",
        "few": "HubError", "incomplete": "HubError", "columns": "InputError", "nowhere": "HubError",
    }  # fmt: skip
    messages = {name: result[1] for name, result in results.items() if name != "good"}
    assert (
        "train_1.zip of zai-org/ImageRewardDB: the file was wrong twice and was removed (checksum"
        in messages["wrong"]
    )
    assert "instead of 00000" in messages["wrong"]
    assert "20500000.00 GB are needed" in messages["huge"]
    assert "'../../../out.webp' would be outside the folder" in messages["outside"]
    assert "damaged" in messages["damaged"]
    assert "it needs 4 training zips, but zai-org/ImageRewardDB has 3" in messages["few"]
    assert "Cannot download 'metadata-test.parquet'" in messages["incomplete"]
    assert "its columns are image, text, expected one of these sets" in messages["columns"]
    assert "no such revision" in messages["nowhere"]
    # Nothing of a refused zip is left, and the valid zips were downloaded only once.
    for name in kinds:
        unpacked = whole(tmp_path, {**good, **hub.repos[REPO].get(name, {})}, name)
        assert name == "columns" or "train_1" not in unpacked
        assert not (tmp_path / name / "train.json").exists()
    assert not list(tmp_path.rglob("out.webp"))
    assert (tmp_path / "downloads/images/train/train_2.zip").read_bytes() == good["images/train/train_2.zip"]
    assert len(hub.asked_for(f"GET /{REPO}/resolve/{commit_of(good)}/images/train/train_2.zip")) == 1


def test_a_folder_accepts_one_process_and_one_source(command, tmp_path):
    out = tmp_path / "data"
    arguments = ("prepare", "imagerewarddb", "--subset", "1k", "--out", out)
    out.mkdir()
    with FileLock(out / ".prepare.lock"):
        done = command(*arguments)
    assert done.returncode == 2
    assert "another `reward-core prepare` is using it" in done.stderr
    (out / "train.json").write_text("[]")
    done = command(*arguments)
    assert done.returncode == 2
    assert "it has train.json from an unknown source. Choose another folder" in done.stderr
    assert (out / "train.json").read_text() == "[]"
    done = command("prepare", "imagerewarddb", "--subset", "3k", "--out", out)
    assert done.returncode == 2
    assert "invalid choice: '3k'" in done.stderr
    done = command("prepare", "pairs", tmp_path / "none.csv", "--out", tmp_path / "other", "--test", "2")
    assert "must be a number from 0 to below 1" in done.stderr
    done = command("prepare", "pairs", tmp_path / "none.csv", "--out", tmp_path / "other")
    assert "none.csv': no such file or folder" in done.stderr


# Pairs and datasets


def pairs_with_bytes(path, prompts=40):
    """Write rows as in Pick-a-Pic without ids: red beats blue and green, these tie, one image is broken."""
    red, green, blue = (sample_image(c, form="JPEG") for c in ("red", "green", "blue"))
    rows = []
    for n in range(prompts):
        for a, b, label in ((red, blue, 1.0), (green, red, 0.0), (green, blue, 0.5), (red, b"broken", 1.0)):
            rows.append({"caption": f"p{n}", "jpg_0": a, "jpg_1": b, "label_0": label, "label_1": 1 - label})
    path.write_bytes(table(rows, row_group_size=7))
    return red, green, blue


def test_a_failed_command_can_be_corrected(command, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("text,chosen,rejected\na red house,a.png,b.png\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(sample_image(name))
    arguments = ("prepare", "pairs", pairs, "--out", tmp_path / "data", "--columns", "prompt=text")
    done = command(*arguments)
    assert done.returncode == 2
    assert "Map other names with --columns" in done.stderr
    done = command(*arguments, "better=chosen", "worse=rejected", "--test", "0", "--validation", "0")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "data" / "train.json").read_text())[0]["prompt"] == "a red house"


def test_pairs_become_a_folder(command, tmp_path):
    images = pairs_with_bytes(tmp_path / "pick.parquet")
    out = tmp_path / "data"
    arguments = ("prepare", "pairs", tmp_path / "pick.parquet", "--out", out, "--json", "--test", "0.2")
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    splits = json.loads(done.stdout)["splits"]
    # One group per prompt, one image against two, because equal images are now recognized.
    assert sum(split["prompts"] for split in splits.values()) == 40
    assert sum(split["untied_pairs"] for split in splits.values()) == 80
    assert sum(split["skipped"] for split in splits.values()) == 40
    assert 2 <= splits["test"]["prompts"] <= 15  # chosen by the hash of the prompt; the expected value is 8
    data = read_splits(out)
    assert not {d.prompt for d in data["train"]} & {d.prompt for d in data["test"]}
    assert {d.ranks for d in data["train"]} == {(1, 2, 2)}
    assert [i.read_bytes() for i in sorted(data["train"][0].images)] == [
        content for _, content in sorted((p.name, p.read_bytes()) for p in out.glob("images/*/*.jpg"))
    ]
    assert {p.read_bytes() for p in out.glob("images/*/*.jpg")} == set(images)  # each stored once
    skipped = json.loads((out / "skipped.json").read_text())["skipped"]
    assert {entry["reason"] for entry in skipped} == {"not an image in any format that Pillow reads"}
    assert skipped[0]["image"].startswith(f"{tmp_path / 'pick.parquet'}[")

    # Again, after a kill that left half a line and half an image: images in the journal are not read again.
    files = {name: (out / f"{name}.json").read_bytes() for name in ("train", "test", "skipped")}
    journal = out / ".pictures.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 240
    journal.write_bytes(b"".join(lines[:100]) + lines[100][:20])
    (out / "train.json").unlink()
    leftover = next(out.glob("images/*")) / ".half.jpg.1.2.tmp"
    leftover.write_bytes(b"half")
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert {name: (out / f"{name}.json").read_bytes() for name in files} == files
    assert sorted(journal.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert not leftover.exists()

    # Another source needs another folder.
    pairs_with_bytes(tmp_path / "other.parquet")
    done = command("prepare", "pairs", tmp_path / "other.parquet", "--out", out)
    assert done.returncode == 2
    assert "it was prepared from another source" in done.stderr


def test_image_files_are_referenced_or_copied(command, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / f"{name}.png").write_bytes(sample_image(name, form="PNG"))
    (source / "pairs.csv").write_text("prompt,better,worse\np,a.png,b.png\nq,a.png,none.png\n")
    options = ("--test", "0", "--validation", "0")
    done = command("prepare", "pairs", source / "pairs.csv", "--out", tmp_path / "stay", *options)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "stay/train.json").read_text())
    assert record["generations"] == [str(source / "a.png"), str(source / "b.png")]
    assert not (tmp_path / "stay/validation.json").exists()
    (skipped,) = json.loads((tmp_path / "stay/skipped.json").read_text())["skipped"]
    assert (skipped["image"], skipped["reason"]) == (str(source / "none.png"), "no such file")
    done = command("prepare", "pairs", source / "pairs.csv", "--out", tmp_path / "copied", "--copy", *options)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "copied/train.json").read_text())
    assert (tmp_path / "copied" / record["generations"][0]).read_bytes() == sample_image("a", form="PNG")


def test_a_dataset_becomes_a_folder(command, tmp_path):
    datasets = pytest.importorskip("datasets", reason="an extra: pip install 'reward-core[datasets]'")
    names = [str(tmp_path / f"{name}.png") for name in "abc"]
    for name in names:
        with open(name, "wb") as file:
            file.write(sample_image(name, form="PNG"))
    rows = {"text": ["p", "q"], "pics": [names, names[:2]], "order": [[3, 1, 2], [1, 2]]}
    features = {
        "text": datasets.Value("string"),
        "pics": datasets.List(datasets.Image()),
        "order": datasets.List(datasets.Value("int64")),
    }
    part = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.DatasetDict({"train": part, "test": part.select([0])}).save_to_disk(tmp_path / "saved")
    out = tmp_path / "data"
    columns = ("--columns", "prompt=text", "images=pics", "ranking=order")
    done = command(
        "prepare", "datasets", tmp_path / "saved", "--out", out, "--validation", "0.3", "--json", *columns
    )
    assert done.returncode == 0, done.stderr
    splits = json.loads(done.stdout)["splits"]
    assert splits["test"] == {"prompts": 1, "pictures": 3, "untied_pairs": 3, "skipped": 0, "dropped": 0}
    assert sum(split["untied_pairs"] for split in splits.values()) == 7
    data = read_splits(out)
    assert data["test"][0].images[1].read_bytes() == sample_image(names[1], form="PNG")


def test_images_that_changed_are_stored_again(command, tmp_path):
    """In a table and as files; unchanged images are not read again."""
    options = ("--test", "0", "--validation", "0")
    pairs = tmp_path / "pairs.parquet"

    def filled(red):
        return table([{"prompt": "p", "better": red, "worse": sample_image("blue", form="JPEG")}])

    def stored(source, out, *more):
        done = command("prepare", "pairs", source, "--out", out, *options, *more)
        assert done.returncode == 0, done.stderr
        if not (out / "train.json").exists():
            return json.loads((out / "skipped.json").read_text())["skipped"][0]["reason"]
        (record,) = json.loads((out / "train.json").read_text())
        return [(out / name).read_bytes() for name in record["generations"]]

    pairs.write_bytes(filled(b"broken"))
    assert stored(pairs, tmp_path / "table") == "not an image in any format that Pillow reads"
    pairs.write_bytes(filled(sample_image("red", form="JPEG")))
    assert stored(pairs, tmp_path / "table") == [sample_image(c, form="JPEG") for c in ("red", "blue")]
    pairs.write_bytes(filled(sample_image("other red", form="JPEG")))
    assert stored(pairs, tmp_path / "table") == [sample_image(c, form="JPEG") for c in ("other red", "blue")]

    files = tmp_path / "files.csv"
    files.write_text("prompt,better,worse\np,a.png,b.png\n")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(sample_image(name, form="PNG"))
    stored(files, tmp_path / "files", "--copy")
    (tmp_path / "a.png").write_bytes(sample_image("c", form="PNG"))
    assert stored(files, tmp_path / "files", "--copy") == [sample_image(c, form="PNG") for c in "cb"]
    journal = (tmp_path / "files/.pictures.jsonl").read_text().splitlines()
    assert [json.loads(line)[0].rpartition("/")[2] for line in journal] == ["a.png", "b.png", "a.png"]

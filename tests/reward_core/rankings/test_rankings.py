"""Reading rankings from all supported formats; errors about invalid records."""

import csv
import json
import os
import pickle
import random
import tracemalloc
import zipfile

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import Hub
from PIL import Image
from small_imagerewarddb import sample_image, small_imagerewarddb

from reward_core.errors import DataWarning, HubError, ImageError, InputError
from reward_core.inputs.image_file import image_name, open_image
from reward_core.rankings import (
    RankedPrompt,
    check_images,
    read_rankings,
    read_splits,
    untied_pairs,
    write_rankings,
)
from reward_core.rankings.stored_images import ZippedImage


def summarized(data):
    """Return (id, prompt, file names, ranks) of rankings."""
    return [(d.id, d.prompt, [image_name(i).split("/")[-1] for i in d.images], list(d.ranks)) for d in data]


def comparisons(data):
    """Return all untied pairs as (prompt, better, worse), with file names."""
    pairs = []
    for item in data:
        names = [image_name(image).split("/")[-1] for image in item.images]
        pairs += [
            (item.prompt, names[i], names[j])
            for i, rank in enumerate(item.ranks)
            for j, other in enumerate(item.ranks)
            if rank < other
        ]
    return sorted(pairs)


def write(path, records):
    """Write records in the format of the path's extension."""
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records) + "\n")
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=2)
    return path


# One row per prompt, per pair or per image

RANKED = [{"id": "7", "prompt": "a, b", "generations": ["x.png", "sub/y.png", "z.png"], "ranking": [2, 1, 2]}]
PAIRS = [
    {"prompt": "a, b", "better": "y.png", "worse": "x.png"},
    {"prompt": "a, b", "better": "y.png", "worse": "z.png"},
    {"prompt": "other", "better": "x.png", "worse": "y.png"},
]
IMAGES = [
    {"prompt_id": "p1", "prompt": "one", "image": "a.png", "rank": 2},
    {"prompt_id": "p2", "prompt": "one", "image": "b.png", "rank": 1},
    {"prompt_id": "p1", "prompt": "one", "image": "c.png", "rank": 1},
]


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_rows_of_prompts(tmp_path, form):
    (item,) = read_rankings(write(tmp_path / f"data.{form}", RANKED))
    assert item == RankedPrompt(
        "7", "a, b", tuple(tmp_path / n for n in ("x.png", "sub/y.png", "z.png")), (2, 1, 2)
    )
    assert untied_pairs(item.ranks) == 2


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet"])
def test_rows_of_pairs(tmp_path, form):
    data = read_rankings(write(tmp_path / f"data.{form}", PAIRS), images=tmp_path)
    assert [d.prompt for d in data] == ["a, b", "other"]
    assert comparisons(data) == [
        ("a, b", "y.png", "x.png"),
        ("a, b", "y.png", "z.png"),
        ("other", "x.png", "y.png"),
    ]
    assert data[0].images[0] == tmp_path / "y.png"


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_rows_of_images(tmp_path, form):
    data = read_rankings(write(tmp_path / f"data.{form}", IMAGES))
    assert summarized(data) == [("p1", "one", ["a.png", "c.png"], [2, 1]), ("p2", "one", ["b.png"], [1])]


def test_renamed_columns(tmp_path):
    rows = [{"text": "p", "chosen": "a.png", "rejected": "b.png", "images": "not these"}]
    path = write(tmp_path / "data.jsonl", rows)
    columns = {"prompt": "text", "better": "chosen", "worse": "rejected"}
    assert comparisons(read_rankings(path, columns=columns)) == [("p", "a.png", "b.png")]
    with pytest.raises(InputError, match="no column 'none'; its columns are text, chosen, rejected, images"):
        read_rankings(path, columns={"prompt": "none"})
    with pytest.raises(InputError, match="no such role; roles are id, prompt"):
        read_rankings(path, columns={"winner": "chosen"})


def test_write_and_read_again(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "rankings.json"
    inside, outside = tmp_path / "pictures/a.png", tmp_path.parent / "b.png"
    item = RankedPrompt(
        "1", "p \udcff", (inside, outside, "https://x.org/c.png"), (1, 2, 2), (0.5, 0.25, 0.25)
    )
    write_rankings(path, [item])
    record = json.loads(path.read_text())[0]
    assert record["generations"] == ["pictures/a.png", str(outside), "https://x.org/c.png"]
    assert read_rankings(tmp_path) == [item]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", "rankings.json"]


# Pick-a-Pic


def pick_a_pic(path, with_uids=True):
    """Write rows as published: images as bytes, a tie, and a pair without a label."""
    blue, red, green = (sample_image(s, form="JPEG") for s in ("blue", "red", "green"))
    rows = [
        ("p", "u1", blue, "u2", red, 0.0, 1.0, True),
        ("p", "u2", red, "u3", green, 1.0, 0.0, True),
        ("p", "u1", blue, "u3", green, 0.5, 0.5, True),
        ("q", "u1", blue, "u3", green, 1.0, 0.0, True),
        ("q", "u2", red, "u3", green, 1.0, 0.0, False),
    ]
    keys = ("caption", "image_0_uid", "jpg_0", "image_1_uid", "jpg_1", "label_0", "label_1", "has_label")
    records = [dict(zip(keys, row)) for row in rows]
    if not with_uids:
        records = [{k: v for k, v in r.items() if not k.endswith("uid")} for r in records]
    write(path, records)
    return {"u1": blue, "u2": red, "u3": green}


def test_pick_a_pic(tmp_path):
    content = pick_a_pic(tmp_path / "train.parquet")
    data = read_rankings(tmp_path / "train.parquet")
    assert [(d.prompt, d.ranks) for d in data] == [("p", (1, 2, 2)), ("q", (1, 2))]
    assert [i.read() for i in data[0].images] == [content["u2"], content["u1"], content["u3"]]
    assert image_name(data[0].images[0]) == f"{tmp_path / 'train.parquet'}[0][jpg_1]"
    assert open_image(data[1].images[1]).size == (24, 24)
    copy = pickle.loads(pickle.dumps(data))  # data loaders with worker processes need this
    assert copy[0].images[2].read() == content["u3"]
    # Without ids, equal images are not recognized, but no comparison is lost.
    pick_a_pic(tmp_path / "bare.parquet", with_uids=False)
    bare = read_rankings(tmp_path / "bare.parquet")
    assert [(d.prompt, d.ranks) for d in bare] == [("p", (1, 2)), ("p", (1, 2)), ("q", (1, 2))]


# Grouping keeps exactly the comparisons


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        (["ab"], [2]),
        (["ab", "ac", "bc"], [3]),  # a ranking
        (["ab", "ac", "db", "dc"], [4]),  # a ranking with ties
        (["ab", "bc"], [2, 2]),  # a group of three would add a over c
        (["ab", "ac", "ad", "be"], [4, 2]),
        (["ab", "bc", "ca"], [2, 2, 2]),  # a cycle
        (["ab", "ab", "ba"], [2, 2, 2]),  # repeated, and in the other direction
        (["ab", "cd"], [2, 2]),
        (["a" + x for x in "bcdefghijklmno"], [10, 6]),  # at most 10 images per group
    ],
)
def test_pairs_are_grouped_without_loss(tmp_path, pairs, groups):
    rows = [{"prompt": "p", "better": b, "worse": w} for b, w in pairs]
    data = read_rankings(write(tmp_path / "pairs.json", rows))
    assert comparisons(data) == sorted(("p", b, w) for b, w in pairs)
    assert sorted(len(d.images) for d in data) == sorted(groups)


# ImageRewardDB in the layout of the hub


def hub_folder(root, unpack=()):
    for name, content in small_imagerewarddb({"train": 3, "validation": 1, "test": 1}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if path.stem in unpack:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(path.with_suffix(""))
            path.unlink()
    return root


def test_imagerewarddb_is_read_from_zips_and_folders(tmp_path):
    root = hub_folder(tmp_path, unpack=("train_2",))
    splits = read_splits(root)
    assert {name: len(data) for name, data in splits.items()} == {"train": 15, "validation": 5, "test": 5}
    zipped, unpacked = splits["train"][0], splits["train"][5]
    assert zipped.ranks == unpacked.ranks == (1, 2, 2, 4)
    assert image_name(zipped.images[1]) == f"{root}/images/train/train_1.zip/train-1-0-1.webp"
    assert unpacked.images[0] == root / "images/train/train_2/train-2-0-0.webp"
    assert open_image(zipped.images[1]).size == open_image(unpacked.images[0]).size == (24, 24)
    assert pickle.loads(pickle.dumps(zipped)) == zipped
    # Three images are broken and three are not in the zip, which leaves one prompt with one image.
    remaining, report = check_images(splits["test"])
    assert (len(remaining), report.pictures, len(report.skipped)) == (4, 20, 6)
    reasons = [skipped.reason for skipped in report.skipped]
    assert "not an image" in reasons[0]
    assert "empty" in reasons[1]
    assert "truncated" in reasons[2]
    assert "no item named 'test-1-2-0.webp'" in reasons[3]
    assert [(d.id, d.pictures_left) for d in report.dropped] == [("test-0001-2", 1)]
    assert "6 of 20 images cannot be read and are skipped; 1 prompts" in str(report)


def test_imagerewarddb_with_some_of_the_zips(tmp_path):
    root = hub_folder(tmp_path)
    (root / "images/train/train_3.zip").unlink()
    with pytest.warns(DataWarning, match=r"20 of 60 images .* are left out, .* missing \(train_3\)"):
        data = read_rankings(root / "metadata-train.parquet")
    assert len(data) == 10
    with pytest.raises(InputError, match=r"it has several splits\. Set --split.*metadata-test\.parquet"):
        read_rankings(root)
    assert len(read_rankings(root, split="test")) == 5
    (root / "images/test/test_1.zip").write_bytes(b"PK cut off")
    with pytest.raises(InputError, match=r"Cannot read '.*test_1\.zip' as a zip: "):
        read_rankings(root, split="test")
    (root / "images/test/test_1.zip").unlink()
    with pytest.raises(InputError, match="none of its images is in"):
        read_rankings(root, split="test")


# Datasets


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="an extra: pip install 'reward-core[datasets]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_a_saved_dataset(tmp_path, datasets):
    images = [Image.new("RGB", (9, 9), color) for color in ("red", "green", "blue")]
    rows = {"prompt": ["p", "q"], "pics": [images, images[:2]], "order": [[3, 1, 2], [1, 1]]}
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "pics": datasets.List(datasets.Image()),
            "order": datasets.List(datasets.Value("int32")),
        }
    )
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": part, "val": part.select([0])}).save_to_disk(tmp_path / "saved")
    columns = {"images": "pics", "ranking": "order"}
    splits = read_splits(tmp_path / "saved", columns=columns)
    assert {name: len(data) for name, data in splits.items()} == {"train": 2, "validation": 1, "test": 0}
    assert [d.ranks for d in splits["train"]] == [(3, 1, 2), (1, 1)]
    assert open_image(splits["train"][0].images[2]).getpixel((0, 0)) == (0, 0, 255)
    assert pickle.loads(pickle.dumps(splits["train"][0].images[0])).read()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="no split 'none'; it has train, val"):
        read_rankings(tmp_path / "saved", columns=columns, split="none")
    with pytest.raises(InputError, match="its columns are prompt, pics, order, expected one of these sets"):
        read_rankings(tmp_path / "saved")


def test_a_folder_of_tables_is_a_dataset(tmp_path, datasets):
    (tmp_path / "pick").mkdir()
    content = pick_a_pic(tmp_path / "pick/train-00000-of-00001.parquet")
    with pytest.warns(DataWarning, match="no validation data"):
        data = read_splits(tmp_path / "pick")["train"]
    assert [(d.prompt, d.ranks) for d in data] == [("p", (1, 2, 2)), ("q", (1, 2))]
    assert data[0].images[0].read() == content["u2"]


@pytest.mark.slow
def test_unavailable_datasets(warm_python, tmp_path):
    """With a local hub, in another process, because the client reads the hub's address on import."""
    code = """
import sys
from reward_core.errors import RewardCoreError
from reward_core.rankings import read_rankings
for name in ("someone/scripted", "zai-org/ImageRewardDB", "someone/none"):
    try:
        read_rankings(name)
    except RewardCoreError as error:
        print(type(error).__name__, error)
"""
    pytest.importorskip("datasets", reason="an extra: pip install 'reward-core[datasets]'")
    hub = Hub()
    hub.repos["datasets/someone/scripted"] = {"main": {"README.md": b"", "scripted.py": b"raise SystemExit"}}
    hub.repos["datasets/zai-org/ImageRewardDB"] = {"main": {"README.md": b"", "ImageRewardDB.py": b""}}
    settings = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        done = warm_python.run(["-c", code], env=settings)
    finally:
        hub.stop()
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("InputError Cannot load 'someone/scripted': it has a loading script")
    assert "reward-core prepare imagerewarddb" in lines[1]
    assert lines[2].startswith("HubError Cannot download 'someone/none' from the hub: ")


# Invalid sources. PATH is the path of the file.

BAD = {
    "a misspelled path": ("data/tset.json", None, "Cannot read rankings from 'PATH': no such file"),
    "invalid JSON": ("bad.jsonl", '{"prompt": "p"}\n{', "line 2 is not valid JSON"),
    "not an object": ("bad.jsonl", '{"prompt": "p"}\n3\n', "line 2 is not an object: 3"),
    "an empty file": ("bad.jsonl", "\n", "expected a JSON object on each line"),
    "invalid UTF-8": ("bad.csv", b"prompt,better\n\xff,x\n", "Cannot read 'PATH' as CSV"),
    "a short line": (
        "bad.csv",
        "prompt,better,worse\np,a\n",
        "line 2 and the header differ in the number of cells",
    ),
    "no rows": ("bad.csv", "prompt,better,worse\n", "expected a header and rows below it"),
    "unknown columns": ("bad.csv", "x,y\n1,2\n", "its columns are x, y, expected one of these sets"),
    "not a table": ("bad.parquet", b"PAR1 cut off", "Cannot read 'PATH' as Parquet"),
    "no better image": (
        "bad.json",
        '[{"prompt": "p", "worse": "a"}]',
        "record 0 of 'PATH': 'better' is not an image, got None",
    ),
    "a comparison with itself": (
        "bad.json",
        '[{"prompt": "p", "better": "a", "worse": "b"}, {"prompt": "p", "better": "a", "worse": "a"}]',
        "record 1 of 'PATH': it compares the image",
    ),
    "a rank that is not a number": (
        "bad.csv",
        "prompt,image,rank\np,a,1\np,b,best\n",
        "line 3 of 'PATH': 'rank' must be an integer, got",
    ),
    "a fractional rank": (
        "bad.csv",
        "prompt,image,rank\np,a,1.5\n",
        "line 2 of 'PATH': 'rank' must be an integer, got",
    ),
    "two prompts": (
        "bad.csv",
        "id,prompt,image,rank\n1,p,a,1\n1,q,b,2\n",
        "line 3 of 'PATH': 'id' 1 had another prompt in an earlier row than 'q'",
    ),
    "no label": (
        "bad.csv",
        "prompt,image_0,image_1,label_0,label_1\np,a,b,1,\n",
        "line 2 of 'PATH': 'label_1' must be a number, got ''",
    ),
    "NaN": (
        "bad.csv",
        "prompt,image_0,image_1,label_0,label_1\np,a,b,1,0\np,a,b,nan,0\n",
        "line 3 of 'PATH': 'label_0' must be a number, got 'nan'",
    ),
    "NaN in JSON": (
        "bad.jsonl",
        '{"prompt": "p", "image_0": "a", "image_1": "b", "label_0": 0.5, "label_1": NaN}\n',
        "line 1 of 'PATH': 'label_1' must be a number, got nan",
    ),
    "infinity": (
        "bad.json",
        '[{"prompt": "p", "image_0": "a", "image_1": "b", "label_0": Infinity, "label_1": 0}]',
        "record 0 of 'PATH': 'label_0' must be a number, got inf",
    ),
    "a null label": (
        "bad.json",
        '[{"prompt": "p", "image_0": "a", "image_1": "b", "label_0": null, "label_1": 0}]',
        "record 0 of 'PATH': 'label_0' must be a number, got None",
    ),
    "NaN as has_label": (
        "bad.json",
        '[{"prompt": "p", "image_0": "a", "image_1": "b", "label_0": 1, "label_1": 0, "has_label": NaN}]',
        "record 0 of 'PATH': 'has_label' must be true or false, got nan",
    ),
    "no id": (
        "bad.json",
        '[{"id": 1, "prompt": "p", "image": "a", "rank": 1}, {"id": NaN, "prompt": "p", "image": "b"}]',
        "record 1 of 'PATH': no 'id'",
    ),
    "a utility of NaN": (
        "bad.json",
        '[{"prompt": "p", "generations": ["a", "b"], "ranking": [1, 2], "utilities": [0.5, NaN]}]',
        "record 0 of 'PATH': 'utilities' must be numbers, got [0.5, nan]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_name_the_invalid_record(tmp_path, name):
    file, content, message = BAD[name]
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_rankings(path)
    assert str(path) in str(caught.value)
    assert message.replace("PATH", str(path)) in str(caught.value)


def test_splits(tmp_path):
    with pytest.raises(InputError, match=r"no train\.json\. Create such a folder with `reward-core prepare`"):
        read_splits(tmp_path)
    write(tmp_path / "test.json", RANKED)
    with pytest.raises(InputError, match="it has no training data, only test"):
        read_splits(tmp_path)
    write(tmp_path / "train.json", RANKED)
    with pytest.warns(DataWarning, match="no validation data"):
        splits = read_splits(tmp_path)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [1, 0, 1]
    with pytest.raises(InputError, match="no such file or folder"):
        read_splits(tmp_path / "none.json")
    assert issubclass(HubError, OSError)


# Images that cannot be read


def test_check_images_skips_counts_and_drops(tmp_path):
    good = tmp_path / "good.png"
    good.write_bytes(sample_image("x", form="PNG"))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:300])
    (tmp_path / "empty.png").touch()
    odd = Image.new("RGB", (5, 5))
    data = [
        RankedPrompt("1", "p", (good, tmp_path / "cut.png", odd), (2, 1, 3), (0.5, 0.9, 0.1)),
        RankedPrompt("2", "q", (tmp_path / "empty.png", good), (1, 2)),
        RankedPrompt("3", "r", (good,), (1,)),
        RankedPrompt("4", "s", (good, tmp_path / "cut.png", "https://x.org/a.png", good), (1, 2, 3, 4)),
    ]
    remaining, report = check_images(data)
    assert [(d.id, len(d.images), d.ranks, d.utilities) for d in remaining] == [
        ("1", 2, (2, 3), (0.5, 0.1)),
        ("4", 2, (1, 4), None),
    ]
    assert [(s.id, s.image.split("/")[-1]) for s in report.skipped] == [
        ("1", "cut.png"), ("2", "empty.png"), ("4", "cut.png"), ("4", "a.png"),
    ]  # fmt: skip
    assert [(d.id, d.pictures_left) for d in report.dropped] == [("2", 1), ("3", 1)]
    assert json.loads(json.dumps(report.to_dict()))["pictures"] == 10
    assert str(check_images(remaining)[1]) == "all 4 images can be read"


def test_a_damaged_zip_member_is_an_image_error(tmp_path):
    root = hub_folder(tmp_path)
    path = root / "images/test/test_1.zip"
    item = read_rankings(root, split="test")[4]
    content = bytearray(path.read_bytes())
    content[content.index(b"test-1-4-0.webp") + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"test-1-4-0\.webp: cannot be read: Bad CRC-32"):
        open_image(item.images[0])


# The command


def test_evaluate_reads_every_format(command, tmp_path):
    content = pick_a_pic(tmp_path / "pairs.parquet")
    for name, data in content.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    rows = [{"text": "p", "won": "u2.jpg", "lost": f"u{n}.jpg"} for n in (1, 3)]
    write(tmp_path / "pairs.csv", rows)
    write(tmp_path / "train.json", [{"prompt": "p", "generations": ["u2.jpg", "u1.jpg"], "ranking": [1, 2]}])
    write(tmp_path / "test.json", [{"prompt": "p", "generations": ["u2.jpg", "u1.jpg"], "ranking": [1, 2]}])
    options = ("--device", "cpu", "--json")
    done = command("evaluate", "tiny", "--data", tmp_path / "pairs.parquet", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pairs"] == 3
    columns = ("--columns", "prompt=text", "better=won", "worse=lost")
    done = command("evaluate", "tiny", "--data", tmp_path / "pairs.csv", *columns, *options)
    assert json.loads(done.stdout)["pairs"] == 2
    done = command("evaluate", "tiny", "--data", tmp_path, "--split", "test", *options)
    assert json.loads(done.stdout)["pairs"] == 1
    done = command("evaluate", "tiny", "--data", tmp_path, *options)
    assert done.returncode == 2
    assert "it has several splits. Set --split" in done.stderr


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(zipfile.ZIP_STORED, id="stored"),
        pytest.param(zipfile.ZIP_DEFLATED, id="deflated", marks=pytest.mark.slow),
    ],
)
def test_a_member_of_a_zip_is_held_in_memory_once(tmp_path, method):
    content = random.Random(0).randbytes(20_000_000)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", method) as archive:
        archive.writestr("a.png", content)
    image = ZippedImage(tmp_path / "images.zip", "a.png")
    tracemalloc.start()
    try:
        assert image.read() == content
        assert tracemalloc.get_traced_memory()[1] < 1.4 * len(content)
    finally:
        tracemalloc.stop()

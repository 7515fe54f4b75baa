"""Bulk scoring: inputs, outputs, and rows that cannot be scored."""

import csv
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
from reward_core.scoring.lru_cache import LRUCache

pytest.importorskip("pyarrow")
import pyarrow
import pyarrow.parquet

COUNT = 12
PROMPTS = [f"a red circle above {i} blue squares" for i in range(COUNT)]
NAMES = [f"pics/{i:02d}.png" for i in range(COUNT)]
FAST = ("--model", "tiny", "--device", "cpu", "--batch-size", 4, "--shard-rows", 8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder with images in pics/."""
    root = tmp_path_factory.mktemp("inputs")
    (root / "pics").mkdir()
    generator = np.random.default_rng(0)
    for name in NAMES:
        cells = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((80, 64), Image.Resampling.BICUBIC).save(root / name)
    return root


@pytest.fixture(scope="module")
def expected(inputs) -> list[float]:
    """The rewards from score_pairs."""
    model = RM.load("tiny", device="cpu")
    return model.score_pairs(PROMPTS, [str(inputs / name) for name in NAMES]).tolist()


def write_manifest(path: Path, prompts: list, images: list) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [("image", "note", "prompt"), *zip(images, ["-"] * len(images), prompts)]
            )
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"prompt": p, "image": i}) + "\n" for p, i in zip(prompts, images)]
        path.write_text("\n".join(lines), encoding="utf-8")  # with blank lines, which are skipped
    else:
        table = pyarrow.table({"prompt": prompts, "image": images})
        pyarrow.parquet.write_table(table, path, row_group_size=5)
    return path


def read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [
            {
                **row,
                "row": int(row["row"]),
                "score": float(row["score"] or "nan"),
                "error": row["error"] or None,
            }
            for row in csv.DictReader(file)
        ]


# Inputs


@pytest.mark.parametrize("out", ["scores.csv", "scores.jsonl", "scores.parquet"])
@pytest.mark.parametrize("manifest", ["pairs.csv", "pairs.jsonl", "pairs.parquet"])
def test_every_manifest_format_with_every_target_format(command, inputs, expected, tmp_path, manifest, out):
    path = write_manifest(tmp_path / manifest, PROMPTS, NAMES)
    done = command("score", "--manifest", path, "--images", inputs, "--out", tmp_path / out, *FAST, "--json")
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / out)
    assert list(rows[0]) == ["row", "prompt", "image", "score", "error"]
    assert [(r["row"], r["prompt"], r["image"]) for r in rows] == list(zip(range(COUNT), PROMPTS, NAMES))
    # One batch of 12 and three of 4 round differently, by up to 5e-7.
    assert [r["score"] for r in rows] == pytest.approx(expected, abs=5e-5)
    summary = json.loads(done.stdout)
    counts = {"rows": COUNT, "scored": COUNT, "failed": 0, "errors": {}, "resumed_rows": 0}
    assert {key: summary[key] for key in counts} == counts
    assert summary["pictures_encoded"] == COUNT
    assert {path.name for path in tmp_path.iterdir()} == {
        manifest,
        out,
        f".{out}.run",
    }  # no other files are left


def test_renamed_columns_and_images_next_to_the_manifest(command, inputs, expected, tmp_path):
    lines = [json.dumps({"caption": p, "file": i}) for p, i in zip(PROMPTS, NAMES)]
    manifest = inputs / "other.jsonl"
    manifest.write_text("\n".join(lines))
    out = tmp_path / "scores.jsonl"
    columns = ("--prompt-column", "caption", "--image-column", "file")
    assert command("score", "--manifest", manifest, "--out", out, *FAST, *columns).returncode == 0
    assert [row["score"] for row in read(out)] == pytest.approx(expected, abs=5e-5)
    done = command("score", "--manifest", manifest, "--out", tmp_path / "no.csv", *FAST)
    assert done.returncode == 2
    assert "no column 'prompt' or 'image'; its columns are 'caption', 'file'" in done.stderr
    assert not (tmp_path / "no.csv.parts").exists()


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_bytes_in_a_parquet_manifest(command, inputs, expected, tmp_path, form):
    data = [(inputs / name).read_bytes() for name in NAMES]
    images = data if form == "bytes" else [{"bytes": d, "path": n} for d, n in zip(data, NAMES)]
    manifest = write_manifest(tmp_path / "pairs.parquet", PROMPTS, images)
    out = tmp_path / "scores.parquet"
    assert command("score", "--manifest", manifest, "--out", out, *FAST).returncode == 0
    rows = read(out)
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=5e-5)
    assert [r["image"] for r in rows] == (NAMES if form == "struct" else [f"row {i}" for i in range(COUNT)])


def test_a_folder_with_prompts_beside_the_images(command, inputs, expected, tmp_path):
    images = tmp_path / "pictures"
    (images / "z").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        folder = images / "z" if i > 9 else images
        (folder / f"{i:02d}.png").write_bytes((inputs / name).read_bytes())
        if i != 3:
            (folder / f"{i:02d}.txt").write_text(PROMPTS[i] + "\n")
    (images / "notes.md").write_text("no image")
    out = tmp_path / "scores.csv"
    done = command("score", "--folder", images, "--out", out, *FAST, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["errors"] == {"no prompt": 1}
    rows = read(out)
    assert [row["image"] for row in rows] == [f"z/{i}.png" if i > 9 else f"{i:02d}.png" for i in range(COUNT)]
    assert rows[3]["error"] == "no prompt: 03.txt does not exist"
    scores = [row["score"] for row in rows]
    assert scores[:3] + scores[4:] == pytest.approx(expected[:3] + expected[4:], abs=5e-5)


def test_webdataset_tars(command, inputs, expected, tmp_path):
    pytest.importorskip("webdataset")
    for part, numbers in enumerate((range(7), range(7, COUNT))):
        with tarfile.open(tmp_path / f"part-{part}.tar", "w") as tar:
            for i in numbers:
                caption = json.dumps({"caption": PROMPTS[i]}).encode()
                files = {"png": (inputs / NAMES[i]).read_bytes(), "txt": PROMPTS[i].encode(), "json": caption}
                for extension, data in files.items():
                    member = tarfile.TarInfo(f"{i:02d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    whole = (tmp_path / "part-1.tar").read_bytes()
    out = tmp_path / "scores.jsonl"
    for column in ((), ("--prompt-column", "json.caption")):
        done = command(
            "score", "--tars", tmp_path / "part-{0..1}.tar", "--out", out, *FAST, *column, "--overwrite"
        )
        assert done.returncode == 0, done.stderr
        assert [row["score"] for row in read(out)] == pytest.approx(expected, abs=5e-5)
    assert read(out)[11]["image"] == "part-1.tar/11.png"

    (tmp_path / "part-1.tar").write_bytes(whole[: len(whole) // 2])
    done = command("score", "--tars", tmp_path / "part-*.tar", "--out", out, *FAST, "--overwrite")
    rows = read(out)
    assert done.returncode == 1
    assert rows[-1]["error"].startswith("the tar is damaged or truncated")
    assert [row["score"] for row in rows[:8]] == pytest.approx(expected[:8], abs=5e-5)


@pytest.mark.parametrize("saved", [True, False], ids=["saved folder", "data file"])
def test_a_dataset(command, inputs, expected, tmp_path, saved):
    datasets = pytest.importorskip("datasets")
    columns = {"text": PROMPTS, "picture": [str(inputs / name) for name in NAMES]}
    data = datasets.Dataset.from_dict(columns).cast_column("picture", datasets.Image())
    (tmp_path / "data").mkdir()
    if saved:
        data.save_to_disk(tmp_path / "data")
    else:
        data.to_parquet(tmp_path / "data" / "train.parquet")
    names = ("--prompt-column", "text", "--image-column", "picture")
    out = tmp_path / "scores.parquet"
    done = command("score", "--dataset", tmp_path / "data", "--out", out, *FAST, *names)
    assert done.returncode == 0, done.stderr
    assert [row["score"] for row in read(out)] == pytest.approx(expected, abs=5e-5)


def test_a_folder_as_target_keeps_its_shards(command, inputs, expected, tmp_path):
    manifest = write_manifest(tmp_path / "pairs.csv", PROMPTS, NAMES)
    out = f"{tmp_path / 'scores'}/"
    arguments = (
        "score",
        "--manifest",
        manifest,
        "--images",
        inputs,
        "--out",
        out,
        "--format",
        "jsonl",
        *FAST,
    )
    assert command(*arguments).returncode == 0
    shards = sorted(Path(out).glob("rows-*"))
    assert [shard.name for shard in shards] == ["rows-000000000000.jsonl", "rows-000000000008.jsonl"]
    rows = [row for shard in shards for row in read(shard)]
    assert [row["score"] for row in rows] == pytest.approx(expected, abs=5e-5)
    again = json.loads(command(*arguments, "--json").stdout)
    assert (again["resumed_rows"], again["pictures_encoded"], again["scored"]) == (COUNT, 0, COUNT)


# Rows that cannot be scored


def huge_png() -> bytes:
    """Return a small PNG whose header claims 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_an_invalid_row_gets_an_error(command, inputs, expected, tmp_path):
    good = (inputs / NAMES[0]).read_bytes()
    files = {
        "cut.png": good[: len(good) // 2],
        "empty.png": b"",
        "text.png": b"hello",
        "huge.png": huge_png(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.png").write_bytes(good)
    records = [
        {"prompt": PROMPTS[0], "image": "good.png"},
        {"prompt": None, "image": "good.png"},
        {"prompt": "  ", "image": "good.png"},
        {"prompt": 3, "image": "good.png"},
        {"image": "good.png"},
        {"prompt": "half a \ud83d", "image": "good.png"},
        {"prompt": PROMPTS[0], "image": None},
        {"prompt": PROMPTS[0], "image": 7},
        {"prompt": PROMPTS[0], "image": "."},
        {"prompt": PROMPTS[0], "image": "https://example.org/a.png"},
        {"prompt": PROMPTS[0], "image": "none.png"},
        *({"prompt": PROMPTS[0], "image": name} for name in files),
        [1, 2],
        {"prompt": PROMPTS[0], "image": "good.png"},
    ]
    lines = [json.dumps(record) for record in records]
    lines.insert(5, '{"prompt": ')
    manifest = tmp_path / "pairs.jsonl"
    manifest.write_text("\n".join(lines))
    out = tmp_path / "scores.jsonl"
    done = command("score", "--manifest", manifest, "--out", out, *FAST, "--json")
    rows = read(out)
    kinds = [(row["error"] or "").split(": ")[0] for row in rows]
    assert kinds == [
        "",
        "no prompt",
        "no prompt",
        "the prompt must be a string",
        "no prompt",
        "not a line of JSON",
        "the prompt is not valid UTF-8",
        "no image",
        "the image must be a path or the bytes of a file",
        "this is a folder; give the images in it",
        "this is a URL; download the image and give the path of the file",
        "no such file",
        "damaged or truncated",
        "the file is empty (0 bytes)",
        "not an image in any format that Pillow reads",
        "too large to decode safely",
        "the line is not a JSON object",
        "",
    ]
    assert [rows[0]["score"], rows[-1]["score"]] == pytest.approx([expected[0]] * 2, abs=5e-5)
    assert all(row["score"] is None for row in rows[1:-1])
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["scored"], summary["failed"]) == (len(rows), 2, len(rows) - 2)
    assert summary["errors"]["no prompt"] == 3
    assert sum(summary["errors"].values()) == summary["failed"]
    assert "16 rows have an error instead of a score: 3 no prompt, 1 " in done.stderr


def test_a_nan_reward_becomes_an_error_row(command, folder, inputs, tmp_path):
    model = RM.load(folder, device="cpu")
    model.mlp.layers[0].bias.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    manifest = write_manifest(tmp_path / "pairs.csv", PROMPTS[:2], NAMES[:2])
    out = tmp_path / "scores.csv"
    done = command(
        "score",
        "--manifest",
        manifest,
        "--images",
        inputs,
        "--out",
        out,
        "--model",
        tmp_path / "broken",
        "--json",
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["errors"] == {"the reward is not a finite number": 2}


def test_truncated_prompts_are_counted(command, inputs, tmp_path):
    prompts = ["a red circle " * 30, "a red circle", "a blue square " * 30]
    manifest = write_manifest(tmp_path / "pairs.csv", prompts, NAMES[:3])
    arguments = (
        "--manifest",
        manifest,
        "--images",
        inputs,
        "--out",
        tmp_path / "scores.csv",
        *FAST,
        "--json",
    )
    done = command("score", *arguments)
    assert json.loads(done.stdout)["prompts_cut"] == 2
    assert "warning" not in done.stderr


# The same image under many prompts


def test_an_image_is_encoded_once_for_many_prompts(command, inputs, tmp_path):
    prompts = [f"a red circle above {i} blue squares" for i in range(24)]
    images = [NAMES[0]] * 12 + [NAMES[1], NAMES[2]] * 6
    manifest = write_manifest(tmp_path / "pairs.csv", prompts, images)
    common = (
        "score",
        "--manifest",
        manifest,
        "--images",
        inputs,
        "--model",
        "tiny",
        "--device",
        "cpu",
        "--json",
        "--overwrite",
    )
    out = tmp_path / "scores.csv"
    done = command(*common, "--out", out, "--batch-size", 4, "--shard-rows", 24, "--cache", 2)
    assert json.loads(done.stdout)["pictures_encoded"] == 3
    cached_scores = [row["score"] for row in read(out)]
    done = command(*common, "--out", out, "--batch-size", 1, "--shard-rows", 24, "--cache", 0)
    assert json.loads(done.stdout)["pictures_encoded"] == 24
    model = RM.load("tiny", device="cpu")
    expected = model.score_pairs(prompts, [str(inputs / image) for image in images]).tolist()
    assert cached_scores == pytest.approx(expected, abs=5e-5)
    assert [row["score"] for row in read(out)] == pytest.approx(expected, abs=5e-5)


def test_lru_cache_keeps_the_images_used_last():
    cache = LRUCache(2)
    for key in "abc":
        assert cache.absent([key, key]) == [key]
        cache[key] = key.upper()
        cache.used([key])
    cache.used(["b"])  # now the most recent
    cache["d"] = "D"
    cache.used(["d"])
    assert cache.absent(["a", "b", "c", "d"]) == ["a", "c"]


# From Python; usage errors


def test_scoring_from_python_reports_progress(inputs, expected, tmp_path):
    manifest = write_manifest(tmp_path / "pairs.parquet", PROMPTS, NAMES)
    output = []
    summary = score_to_file(
        Manifest(manifest, images=inputs),
        tmp_path / "scores.parquet",
        BulkSettings(model="tiny", devices=("cpu",), batch_size=5),
        on_progress=lambda *counts: output.append(counts),
    )
    assert output == [(12, 0, 0), (12, 5, 0), (12, 10, 0), (12, 12, 0)]
    assert summary.scored == COUNT
    assert [row["score"] for row in read(tmp_path / "scores.parquet")] == pytest.approx(expected, abs=5e-5)


WRONG = {
    "no input": ((), "one of the arguments"),
    "two inputs": (("--manifest", "a.csv", "--folder", "b"), "not allowed with"),
    "no such manifest": (("--manifest", "none.csv"), "Cannot read 'none.csv': no such file"),
    "unknown form": (
        ("--manifest", "a.xlsx"),
        "extension of a manifest must be one of .csv, .jsonl, .parquet",
    ),
    "no such folder": (("--folder", "none"), "Cannot read images from 'none': no such folder"),
    "no such tar": (("--tars", "none.tar"), "Cannot read 'none.tar': no such file"),
    "images of a folder": (("--folder", ".", "--images", "."), "Cannot use --images without"),
    "split of a manifest": (
        ("--manifest", "a.csv", "--split", "train"),
        "Cannot use --split without --dataset",
    ),
    "configuration of a folder": (
        ("--folder", ".", "--configuration", "small"),
        "Cannot use --configuration without --dataset",
    ),
    "prompt column of a folder": (
        ("--folder", ".", "--prompt-column", "prompt"),
        "Cannot use --prompt-column with --folder: the prompt is in the .txt beside each image",
    ),
    "image column of a folder": (
        ("--folder", ".", "--image-column", "image"),
        "Cannot use --image-column with --folder",
    ),
    "both devices": (
        ("--manifest", "a.csv", "--device", "cpu", "--devices", "cpu,cpu"),
        "Cannot use both --device and --devices",
    ),
    "devices of two types": (
        ("--manifest", "a.csv", "--devices", "cpu,meta"),
        "Cannot use the devices cpu, meta: devices must be of one type",
    ),
    "unknown device": (("--manifest", "a.csv", "--devices", "cpux"), "Cannot use device"),
    "workers without ray": (("--manifest", "a.csv", "--workers", 2), "settings of engine 'ray'"),
    "negative cache": (
        ("--manifest", "a.csv", "--cache", -1),
        "Cannot use cache=-1: it must be an integer of at least 0",
    ),
    "bulk option with --prompts": (
        ("--prompts", "a", "--images", ".", "--engine", "ray"),
        "Cannot use --engine",
    ),
    "--prompts without --images": (("--prompts", "a"), "Cannot use --prompts without --images"),
    "format of a file": (
        ("--manifest", "a.csv", "--format", "csv"),
        "extension does not match the format 'csv'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_usage_errors_are_reported_and_leave_no_files(command, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    arguments, reason = WRONG[kind]
    if kind == "unknown form":
        Path("a.xlsx").write_text("x")
    else:
        Path("a.csv").write_text("prompt,image\na dog,a.png\n")
    before = sorted(Path().iterdir())
    done = command("score", *arguments, "--out", "scores.jsonl", "--model", "tiny")
    assert done.returncode == 2
    assert reason in done.stderr
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("out", ["scores.xlsx", "scores.json", "none/scores.csv"])
def test_an_impossible_target_is_reported_before_scoring(command, inputs, tmp_path, out):
    manifest = write_manifest(tmp_path / "pairs.csv", PROMPTS, NAMES)
    done = command("score", "--manifest", manifest, "--images", inputs, "--out", tmp_path / out, *FAST)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("content", ["", "prompt,image\n"], ids=["empty", "only a header"])
def test_an_empty_manifest_is_refused(command, tmp_path, content):
    (tmp_path / "pairs.csv").write_text(content)
    done = command("score", "--manifest", tmp_path / "pairs.csv", "--out", tmp_path / "s.csv", *FAST)
    assert done.returncode == 2
    assert "no column" in done.stderr or "it has no rows" in done.stderr


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("webdataset", ("--tars", "a.tar")),
        ("datasets", ("--dataset", "a")),
        ("ray", ("--manifest", "a.csv", "--engine", "ray")),
        ("parquet", ("--manifest", "a.parquet")),
    ],
)
def test_a_missing_extra_is_named_with_its_command(command, tmp_path, monkeypatch, extra, arguments):
    monkeypatch.chdir(tmp_path)
    library = {"parquet": "pyarrow"}.get(extra, extra)
    monkeypatch.setitem(__import__("sys").modules, library, None)
    for name in ("a.tar", "a.parquet"):
        Path(name).write_bytes(b"")
    Path("a.csv").write_text("prompt,image\na dog,a.png\n")
    done = command("score", *arguments, "--out", "scores.csv", *FAST)
    assert done.returncode == 2
    assert f'`pip install "./packages/reward-core[{extra}]"`' in done.stderr


@pytest.mark.parametrize("quiet", [False, True], ids=["", "quiet"])
def test_many_16_bit_images_are_one_warning_and_all_scored(command, tmp_path, quiet):
    for i in range(6):
        pixels = np.full((64, 64), 5000 * (i + 1), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    manifest = write_manifest(tmp_path / "pairs.csv", ["a red circle"] * 6, [f"{i}.png" for i in range(6)])
    options = ("--quiet",) if quiet else ()
    done = command("score", "--manifest", manifest, "--out", tmp_path / "s.csv", *FAST, *options)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "Convert it to 8 bits" in line]
    assert len(lines) == (not quiet)
    assert quiet or "Further images like this one are not reported" in lines[0]
    assert [row["error"] for row in read(tmp_path / "s.csv")] == [None] * 6

"""Bulk scoring of tars: damaged, joined, changed, and how an image finds its prompt."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from bulk_inputs import FAST, NOT_READ, READ, keep_first_shard, make_images, rows_of
from PIL import Image, features

pytest.importorskip("webdataset")
COUNT = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("pictures")
    return [(folder / name).read_bytes() for name in make_images(folder, COUNT)]


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(images: list[bytes], numbers: range) -> list[tuple[str, bytes]]:
    pairs = [((f"{i:02d}.png", images[i]), (f"{i:02d}.txt", b"a red circle %d" % i)) for i in numbers]
    return [file for pair in pairs for file in pair]


def bit_flipped(tar: Path) -> bytes:
    """In the header of 07.png."""
    with tarfile.open(tar) as opened:
        at = opened.getmember("07.png").offset
    data = bytearray(tar.read_bytes())
    data[at + 3] ^= 4
    return bytes(data)


def cut_in_a_header(tar: Path) -> bytes:
    with tarfile.open(tar) as opened:
        at = opened.getmember("07.png").offset
    return tar.read_bytes()[: at + 200]


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("damage", [bit_flipped, cut_in_a_header])
def test_samples_lost_after_a_damaged_header_are_reported(command, images, tmp_path, damage, zipped):
    import gzip

    tar = write_tar(tmp_path / "a.tar", samples(images, range(COUNT)))
    data = damage(tar)
    tar.write_bytes(gzip.compress(data) if zipped else data)
    out = tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 1
    *good, last = rows_of(out)
    assert [row["prompt"] for row in good] == [f"a red circle {i}" for i in range(7)]
    assert all(row["error"] is None for row in good)
    assert last["error"].startswith("the tar is damaged or truncated: no header of a file at byte ")


def test_tars_joined_by_cat_are_read_to_the_end(command, images, tmp_path):
    first = write_tar(tmp_path / "a.tar", samples(images, range(7)))
    second = write_tar(tmp_path / "b.tar", samples(images, range(7, COUNT)))
    (tmp_path / "c.tar").write_bytes(first.read_bytes() + second.read_bytes())
    out = tmp_path / "scores.jsonl"
    assert command("score", "--tars", tmp_path / "c.tar", "--out", out, *FAST).returncode == 0
    assert [row["prompt"] for row in rows_of(out)] == [f"a red circle {i}" for i in range(COUNT)]


def test_a_changed_tar_of_the_same_size_is_refused_and_a_copy_is_not(command, images, tmp_path):
    tar = write_tar(tmp_path / "a.tar", samples(images, range(COUNT)))
    out = tmp_path / "scores"
    arguments = ("score", "--tars", tar, "--out", f"{out}/", "--format", "csv", *FAST)
    assert command(*arguments).returncode == 0
    keep_first_shard(out)
    before = tar.read_bytes()
    tar.write_bytes(before.replace(b"circle 9", b"square 9"))
    done = command(*arguments)
    assert done.returncode == 2
    assert "holds the beginning of another run: input was" in done.stderr
    tar.write_bytes(before)  # at another time
    assert command(*arguments).returncode == 0


def test_a_prompt_file_is_found_by_its_image_file_name(command, images, tmp_path):
    files = [
        ("photo.v2.png", images[0]),
        ("photo.v2.txt", b"a dog"),
        ("other.png", images[1]),
        ("other.en.txt", b"a cat"),
        ("third.png", images[2]),
        ("third.en.txt", b"a bird"),
        ("third.de.txt", b"ein Vogel"),
        ("fourth.b.png", images[3]),
        ("fourth.a.txt", b"a fish"),
        ("fourth.b.txt", b"a horse"),
    ]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 1
    rows = rows_of(out)
    assert [row["prompt"] for row in rows] == ["a dog", "a cat", None, "a horse"]
    assert rows[2]["error"] == "no prompt"  # which of the two is not known


def test_texts_with_a_byte_order_mark_and_deeply_nested_json(command, images, tmp_path):
    files = [
        ("0.png", images[0]),
        ("0.txt", b"\xef\xbb\xbfa dog"),
        ("0.json", b"\xef\xbb\xbf" + json.dumps({"caption": "a dog"}).encode()),
        ("1.png", images[1]),
        ("1.txt", b"a cat"),
        ("1.json", b"[" * 100_000),
    ]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 0
    assert [row["prompt"] for row in rows_of(out)] == ["a dog", "a cat"]
    done = command("score", "--tars", tar, "--out", out, *FAST, "--prompt-column", "json.caption")
    assert done.returncode == 1
    assert [row["prompt"] for row in rows_of(out)] == ["a dog", None]


def test_a_pattern_with_an_open_brace_is_reported(command, tmp_path):
    done = command("score", "--tars", tmp_path / "x{0..", "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert "x{0..: not a pattern of tars: " in done.stderr
    assert list(tmp_path.iterdir()) == []


FORMATS = {
    **{name: "JPEG" for name in ("jpg", "jpe", "jfif", "JPEG")},
    **{name: "JPEG2000" for name in ("jp2", "j2k", "jpx", "jpc", "jpf")},
    **{"avif": "AVIF", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "Tiff": "TIFF"},
    **{"png": "PNG", "apng": "PNG", "ppm": "PPM", "pgm": "PPM", "tga": "TGA", "ico": "ICO", "qoi": "QOI"},
}
NEEDED = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}


def test_tars_take_the_image_formats_that_folders_take(command, tmp_path):
    files = []
    for number, (suffix, form) in enumerate(FORMATS.items()):
        if form not in NEEDED or features.check(NEEDED[form]):
            data = io.BytesIO()
            Image.new("RGB", (64, 64), (200, 9 * number, 30)).save(data, form)
            files += [(f"{number:02d}.{suffix}", data.getvalue()), (f"{number:02d}.txt", b"a red circle")]
    tar, folder = write_tar(tmp_path / "a.tar", files), tmp_path / "folder"
    with tarfile.open(tar) as opened:
        opened.extractall(folder, filter="data")
    scores = []
    for source in (("--tars", tar), ("--folder", folder)):
        out = tmp_path / f"scores{source[0]}.jsonl"
        done = command("score", *source, "--out", out, *FAST)
        rows = rows_of(out)
        assert done.returncode == 0, rows
        assert len(rows) == len(files) // 2
        scores.append([row["score"] for row in rows])
    assert scores[0] == scores[1]


EXTRA = {
    "dots in the name": ["Track 2.0 (Clean).png", "Track 2.0 (Clean).txt", "Track 2.1.png", "Track 2.1.txt"],
    "two formats": ["a.png", "a.jpg", "a.txt"],
    "the same name twice": ["x.y/a.png", "x.y/a.txt", "x.y/a.png"],
}


@pytest.mark.parametrize("kind", EXTRA)
def test_images_that_share_a_sample_with_a_scored_one_are_counted_and_named(command, images, tmp_path, kind):
    names = [*EXTRA[kind], "other.png", "other.txt"]
    files = [(name, b"a cat" if name.endswith("txt") else images[i]) for i, name in enumerate(names)]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    done = command("score", "--tars", tar, "--out", out, *FAST, "--json", "--quiet")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["extra_images"]) == (2, 1)
    extra = [name for name in EXTRA[kind] if not name.endswith("txt")][1]
    assert f"1 image is not scored, because another image of the same sample is; the first is {tar}: " in (
        done.stderr
    )
    assert repr(extra) in done.stderr


def test_images_not_requested_are_not_counted(command, images, tmp_path):
    names = ("a.png", "a.mask.jpg", "a.txt")
    files = [(name, b"a cat" if name == "a.txt" else images[0]) for name in names]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    done = command("score", "--tars", tar, "--out", out, *FAST, "--image-column", "png", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["extra_images"] == 0


def test_captions_in_other_encodings_are_read_or_an_error(command, images, tmp_path):
    texts = [*READ, *NOT_READ]
    files = []
    for i, text in enumerate(texts):
        files += [(f"{i}.png", images[0]), (f"{i}.txt", text)]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 1
    rows = rows_of(out)
    assert [row["prompt"] for row in rows] == [*READ.values(), *(None for _ in NOT_READ)]
    for row, reason in zip(rows[len(READ) :], NOT_READ.values()):
        assert row["error"].startswith("the prompt cannot be read: ")
        assert reason in row["error"]

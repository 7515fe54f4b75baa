"""Bulk scoring of tars: damaged, joined and changed tars, and the prompt of an image."""

import importlib
import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from bulk_inputs import FAST, NOT_READ, READ, keep_first_shard, make_images, rows_of
from PIL import Image, features

from reward_core.bulk.sources import Tars

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
    """Return the tar with a flipped bit in the header of 07.png."""
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
    assert last["error"].startswith("the tar is damaged or truncated: invalid header at byte ")


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
    assert "it has a run with other settings or input: input was" in done.stderr
    tar.write_bytes(before)  # with another modification time
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
    assert rows[2]["error"] == "no prompt"  # two candidates


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
    done = command(
        "score", "--tars", tar, "--out", out, *FAST, "--prompt-column", "json.caption", "--overwrite"
    )
    assert done.returncode == 1
    assert [row["prompt"] for row in rows_of(out)] == ["a dog", None]


def test_a_pattern_with_an_open_brace_is_reported(command, tmp_path):
    done = command("score", "--tars", tmp_path / "x{0..", "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert "x{0..': not a valid pattern (" in done.stderr
    assert list(tmp_path.iterdir()) == []


FORMATS = {
    **{name: "JPEG" for name in ("jpg", "jpe", "jfif", "JPEG")},
    **{name: "JPEG2000" for name in ("jp2", "j2k", "jpx", "jpc", "jpf")},
    **{"avif": "AVIF", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "Tiff": "TIFF"},
    **{"png": "PNG", "apng": "PNG", "ppm": "PPM", "pgm": "PPM", "tga": "TGA", "ico": "ICO", "qoi": "QOI"},
}
NEEDED = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}


def test_tars_accept_the_same_image_formats_as_folders(command, tmp_path):
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
        assert row["error"].startswith("cannot read the prompt: ")
        assert reason in row["error"]


# Malicious tars


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(records: bytes, image: bytes) -> bytes:
    """Return a pax header with these records, and an image."""
    return header("x", len(records), tarfile.XHDTYPE) + block(records) + header("b.png", 3) + block(image)


def sparse(size: int) -> bytes:
    """Return a GNU sparse file of ``size`` zeros that takes no space in the tar."""
    data = bytearray(header("b.png", 0, tarfile.GNUTYPE_SPARSE))
    data[386:398] = data[398:410] = b"%011o\0" % 0
    data[483:495] = b"%011o\0" % size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


ENDLESS = {  # the bytes after the first sample
    "1 TB": header("b.png", 2**40) + bytes(512),
    "4 EB": header("b.png", 2**62) + bytes(512),
    "a name of 1 TB": header("b.png", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(512),
    "records of 1 TB": header("b.png", 2**40, tarfile.XHDTYPE) + bytes(512),
    "a negative size": pax(b"14 size=-1024\n", b"abc"),
    "a size of 4,000 digits": pax(b"4010 size=" + b"9" * 3999 + b"\n", b"abc"),
    "a record's length": pax(b"99999999999999999999 path=a\n", b"abc"),
    "no map of a sparse file": pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", b"abc"),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_headers_with_false_sizes_affect_only_their_own_rows(images, tmp_path, kind, zipped):
    import gzip

    whole = write_tar(tmp_path / "a.tar", samples(images, range(1))).read_bytes()
    data = whole.rstrip(b"\0")
    data = block(data) + ENDLESS[kind] + bytes(1024)
    (tmp_path / "a.tar").write_bytes(gzip.compress(data) if zipped else data)
    first, *others = Tars((str(tmp_path / "a.tar"),)).open(tmp_path).read(0)
    assert (first.error, first.content) == (None, images[0])
    assert others[-1].error.startswith("the tar is damaged or truncated: ")


def test_a_member_larger_than_the_limit_becomes_an_error_row(images, tmp_path, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_TAR_MEMBER_BYTES", "50000")
    files = [("0.png", images[0]), ("0.txt", b"a dog"), ("1.png", bytes(50_001)), ("1.txt", b"a cat")]
    tar = write_tar(tmp_path / "a.tar", [*files, ("2.png", images[2]), ("2.txt", b"a bird")])
    rows = list(Tars((str(tar),)).open(tmp_path).read(0))
    assert [row.prompt for row in rows] == ["a dog", "a cat", "a bird"]
    assert [row.content for row in rows] == [images[0], None, images[2]]
    assert rows[1].error.startswith(
        "the file is too large: its header says 50,001 bytes, the limit is 50,000"
    )


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_a_sparse_file_of_gigabytes_is_not_unpacked(tmp_path, zipped):
    import gzip

    data = sparse(7 * 2**30) + header("b.txt", 5) + block(b"a cat") + bytes(1024)
    (tmp_path / "a.tar").write_bytes(gzip.compress(data) if zipped else data)
    (row,) = Tars((str(tmp_path / "a.tar"),)).open(tmp_path).read(0)
    assert row.prompt == "a cat"
    assert row.error.startswith("the file is too large: its header says 7,516,192,768 bytes")


@pytest.mark.parametrize("form", ["gzip", "bz2", "lzma"])
def test_a_decompression_bomb_is_refused(images, tmp_path, monkeypatch, form):
    monkeypatch.setattr("reward_core.bulk.sources.tar_file.MIN_TAR_BYTES", 1 << 20)
    whole = write_tar(tmp_path / "a.tar", samples(images, range(1))).read_bytes()
    bomb = block(whole.rstrip(b"\0")) + header("b.png", 2**24) + bytes(2**24 + 1024)
    (tmp_path / "a.tar").write_bytes(importlib.import_module(form).compress(bomb))
    first, *_, last = Tars((str(tmp_path / "a.tar"),)).open(tmp_path).read(0)
    assert (first.error, first.content) == (None, images[0])
    assert "it unpacks to more than" in last.error
    assert "REWARD_CORE_MAX_TAR_RATIO" in last.error


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gzip", "bz2", "lzma"])
def test_damage_in_a_compressed_tar_is_reported_after_its_intact_samples(images, tmp_path, form):
    noise = np.random.default_rng(0).bytes(1_400_000)  # so that the damage comes after the first sample
    files = [*samples(images, range(1)), ("b.png", noise), ("b.txt", b"a cat")]
    data = bytearray(
        importlib.import_module(form).compress(write_tar(tmp_path / "a.tar", files).read_bytes())
    )
    for at in range(len(data) * 3 // 4, len(data) * 3 // 4 + 200):
        data[at] ^= 0x5A
    (tmp_path / "a.tar").write_bytes(data)
    rows = list(Tars((str(tmp_path / "a.tar"),)).open(tmp_path).read(0))
    assert rows[0].content == images[0]
    assert rows[-1].error.startswith("the tar is damaged or truncated: ")


def test_texts_of_one_sample_are_limited_in_a_compressed_tar(images, tmp_path, monkeypatch):
    import gzip

    monkeypatch.setenv("REWARD_CORE_MAX_TAR_TEXT_BYTES", "100")
    files = [("0.png", images[0]), ("0.txt", b"a" * 101), ("1.png", images[1]), ("1.txt", b"a cat")]
    tar = write_tar(tmp_path / "a.tar", files)
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    large, small = Tars((str(tar),)).open(tmp_path).read(0)
    assert large.error.startswith("cannot read the prompt: the file is too large")
    assert (small.prompt, small.content, small.error) == ("a cat", images[1], None)


def test_names_are_split_as_in_webdataset(tmp_path, images):
    from webdataset.tariterators import base_plus_ext

    names = [
        "a.png",
        "d/a.png",
        "d.e/a.b.png",
        "d/.png",
        ".png",
        "d.e/.png",
        "a",
        "d/a",
        "a//.png",
        "./a.png",
        "/a.png",
    ]
    tar = write_tar(tmp_path / "a.tar", [(name, images[0]) for name in names])
    rows = Tars((str(tar),)).open(tmp_path).read(0)
    split = {name: base_plus_ext(name) for name in names}
    keys = list(dict.fromkeys(key for key, _ in split.values() if key is not None))
    assert [
        row.image.removeprefix("a.tar/").removesuffix(".b.png").removesuffix(".png") for row in rows
    ] == keys


def test_a_name_of_a_megabyte_is_parsed_quickly(tmp_path, images):
    name = "a/" * 500_000 + "a"
    tar = write_tar(tmp_path / "a.tar", [(name, images[0]), ("0.png", images[0]), ("0.txt", b"a cat")])
    begin = time.process_time()
    (row,) = Tars((str(tar),)).open(tmp_path).read(0)
    assert row.prompt == "a cat"
    assert time.process_time() - begin < 2

"""Bulk scoring of tars: damaged, joined, changed, and how a picture finds its prompt."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from bulk_world import FAST, keep_first_shard, make_pictures, rows_of

pytest.importorskip("webdataset")
COUNT = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("pictures")
    return [(folder / name).read_bytes() for name in make_pictures(folder, COUNT)]


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(pictures: list[bytes], numbers: range) -> list[tuple[str, bytes]]:
    pairs = [((f"{i:02d}.png", pictures[i]), (f"{i:02d}.txt", b"a red circle %d" % i)) for i in numbers]
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
def test_what_is_lost_behind_a_damaged_header_is_told(command, pictures, tmp_path, damage, zipped):
    import gzip

    tar = write_tar(tmp_path / "a.tar", samples(pictures, range(COUNT)))
    data = damage(tar)
    tar.write_bytes(gzip.compress(data) if zipped else data)
    out = tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 1
    *good, last = rows_of(out)
    assert [row["prompt"] for row in good] == [f"a red circle {i}" for i in range(7)]
    assert all(row["error"] is None for row in good)
    assert last["error"].startswith("the tar is damaged or truncated: no header of a file at byte ")


def test_tars_joined_by_cat_are_read_to_the_end(command, pictures, tmp_path):
    first = write_tar(tmp_path / "a.tar", samples(pictures, range(7)))
    second = write_tar(tmp_path / "b.tar", samples(pictures, range(7, COUNT)))
    (tmp_path / "c.tar").write_bytes(first.read_bytes() + second.read_bytes())
    out = tmp_path / "scores.jsonl"
    assert command("score", "--tars", tmp_path / "c.tar", "--out", out, *FAST).returncode == 0
    assert [row["prompt"] for row in rows_of(out)] == [f"a red circle {i}" for i in range(COUNT)]


def test_a_changed_tar_of_the_same_size_is_refused_and_a_copy_is_not(command, pictures, tmp_path):
    tar = write_tar(tmp_path / "a.tar", samples(pictures, range(COUNT)))
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


def test_a_prompt_is_found_by_the_rest_of_its_pictures_name(command, pictures, tmp_path):
    files = [
        ("photo.v2.png", pictures[0]),
        ("photo.v2.txt", b"a dog"),
        ("other.png", pictures[1]),
        ("other.en.txt", b"a cat"),
        ("third.png", pictures[2]),
        ("third.en.txt", b"a bird"),
        ("third.de.txt", b"ein Vogel"),
        ("fourth.b.png", pictures[3]),
        ("fourth.a.txt", b"a fish"),
        ("fourth.b.txt", b"a horse"),
    ]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 1
    rows = rows_of(out)
    assert [row["prompt"] for row in rows] == ["a dog", "a cat", None, "a horse"]
    assert rows[2]["error"] == "no prompt"  # which of the two is not known


def test_texts_with_a_mark_of_their_bytes_order_and_json_nested_too_deeply(command, pictures, tmp_path):
    files = [
        ("0.png", pictures[0]),
        ("0.txt", b"\xef\xbb\xbfa dog"),
        ("0.json", b"\xef\xbb\xbf" + json.dumps({"caption": "a dog"}).encode()),
        ("1.png", pictures[1]),
        ("1.txt", b"a cat"),
        ("1.json", b"[" * 100_000),
    ]
    tar, out = write_tar(tmp_path / "a.tar", files), tmp_path / "scores.jsonl"
    assert command("score", "--tars", tar, "--out", out, *FAST).returncode == 0
    assert [row["prompt"] for row in rows_of(out)] == ["a dog", "a cat"]
    done = command("score", "--tars", tar, "--out", out, *FAST, "--prompt-column", "json.caption")
    assert done.returncode == 1
    assert [row["prompt"] for row in rows_of(out)] == ["a dog", None]


def test_a_pattern_with_an_open_brace_is_told(command, tmp_path):
    done = command("score", "--tars", tmp_path / "x{0..", "--out", tmp_path / "scores.csv", *FAST)
    assert done.returncode == 2
    assert "x{0..: not a pattern of tars: " in done.stderr
    assert list(tmp_path.iterdir()) == []

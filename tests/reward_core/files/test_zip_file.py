"""Unpacking zips: nothing outside the target folder, nothing but images, and no partial folder."""

import os
import stat
import zipfile

import pytest
from small_imagerewarddb import sample_image, zipped

from reward_core.errors import InputError
from reward_core.files.zip_file import unzip


def member(name, mode=0):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("info", "content", "output"),
    [
        (member("../out.png"), b"x", "outside the folder"),
        (member("/out.png"), b"x", "outside the folder"),
        (member("a/..\\..\\out.png"), b"x", "outside the folder"),
        (member("out.png", stat.S_IFLNK | 0o777), b"/etc", "is a link"),
        (member("run.sh"), b"x", "is not an image"),
        (member("bomb.png"), bytes(30_000_000), "would unpack to 30,000,000 bytes"),
    ],
)
def test_unsafe_zips_are_not_unpacked(tmp_path, info, content, output):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.png", sample_image(0))
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=output):
        unzip(tmp_path / "a.zip", tmp_path / "deep" / "target")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "deep"]


def test_a_damaged_zip_member_leaves_no_files(tmp_path):
    content = bytearray(zipped({"a.png": sample_image(0), "b.png": sample_image(1)}))
    content[200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        unzip(tmp_path / "a.zip", tmp_path / "target")
    assert os.listdir(tmp_path) == []


def broken_zip(path, kind):
    """Write a zip whose second member is compressed with method ``kind`` and damaged after its headers."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", sample_image(0))
        archive.writestr("bad.png", sample_image(1) * 20, kind)
        info = archive.getinfo("bad.png")
        start = info.header_offset + 30 + len("bad.png")
        size = info.compress_size
    content = bytearray(path.read_bytes())
    for at in range(start + 9, start + size, 7):
        content[at] ^= 0x5A
    path.write_bytes(content)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_raises_input_error_with_any_compression(tmp_path, kind):
    broken_zip(tmp_path / "a.zip", kind)
    with pytest.raises(InputError, match=r"a\.zip' as a zip: the file is damaged \(.*download it again"):
        unzip(tmp_path / "a.zip", tmp_path / "target")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"flags": 1}, "'b.png' is encrypted"),
        ({"flags": 0x20}, "patched data"),
        ({"method": 99}, "compression"),
        ({"method": 9}, "compression"),
        ({"version": 99}, "version"),
    ],
    ids=str,
)
def test_an_unsupported_zip_is_refused_and_kept(tmp_path, change, reason):
    content = bytearray(zipped({"a.png": sample_image(0), "b.png": sample_image(1)}))
    at = content.rindex(b"PK\x01\x02")  # directory entry of the last member
    local = int.from_bytes(content[at + 42 : at + 46], "little")
    for key, offset, local_offset in (("version", 6, 4), ("flags", 8, 6), ("method", 10, 8)):
        if key in change:
            content[at + offset : at + offset + 2] = change[key].to_bytes(2, "little")
            content[local + local_offset : local + local_offset + 2] = change[key].to_bytes(2, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.zip.*{reason}"):
        unzip(tmp_path / "a.zip", tmp_path / "target")
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["x" * 300 + ".png"], "is too long"),
        (["ä" * 140 + ".png"], "is too long"),  # 284 bytes
        (["a/" * 3000 + "x.png"], "is too long"),
        (["a.png", "a.png/b.png"], "'a.png' is both a file and a folder"),
        (["a.png/c/b.png", "a.png"], "'a.png' is both a file and a folder"),
    ],
    ids=["long", "long in bytes", "deep", "file then folder", "folder then file"],
)
def test_invalid_names_are_refused_and_the_zip_is_kept(tmp_path, names, reason):
    (tmp_path / "a.zip").write_bytes(zipped({name: sample_image(0) for name in names}))
    with pytest.raises(InputError, match=reason):
        unzip(tmp_path / "a.zip", tmp_path / "target")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_zip_of_one_file_named_like_the_folder_becomes_a_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"target.png": sample_image(0)}))
    unzip(tmp_path / "a.zip", tmp_path / "target.png")
    assert (tmp_path / "target.png" / "target.png").read_bytes() == sample_image(0)

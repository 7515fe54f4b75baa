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
        (member("run.sh"), b"x", "is no image"),
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

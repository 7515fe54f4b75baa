"""Untrusted images and captions: pipes, devices, unsafe formats, many pixels."""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import reward_core as RM
from reward_core.bulk import ImageFolder
from reward_core.errors import ImageError, InputError
from reward_core.files.foreign_bytes import guarded, reason
from reward_core.inputs.image_file import decoded_image, open_image, open_image_bytes
from reward_core.inputs.pixel_budget import pixel_budget
from reward_core.metadata import read_prompt, read_score, write_score

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="devices and /proc of Linux")


def png_of_one_color(side: int) -> bytes:
    """Return a small file with an RGBA image of side x side transparent pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    pack = zlib.compressobj(9)
    pixels = b"".join(pack.compress(bytes(1 + 4 * side)) for _ in range(side)) + pack.flush()
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def special(tmp_path):
    """Return paths that are not regular files, with a part of their errors."""
    os.mkfifo(tmp_path / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the path of a socket must be short
    server.bind("socket.png")
    os.chdir(here)
    for name, target in (("zero.png", "/dev/zero"), ("link.png", "pipe.png")):
        os.symlink(target, tmp_path / name)
    yield {
        tmp_path / "pipe.png": "this is a named pipe",
        tmp_path / "link.png": "this is a named pipe",
        tmp_path / "socket.png": "this is a socket",
        tmp_path / "zero.png": "this is a device",
    }
    server.close()


@LINUX
def test_pipes_and_devices_are_refused_at_once(special, tmp_path):
    for path, words in special.items():
        for read in (
            open_image,
            read_prompt,
            lambda p: read_score(p, "a"),
            lambda p: write_score(p, "a", 1.0),
        ):
            begun = time.monotonic()
            with pytest.raises(ImageError, match=words) as caught:
                read(path)
            assert caught.value.image == str(path)
            assert time.monotonic() - begun < 2


@LINUX
def test_captions_that_are_pipes_or_devices_become_errors_of_their_rows(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    os.mkfifo(tmp_path / "a.txt")
    os.symlink("/dev/zero", tmp_path / "b.txt")
    (tmp_path / "c.txt").write_text("a cat")
    for from_metadata in (False, True):
        workspace = tmp_path / f".work{from_metadata}"
        workspace.mkdir()
        rows = list(ImageFolder(tmp_path, from_metadata).open(workspace).read(0))
        assert [row.prompt for row in rows] == [None, None, "a cat"]
        assert "a named pipe" in rows[0].error
        assert "a device" in rows[1].error


def test_a_sparse_file_is_refused_because_of_its_size(tmp_path, monkeypatch):
    image = tmp_path / "huge.png"
    Image.new("RGB", (8, 8)).save(image)
    os.truncate(image, 2**40)
    for read in (open_image, read_prompt):
        with pytest.raises(ImageError, match=r"the file is too large: 1,099,511,627,776 bytes"):
            read(image)
    monkeypatch.setenv("REWARD_CORE_MAX_IMAGE_FILE_BYTES", "many")
    with pytest.raises(InputError, match=r"MAX_IMAGE_FILE_BYTES='many': it is not a whole number"):
        open_image(image)


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n",
        b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n",
        b"%PDF-1.4\n%%EOF",
        b"\xd7\xcd\xc6\x9a" + bytes(60),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x1c\x02\x00\x00\x01\x02" + bytes(60),
    ],
    ids=["EPS", "binary EPS", "PDF", "WMF", "SVG", "IPTC"],
)
def test_formats_that_need_an_interpreter_are_refused(tmp_path, monkeypatch, content):
    for tool in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / tool).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(content)
    for read in (lambda: open_image(tmp_path / "a.png"), lambda: open_image_bytes(content, "a.png")):
        with pytest.raises(ImageError, match="not an image in any format"):
            read()
    assert not (tmp_path / "ran").exists()


def test_threads_share_the_pixel_budget(tmp_path, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_PIXELS_IN_FLIGHT", "20000")  # two images of 100 x 100
    pixel_budget.cache_clear()
    sizes = [(100, 100)] * 6 + [(300, 300)] + [(100, 100)] * 3
    for i, size in enumerate(sizes):
        Image.new("L", size).save(tmp_path / f"{i}.png")
    lock, open_now, seen = threading.Lock(), [], []

    def use(i: int) -> None:
        with decoded_image(tmp_path / f"{i}.png") as image:
            with lock:
                open_now.append(image.width)
                seen.append(sorted(open_now))
            time.sleep(0.01)
            with lock:
                open_now.remove(image.width)

    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(use, range(len(sizes)), timeout=20))
    finally:
        pixel_budget.cache_clear()
    assert len(seen) == len(sizes)
    assert max(map(len, seen)) == 2
    assert [group for group in seen if 300 in group] == [[300]]


def test_pixels_are_released_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_PIXELS_IN_FLIGHT", "10000")
    pixel_budget.cache_clear()
    buffer = io.BytesIO()
    Image.effect_noise((100, 100), 50).save(buffer, "PNG")
    try:
        for _ in range(3):
            with pytest.raises(ImageError, match="damaged or truncated"):
                open_image_bytes(buffer.getvalue()[:3000], "cut.png")
        assert open_image_bytes(buffer.getvalue(), "whole.png").size == (100, 100)
        assert pixel_budget().free == 10000
    finally:
        pixel_budget.cache_clear()


PEAK = """
import resource, sys
from pathlib import Path
import reward_core as RM
from reward_core.bulk import BulkSettings, Manifest, score_to_file
folder = Path(sys.argv[1])
def score(name):
    settings = BulkSettings(model="tiny", threads=4)
    score_to_file(Manifest(folder / name), str(folder / (name + ".csv")), settings)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = score("small.jsonl")
print(score("large.jsonl") - before)
"""


@pytest.mark.slow
@LINUX
def test_large_images_wait_for_each_other_in_a_bulk_run(tmp_path):
    (tmp_path / "small.png").write_bytes(png_of_one_color(9))
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png_of_one_color(5000))  # 100 MB decoded
    rows = [json.dumps({"prompt": "a cat", "image": f"{i}.png"}) for i in range(4)]
    (tmp_path / "large.jsonl").write_text("\n".join(rows))
    (tmp_path / "small.jsonl").write_text('{"prompt": "a cat", "image": "small.png"}')
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "REWARD_CORE_MAX_PIXELS_IN_FLIGHT": "26000000"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large.jsonl.csv").read_text().count("a cat") == 4
    assert int(done.stdout.splitlines()[-1]) < 300


@pytest.mark.slow
@pytest.mark.parametrize(("size", "mode"), [((5000, 3400), "RGBA"), ((2800, 6100), "LA")], ids=str)
def test_large_images_with_alpha_are_shrunk_as_pillow_does(size, mode):
    transform = RM.load("tiny", device="cpu").transform
    random = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    image = Image.fromarray(random, mode)
    assert size[0] * size[1] > 2**24
    scale = transform.size / min(size)
    new = tuple(transform.size if side == min(size) else int(side * scale) for side in size)
    plain = image.resize(new, Image.Resampling.BICUBIC).crop(transform.crop_box(*new))
    assert np.array_equal(transform.to_uint8(image), np.asarray(plain.convert("RGB")))


def test_every_error_of_a_parser_is_converted():
    class PanicException(BaseException):
        """An exception like those of Rust extensions."""

    for error in (KeyError("a"), RecursionError(), MemoryError(), StopIteration(), PanicException("oops")):
        with pytest.raises(ImageError) as caught, guarded(lambda e: ImageError("a.png", reason(e))):
            raise error
        assert caught.value.__cause__ is error
        assert caught.value.reason
    for error in (KeyboardInterrupt(), SystemExit(1), InputError("ours")):
        with pytest.raises(type(error)), guarded(lambda e: ImageError("a.png", reason(e))):
            raise error

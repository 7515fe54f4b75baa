"""Processes that decode images: the same levels and errors as threads, also when a process is killed."""

import io
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from reward_core.errors import ImageError, ImageNotFoundError, InputError, WorkerError
from reward_core.inputs.decode_ahead import decoded
from reward_core.inputs.decoding_process import can_decode_in_processes
from reward_core.inputs.decoding_processes import DecodingProcesses
from reward_core.inputs.image_transform import ImageTransform
from reward_core.inputs.shared_pixel_budget import PARTS, parts_for
from reward_core.models.clip.transform import PaddedTransform, RgbFirstTransform

pytestmark = pytest.mark.skipif(not can_decode_in_processes(), reason="needs Linux")
psutil = pytest.importorskip("psutil")
SIDE = 24
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F")
# A small one, tall and wide ones, a square larger than a slot, one that is enlarged a lot.
SIZES = ((40, 30), (24, 24), (30, 200), (200, 25), (1024, 1024), (3, 2000))


def noise(width, height, mode="RGB", seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    return image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of all modes and sizes, and files that cannot be read."""
    folder = tmp_path_factory.mktemp("files")
    for mode in MODES:
        noise(45, 33, mode).save(folder / f"{mode.replace(';', '')}.tif")
    for width, height in SIZES:
        noise(width, height).save(folder / f"{width}x{height}.png")
    noise(60, 60, "P").save(folder / "palette.png", transparency=3)
    noise(60, 60).save(folder / "photo.jpg")
    Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(folder / "deep.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_bytes(b"no image")
    (folder / "cut.png").write_bytes((folder / "40x30.png").read_bytes()[:900])
    (folder / "folder.png").mkdir()
    names = sorted(path.name for path in folder.iterdir())
    return [str(folder / name) for name in (*names, "missing.png")] + ["https://example.com/a.png"]


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """An image that takes about a second and 80 MB to decode."""
    path = tmp_path_factory.mktemp("huge") / "huge.png"
    Image.new("L", (9000, 9000)).save(path, compress_level=1)
    return str(path)


def processes(transform=None, own_size=False, count=1, slots=1):
    transform = transform or ImageTransform(SIDE, (0, 0, 0), (1, 1, 1))
    return DecodingProcesses(transform.square, own_size, count, slots)


def submitted(pool, paths):
    return pool.submit([(path, path) for path in paths])


def worker(decoding=False):
    """Return the process that decodes, once it is started or while it decodes the huge image."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in psutil.Process().children():
            try:
                if "decoding_worker" in " ".join(child.cmdline()) and (
                    not decoding or child.memory_info().rss > 100 << 20
                ):
                    return child
            except psutil.Error:
                pass
        time.sleep(0.005)
    raise AssertionError("no process decodes")


def workers_left():
    return [c for c in psutil.Process().children() if "decoding_worker" in " ".join(c.cmdline())]


@pytest.mark.parametrize("kind", [ImageTransform, RgbFirstTransform])
@pytest.mark.parametrize("own_size", [False, True])
def test_levels_and_errors_equal_those_of_threads(files, kind, own_size):
    transform = kind(SIDE, (0, 0, 0), (1, 1, 1))
    with processes(transform, own_size, count=2) as pool:
        results = [pending.result() for pending in submitted(pool, files)]
        for path, result in zip(files, results):
            prepare = transform.prepare_for_device if own_size else transform.prepare
            expected = decoded(path, prepare)
            assert type(result.error) is type(expected.error), path
            assert str(result.error) == str(expected.error)
            assert result.clipped == expected.clipped
            if expected.error is None and result.pixels.shape == expected.pixels.shape:
                assert torch.equal(result.pixels[..., :3], expected.pixels[..., :3]), path
            elif expected.error is None:  # larger than a slot
                assert path.endswith("1024x1024.png")
                assert torch.equal(result.pixels, decoded(path, transform.prepare).pixels)
    assert isinstance(results[files.index(files[-2])].error, ImageNotFoundError)
    assert sum(result.error is not None for result in results) == 6
    assert sum(result.clipped is not None for result in results) == 1


def test_the_bytes_of_a_file_are_decoded_under_the_name_given():
    buffer = io.BytesIO()
    noise(50, 40).save(buffer, "png")
    transform = ImageTransform(SIDE, (0, 0, 0), (1, 1, 1))
    with processes(transform) as pool:
        good, bad = [p.result() for p in pool.submit([(buffer.getvalue(), "a"), (b"nothing", "row 2")])]
        assert torch.equal(good.pixels, transform.prepare(noise(50, 40)))
    assert (bad.error.image, bad.error.reason[:12]) == ("row 2", "not an image")


def test_a_batch_of_more_images_than_slots_is_read_completely(tmp_path):
    transform = ImageTransform(SIDE, (0, 0, 0), (1, 1, 1))
    images = [noise(30, 30, seed=i) for i in range(50)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    with processes(transform, slots=8) as pool:
        for _ in range(2):  # the second batch uses the slots again
            results = [p.result() for p in submitted(pool, [str(tmp_path / f"{i}.png") for i in range(50)])]
            for image, result in zip(images, results):
                assert torch.equal(result.pixels, transform.prepare(image))
                result.release()


def test_limits_apply_in_processes(files, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_IMAGE_PIXELS", "2000")
    monkeypatch.setenv("REWARD_CORE_MAX_PIXELS_IN_FLIGHT", "500")  # every image takes all of it
    paths = [path for path in files if path.endswith(("40x30.png", "1024x1024.png", "RGB.tif"))]
    with processes(count=2) as pool:
        errors = [p.result().error for p in submitted(pool, paths * 4)]
    for path, error in zip(paths * 4, errors):
        assert ("MAX_IMAGE_PIXELS" in str(error)) == path.endswith("1024x1024.png")


def test_an_invalid_limit_is_an_error_as_in_threads(files, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_MAX_IMAGE_FILE_BYTES", "many")
    with processes() as pool, pytest.raises(InputError, match="MAX_IMAGE_FILE_BYTES='many'"):
        submitted(pool, files[:1])[0].result()


@pytest.mark.parametrize("process_count", [1, 3, 16, 32])
def test_processes_share_the_pixel_budget(process_count):
    budget = 192 << 20
    for pixels in (0, 1, 512**2, 24_000_000, 100_000_000, budget, 10 * budget):
        ranges = [parts_for(pixels, budget, number, process_count) for number in range(process_count)]
        for parts in ranges:
            assert 0 <= parts.start < parts.stop <= PARTS
            assert len(parts) * budget >= min(pixels, budget) * PARTS
    small = [parts_for(512**2, budget, number, process_count) for number in range(process_count)]
    assert len({part for parts in small for part in parts}) == sum(map(len, small))


# Processes that end


def test_an_image_whose_process_is_killed_is_an_error_and_the_others_are_decoded(files, huge):
    good = next(path for path in files if path.endswith("photo.jpg"))
    paths = [good, huge, *[good] * 8]
    with processes() as pool:
        pending = submitted(pool, paths)
        worker(decoding=True).kill()
        results = [image.result() for image in pending]
        assert [result.error is None for result in results] == [True, False] + [True] * 8
        assert type(results[1].error) is ImageError
        assert results[1].error.image == huge
        assert results[1].error.reason == "the process that decoded it ended unexpectedly (signal 9)"
        expected = decoded(good, ImageTransform(SIDE, (0, 0, 0), (1, 1, 1)).prepare).pixels
        assert all(torch.equal(r.pixels, expected) for r in results if r.error is None)
    assert not workers_left()


def test_a_process_killed_while_it_waits_costs_no_image(files):
    good = next(path for path in files if path.endswith("photo.jpg"))
    with processes() as pool:
        submitted(pool, [good])[0].result()
        worker().kill()
        assert all(image.result().error is None for image in submitted(pool, [good] * 8))


@pytest.mark.slow
def test_three_images_in_a_row_that_end_the_process_end_the_run(huge):
    with processes() as pool:
        pending = submitted(pool, [huge] * 4)
        for _ in range(3):
            process = worker(decoding=True)
            process.kill()
            process.wait(10)
        with pytest.raises(WorkerError, match=r"Cannot decode '.*huge.png'.* 3 times in a row"):
            [image.result() for image in pending]
    assert not workers_left()


@pytest.mark.slow
def test_closing_does_not_wait_for_images_and_leaves_nothing_behind(files, huge):
    descriptors = len(os.listdir("/proc/self/fd"))
    shared = os.listdir("/dev/shm")
    with processes(count=2) as pool:
        submitted(pool, [huge] * 16)
        worker(decoding=True)
        started = time.monotonic()
    assert time.monotonic() - started < 2  # decoding all of them takes about 10 s
    assert not workers_left()
    with suppress(ZeroDivisionError), processes() as pool:
        submitted(pool, files)[0].result()
        raise ZeroDivisionError
    assert not workers_left()
    del pool  # the memory is kept as long as an image in it
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir("/dev/shm") == shared


@pytest.mark.slow
def test_processes_end_when_their_parent_is_killed(files):
    code = (
        "import sys, time\n"
        "from reward_core.inputs.decoding_processes import DecodingProcesses\n"
        "from reward_core.inputs.square_image import SquareImage\n"
        "with DecodingProcesses(SquareImage(8), False, 2, 8) as pool:\n"
        "    pool.submit([(path, path) for path in sys.argv[1:]])[0].result()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, *files[:2]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        parent.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_process_imports_no_torch():
    code = "import sys, reward_core.inputs.decoding_worker; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_only_transforms_of_pil_are_done_by_processes():
    for kind, expected in ((ImageTransform, True), (RgbFirstTransform, True), (PaddedTransform, False)):
        assert kind(SIDE, (0, 0, 0), (1, 1, 1)).prepares_with_pil == expected

    class Mirrored(ImageTransform):
        def prepare(self, image):
            return super().prepare(image).flip(1)

    assert not Mirrored(SIDE, (0, 0, 0), (1, 1, 1)).prepares_with_pil

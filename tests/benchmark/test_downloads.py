"""Tables 1 and 3 from download to report, against a server on this machine that stands in for the hub."""

import hashlib
import io
import json
import os
import stat
import zipfile

import numpy as np
import pytest
from hub_server import Hub
from PIL import Image

from reward_benchmark.paper import TABLE1
from reward_core.errors import HubError, InputError
from reward_core.files.zip_file import unzip
from reward_core.hub.downloads import fetch
from reward_core.hub.file_specs import WebFile

REPO = "zai-org/ImageReward"
PROMPTS = [{"id": f"00{i}-x", "prompt": f"a red circle {word}"} for i, word in enumerate(("up", "down"))]


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


def sample_image(seed, side=40, form="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form)
    return data.getvalue()


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def table(hub, run, tmp_path):
    """table("table1", ...): the command with the stand-in for the hub, and its data and runs in tmp_path."""

    def table(suite, *arguments):
        settings = {
            "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "REWARD_BENCHMARK_GITHUB": hub.address,
        }  # fmt: skip
        extra = ["--data", tmp_path / "data", "--out", tmp_path / "runs", "--scorers", "tiny,random"]
        return run("run", suite, *extra, *arguments, env=settings)

    (tmp_path / "data").mkdir()
    return table


def publish_table1(hub, big=0):
    """Six generators of 2 x 10 images; some zips with a folder at the top, one image corrupt."""
    files = {}
    for n, name in enumerate(TABLE1):
        top = f"{name}/" if n % 2 else ""
        members = {
            f"{top}{item['id']}_{x}.png": sample_image(100 * n + 10 * p + x)
            for p, item in enumerate(PROMPTS)
            for x in range(10)
        }
        if n == 0:
            members[f"{PROMPTS[0]['id']}_3.png"] = b"broken"
            if big:
                members[f"{PROMPTS[0]['id']}_0.png"] = sample_image(0, big)
        files[f"generations/{name}.zip"] = zipped(members)
    hub.repos[REPO] = {"main": files}


def test_table1_from_download_to_report(hub, table, tmp_path):
    publish_table1(hub, big=2100)  # noise of 13 MB, more than the client's piece of 10 MB
    (tmp_path / "data/benchmark-prompts.json").write_text(json.dumps(PROMPTS))
    path = f"/{REPO}/resolve/main/generations/openjourney.zip"
    hub.dropped[path] = 11_000_000
    done = table("table1")
    if done.returncode == 2:  # the client gives a cut connection up, or goes on by itself
        assert "openjourney" in done.stderr
        done = table("table1")
    assert done.returncode == 1, done.stderr  # one corrupt image
    assert not hub.dropped
    assert any(request.range for request in hub.asked_for("openjourney.zip"))
    assert "openjourney/000-x_3.png: not an image" in done.stderr
    (part,) = json.loads((tmp_path / "runs/table1/summary.json").read_text())["parts"]
    assert list(part["reference"]) == list(TABLE1)
    assert part["reference_wins"]["openjourney"] == 507
    assert part["pictures"] == 120
    assert part["scorers"]["tiny"]["missing"] == 1
    assert part["scorers"]["tiny"]["spearman"] is not None
    assert "119" in done.stdout
    # All is here now: nothing is fetched or scored again, also with an own generator beside the six.
    before = len(hub.requests)
    own = tmp_path / "data/generations/mine"
    own.mkdir()
    for item in PROMPTS:
        (own / f"{item['id']}_0.png").write_bytes(sample_image(7))
    done = table("table1", "--generators", "default,mine", "--offline")
    assert done.returncode == 1, done.stderr
    assert len(hub.requests) == before
    (part,) = json.loads((tmp_path / "runs/table1/summary.json").read_text())["parts"]
    assert part["reference"]["mine"] is None
    assert part["scorers"]["tiny"]["generators"]["mine"]["pictures"] == 2


def test_table1_names_what_is_missing(hub, table, tmp_path):
    hub.web[f"/{REPO}/main/benchmark/benchmark-prompts.json"] = json.dumps(PROMPTS).encode()
    done = table("table1")
    assert done.returncode == 2
    assert "is not the file it was: sha256" in done.stderr
    done = table("table1", "--offline")
    assert "benchmark-prompts.json" in done.stderr
    assert f"{hub.address}/{REPO}/main/benchmark/benchmark-prompts.json" in done.stderr
    (tmp_path / "data/benchmark-prompts.json").write_text(json.dumps(PROMPTS))
    done = table("table1", "--offline")
    assert done.returncode == 2
    assert "resolve/main/generations/openjourney.zip" in done.stderr
    done = table("table1", "--generators", "mine")
    assert "reward-benchmark generate --name mine" in done.stderr


def test_a_corrupt_zip_is_fetched_again(hub, table, tmp_path):
    rankings = [
        {"id": str(i), "prompt": "a red circle", "generations": [f"part/{i}/{x}.webp" for x in range(8)],
         "ranking": [1, 2, 3, 4, 5, 6, 7, 7]}
        for i in range(3)
    ]  # fmt: skip
    (tmp_path / "data/test.json").write_text(json.dumps(rankings))
    content = zipped(
        {
            f"test_images/part/{i}/{x}.webp": sample_image(10 * i + x, form="WEBP")
            for i in range(3)
            for x in range(8)
        }
    )
    hub.repos[REPO] = {"main": {"test_images.zip": content[: len(content) // 2]}}
    done = table("table3")
    assert done.returncode == 2
    assert "damaged" in done.stderr
    assert not (tmp_path / "data/test_images").exists()
    hub.repos[REPO] = {"main": {"test_images.zip": content}}
    done = table("table3")
    assert done.returncode == 0, done.stderr
    (part,) = json.loads((tmp_path / "runs/table3/summary.json").read_text())["parts"]
    tiny = part["scorers"]["tiny"]
    assert (tiny["pairs"], tiny["prompts"], tiny["recall"]["n"]) == (3 * 27, 3, 3)
    assert not list((tmp_path / "data").rglob("*.zip"))


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


def test_a_damaged_member_leaves_nothing(tmp_path):
    content = bytearray(zipped({"a.png": sample_image(0), "b.png": sample_image(1)}))
    content[200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        unzip(tmp_path / "a.zip", tmp_path / "target")
    assert os.listdir(tmp_path) == []


def broken_zip(path, kind):
    """Write a zip whose second member is packed by ``kind`` and damaged behind its headers."""
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
def test_a_member_damaged_in_any_packing_is_the_projects_error(tmp_path, kind):
    broken_zip(tmp_path / "a.zip", kind)
    with pytest.raises(
        InputError, match=r"a\.zip: cannot be read as a zip, it is damaged: .*download it again"
    ):
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
def test_a_zip_that_needs_another_program_is_refused_and_kept(tmp_path, change, reason):
    content = bytearray(zipped({"a.png": sample_image(0), "b.png": sample_image(1)}))
    at = content.rindex(b"PK\x01\x02")  # the last member's entry in the directory
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
        (["x" * 300 + ".png"], "more than a file's can have"),
        (["ä" * 140 + ".png"], "more than a file's can have"),  # 284 bytes
        (["a/" * 3000 + "x.png"], "more than a file's can have"),
        (["a.png", "a.png/b.png"], "'a.png' is a file and a folder at once"),
        (["a.png/c/b.png", "a.png"], "'a.png' is a file and a folder at once"),
    ],
    ids=["long", "long in bytes", "deep", "file then folder", "folder then file"],
)
def test_names_that_no_disk_can_hold_are_refused_and_the_zip_is_kept(tmp_path, names, reason):
    (tmp_path / "a.zip").write_bytes(zipped({name: sample_image(0) for name in names}))
    with pytest.raises(InputError, match=reason):
        unzip(tmp_path / "a.zip", tmp_path / "target")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_zip_of_one_file_named_like_the_folder_becomes_a_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"target.png": sample_image(0)}))
    unzip(tmp_path / "a.zip", tmp_path / "target.png")
    assert (tmp_path / "target.png" / "target.png").read_bytes() == sample_image(0)


def test_checksums_of_plain_addresses(hub, tmp_path):
    hub.web["/file"] = b"content"
    digest = hashlib.sha256(b"content").hexdigest()
    path = fetch(WebFile(f"{hub.address}/file", "file", digest), tmp_path)
    assert path.read_bytes() == b"content"
    with pytest.raises(HubError, match="sha256"):
        fetch(WebFile(f"{hub.address}/file", "other", digest[::-1]), tmp_path)
    assert not (tmp_path / "other").exists()

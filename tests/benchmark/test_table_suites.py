"""Tables 1 and 3 from download to report, with a local server in the role of the Hub."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub
from PIL import Image
from small_imagerewarddb import zipped

from reward_benchmark.missing_files import missing_files
from reward_benchmark.paper import TABLE1
from reward_benchmark.suites import SuiteOptions, build_suite
from reward_core.errors import InputError
from reward_core.models.load import available_scores

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


@pytest.fixture
def table(hub, run, tmp_path):
    """Run a table with the local Hub, with data and results in tmp_path: table("table1", ...)."""

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
    """Publish six generators of 2 x 10 images; some zips have a top folder, one image is corrupt."""
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


@pytest.mark.slow
def test_table1_from_download_to_report(hub, table, tmp_path):
    publish_table1(hub, big=2100)  # 13 MB of noise, more than a chunk of 10 MB
    (tmp_path / "data/benchmark-prompts.json").write_text(json.dumps(PROMPTS))
    path = f"/{REPO}/resolve/main/generations/openjourney.zip"
    hub.dropped[path] = 11_000_000
    done = table("table1")
    if done.returncode == 2:  # the client may give up on a cut connection, or resume
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
    # Nothing is downloaded or scored again, also with an additional local generator.
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


@pytest.mark.slow
def test_missing_files_of_table1_are_named(hub, table, tmp_path):
    hub.web[f"/{REPO}/main/benchmark/benchmark-prompts.json"] = json.dumps(PROMPTS).encode()
    done = table("table1")
    assert done.returncode == 2
    assert "differs from the published file (sha256 " in done.stderr
    done = table("table1", "--offline")
    assert "benchmark-prompts.json" in done.stderr
    assert f"{hub.address}/{REPO}/main/benchmark/benchmark-prompts.json" in done.stderr
    (tmp_path / "data/benchmark-prompts.json").write_text(json.dumps(PROMPTS))
    done = table("table1", "--offline")
    assert done.returncode == 2
    assert "resolve/main/generations/openjourney.zip" in done.stderr
    # Every file that the run needs is listed at once, with its size, address and target.
    done = table("table1", "--offline", "--scorers", "ImageReward-v1.0,BLIP")
    *files, summary = done.stderr.splitlines()
    assert len(files) == len(TABLE1) + 3  # zips, two models' weights, BERT's vocabulary
    assert "9 files are missing" in summary
    zip_path = tmp_path / "data/downloads/generations/openjourney.zip"
    assert any(f"442 MB: {hub.address}/" in line and line.endswith(f"-> {zip_path}") for line in files)
    weights = next(line for line in files if "1.79 GB" in line)
    assert "`hf download zai-org/ImageReward ImageReward.pt`" in weights
    assert weights.endswith("models--zai-org--ImageReward")
    assert "model_large.pth" in done.stderr
    assert "tiny" not in done.stderr
    done = table("table1", "--generators", "mine")
    assert "reward-benchmark generate --name mine" in done.stderr


@pytest.mark.parametrize("suite", ["table1", "table3"])
def test_sizes_of_all_missing_files_are_known(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    scorers = ["ImageReward-v1.0", *available_scores()]
    files = [str(file) for file in missing_files(suite, SuiteOptions(tmp_path), scorers)]
    assert len(files) >= 10
    large = [file for file in files if ".json" not in file]  # sizes of small configurations may be unknown
    assert [file for file in large if not re.match(r"[\d.]+ [kMG]B: ", file)] == []


@pytest.mark.slow
def test_a_corrupt_zip_is_downloaded_again(hub, table, tmp_path):
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
    assert "over the 3 prompts with 8 or more images; the paper used a set of 371 prompts" in done.stdout
    assert (tiny["pairs"], tiny["prompts"], tiny["recall"]["n"]) == (3 * 27, 3, 3)
    assert not list((tmp_path / "data").rglob("*.zip"))


@pytest.mark.parametrize(
    "image",
    ["../outside.png", "part/../../outside.png", "/elsewhere/outside.png", "https://example.com/outside.png"],
)
def test_a_table3_image_outside_the_data_folder_is_refused(image, tmp_path):
    data = tmp_path / "data"
    for file in (data / "inside.png", tmp_path / "outside.png"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(sample_image(0))
    groups = [
        {"id": str(i), "prompt": "a red circle", "generations": ["inside.png", name], "ranking": [1, 2]}
        for i, name in enumerate(("inside.png", image))
    ]
    (data / "test.json").write_text(json.dumps(groups))
    with pytest.raises(
        InputError, match=r"Cannot use the image .*outside\.png'? of test\.json: it is outside"
    ):
        build_suite("table3", SuiteOptions(data, offline=True))


@pytest.mark.parametrize("relative", [False, True])
def test_table3_accepts_absolute_paths_in_the_data_folder(relative, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.png").write_bytes(sample_image(0))
    images = [str(tmp_path / "data/a.png"), "b.png"]
    rankings = [{"id": "1", "prompt": "a red circle", "generations": images, "ranking": [1, 2]}]
    (tmp_path / "data/test.json").write_text(json.dumps(rankings))
    options = SuiteOptions(Path("data") if relative else tmp_path / "data", offline=True)
    (group,) = build_suite("table3", options)[0].groups
    assert group.names == ("a.png", "b.png")
    assert group.images[0].samefile(tmp_path / "data/a.png")

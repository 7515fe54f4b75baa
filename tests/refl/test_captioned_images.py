"""Captioned images of a run: unreadable ones are skipped, and resuming with other data is refused."""

import dataclasses
import gzip
import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from toy_runs import PROMPTS, redness, settings, write_images

import refl
from refl.data.captioned_images import open_captioned
from refl.errors import PromptFileError
from reward_core.errors import CheckpointError, ClippedLevelsWarning


def run(pipelines, folder, prompts, data, *more, steps=2):
    config = settings(folder, f"loss.pretraining_data={data}", "run.checkpoint_every=1", *more, steps=steps)
    trainer = refl.Trainer(pipelines("sd"), prompts, config, {"red": redness})
    trainer.train()
    return trainer


@pytest.mark.slow
def test_resuming_with_other_data_is_refused(pipelines, tmp_path):
    prompts = tmp_path / "prompts.txt"
    words = [*PROMPTS, *(f"{prompt} at night" for prompt in PROMPTS)]
    data = write_images(tmp_path / "data")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))

    def again():
        run(pipelines, tmp_path / "run", prompts, data)

    def restore():
        prompts.write_text("\n".join(words))
        for added in (data / "4.png", data / "4.txt"):
            added.unlink(missing_ok=True)
        write_images(data)

    restore()
    again()
    changes = {
        "training prompt": lambda: prompts.write_text("\n".join(["a green house", *words[1:]])),
        "validation prompt": lambda: prompts.write_text("\n".join([*words[:-1], "a green house"])),
        "an image more": lambda: write_images(data, 5),
        "another image": lambda: noise.save(data / "2.png"),
    }
    for change in changes.values():
        change()
        with pytest.raises(CheckpointError, match=r"its run has other settings or data\. "):
            again()
        restore()
    again()  # same data: the finished run is returned


def as_tar(folder, file):
    with tarfile.open(file, "w") as archive:
        for path in sorted(folder.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            archive.addfile(member, io.BytesIO(path.read_bytes()))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_an_unreadable_image_is_named_and_the_next_one_used(pipelines, tmp_path, caplog, kind):
    data = write_images(tmp_path / "data")
    (data / "1.png").write_bytes((data / "1.png").read_bytes()[:40])
    (data / "2.txt").write_bytes(b"\xff\xfe\xff")
    source = data if kind == "folder" else as_tar(data, tmp_path / "data.tar")
    weights = []
    for name in ("one", "two"):
        trainer = run(pipelines, tmp_path / name, PROMPTS, source, steps=4)
        output = caplog.text
        caplog.clear()
        for broken in ("1.png", "2.png"):
            assert output.count(f"{broken}' of ") == 1
        assert "(2 of 4 images unreadable so far)" in output
        weights.append(trainer.trainable.tensors())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    captions = trainer.objective.captioned.batch([0, 1, 2, 3], 16, 16)[1]
    assert captions == ["flat colour 0", "flat colour 3", "flat colour 3", "flat colour 3"]


def test_a_run_fails_if_no_image_can_be_read(pipelines, tmp_path):
    data = write_images(tmp_path / "data")
    for path in data.glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(PromptFileError, match="4 in a row failed"):
        run(pipelines, tmp_path / "run", PROMPTS, data)


def test_16_bit_images_are_warned_about_once(tmp_path):
    data = write_images(tmp_path / "data")
    for i in range(4):
        Image.fromarray(np.full((30, 40), 9000 * (i + 1), dtype=np.uint16)).save(data / f"{i}.png")
    config = settings(tmp_path / "run")
    captioned = open_captioned(dataclasses.replace(config.loss, pretraining_data=str(data)))
    with pytest.warns(ClippedLevelsWarning, match="png: mode 'I;16' with levels 9000 to 9000") as caught:
        captioned.batch([0, 1, 2, 3], 16, 16)
    assert len(caught) == 1


def saved_dataset(folder):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(write_images(folder / "data").glob("*.png"))]
    data = datasets.Dataset.from_dict({"image": files, "text": [f"flat colour {i}" for i in range(4)]})
    data.cast_column("image", datasets.Image()).save_to_disk(folder / "saved")
    return folder / "saved"


def open_source(tmp_path, source):
    return open_captioned(dataclasses.replace(settings(tmp_path / "run").loss, pretraining_data=str(source)))


def test_a_dataset_gives_the_same_images_as_its_files(tmp_path):
    saved = saved_dataset(tmp_path)
    pixels, captions = open_source(tmp_path, saved).batch([0, 1, 2, 3], 16, 16)
    expected, words = open_source(tmp_path, tmp_path / "data").batch([0, 1, 2, 3], 16, 16)
    assert torch.equal(pixels, expected)
    assert captions == words


@pytest.mark.parametrize("kind", ["folder", "tar", "dataset"])
def test_an_image_above_the_pixel_limit_is_refused(tmp_path, monkeypatch, caplog, kind):
    saved = saved_dataset(tmp_path)
    data = tmp_path / "data"
    sources = {"folder": data, "tar": as_tar(data, tmp_path / "data.tar"), "dataset": saved}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # twice as many are refused
    with pytest.raises(PromptFileError, match="4 in a row failed"):
        open_source(tmp_path, sources[kind]).get(0, 16, 16)
    assert "REWARD_CORE_MAX_IMAGE_PIXELS sets another limit" in caplog.text


def test_files_in_a_tar_above_the_byte_limit_are_refused(tmp_path, monkeypatch, caplog):
    tar = as_tar(write_images(tmp_path / "data"), tmp_path / "data.tar")
    for name in ("MAX_IMAGE_FILE_BYTES", "MAX_CAPTION_BYTES"):
        with monkeypatch.context() as patch:
            patch.setenv(f"REWARD_CORE_{name}", "5")
            with pytest.raises(PromptFileError, match="4 in a row failed"):
                open_source(tmp_path, tar).get(0, 16, 16)
        assert f"REWARD_CORE_{name} sets another limit" in caplog.text


def test_a_compressed_or_damaged_tar_is_refused(tmp_path):
    tar = as_tar(write_images(tmp_path / "data"), tmp_path / "data.tar")
    content = tar.read_bytes()
    (tmp_path / "packed.tar").write_bytes(gzip.compress(content))
    with pytest.raises(PromptFileError, match="the tar is compressed"):
        open_source(tmp_path, tmp_path / "packed.tar")
    (tmp_path / "cut.tar").write_bytes(content[:700])
    with pytest.raises(PromptFileError, match="not a readable tar"):
        open_source(tmp_path, tmp_path / "cut.tar")


def test_postscript_in_a_dataset_is_refused(tmp_path, caplog):
    datasets = pytest.importorskip("datasets")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n"
    data = datasets.Dataset.from_dict({"image": [{"bytes": content, "path": None}], "text": ["a cat"]})
    data.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    with pytest.raises(PromptFileError, match="1 in a row failed"):
        open_source(tmp_path, tmp_path / "saved").get(0, 16, 16)
    error = caplog.text
    assert "Cannot read 'row 0' of " in error
    assert "not an image in any format" in error


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_images_and_captions_over_the_limits_are_skipped(tmp_path, monkeypatch, caplog, kind):
    data = write_images(tmp_path / "data")
    (data / "0.png").write_bytes((data / "0.png").read_bytes() + bytes(90_000))
    (data / "1.txt").write_text("a red square " * 400)
    monkeypatch.setenv("REWARD_CORE_MAX_IMAGE_FILE_BYTES", "50000")
    monkeypatch.setenv("REWARD_CORE_MAX_CAPTION_BYTES", "5000")
    images = open_source(tmp_path, data if kind == "folder" else as_tar(data, tmp_path / "data.tar"))
    captions = [images.get(i, 16, 16)[1] for i in range(4)]
    assert captions == ["flat colour 2"] * 3 + ["flat colour 3"]
    assert images.unreadable == {0, 1}
    assert caplog.text.count("the file is too large: ") == 2

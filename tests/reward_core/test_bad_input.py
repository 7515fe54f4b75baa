"""Wrong images, prompts, weights and configurations: clear errors, and no lost results."""

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from safetensors.torch import load_file, save_file

import reward_core as RM
from reward_core.errors import (
    CheckpointError,
    ClippedLevelsWarning,
    DiskFullError,
    EmptyPromptWarning,
    HubError,
    ImageError,
    ImageNotFoundError,
    InputError,
    KeyMismatchError,
    MissingExtraError,
    NonFiniteRewardError,
    PromptTypeError,
)
from reward_core.inputs.pixel_range import refuse_levels
from reward_core.inputs.square_image import resized_size

PROMPT = "a red house by the ocean"
# Every method that returns scores, called with one (prompt, image) pair.
METHODS = {
    "score": lambda model, prompt, image: model.score(prompt, image),
    "score of a list": lambda model, prompt, image: model.score(prompt, [image]),
    "inference_rank": lambda model, prompt, image: model.inference_rank(prompt, [image]),
    "score_pairs": lambda model, prompt, image: model.score_pairs([prompt], [image]),
    "score_matrix": lambda model, prompt, image: model.score_matrix([prompt], [image]),
    "score_rows": lambda model, prompt, image: list(model.score_rows([prompt], [image])),
}
LIST_METHODS = {
    "score_pairs": lambda model, prompts, images: model.score_pairs(prompts, images),
    "score_matrix": lambda model, prompts, images: model.score_matrix(prompts, images),
    "score_rows": lambda model, prompts, images: list(model.score_rows(prompts, images)),
}


@pytest.fixture(scope="module")
def rgb(parity) -> Path:
    return parity / "images" / "rgb.png"


@pytest.fixture(scope="module")
def good(parity) -> list[str]:
    return [str(parity / "images" / name) for name in ("rgb.png", "gray_64x93.png")]


# Images that cannot be read


def image_bytes(kind: str) -> bytes:
    """Return the bytes of a small noisy image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb_bytes() -> bytes:
    """Return a PNG of 60,000 x 60,000 pixels with some kilobytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = (
        png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(10**7))) + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + content


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


BAD_FILES = {
    "zero bytes.png": (lambda: b"", "empty (0 bytes)"),
    "truncated.png": (lambda: image_bytes("PNG")[:2000], "damaged or truncated"),
    "truncated header.png": (lambda: image_bytes("PNG")[:20], ""),
    "truncated.jpg": (lambda: image_bytes("JPEG")[:1500], "damaged or truncated"),
    "truncated.webp": (lambda: image_bytes("WEBP")[:800], ""),
    "truncated.gif": (lambda: image_bytes("GIF")[:1200], "damaged or truncated"),
    "truncated.tiff": (lambda: image_bytes("TIFF")[:3000], "damaged or truncated"),
    "wrong checksum.png": (lambda: flipped(image_bytes("PNG"), 20), ""),
    "truncated.dds": (lambda: image_bytes("DDS")[:200], "damaged or truncated"),  # Pillow raises ValueError
    "wrong size.gif": (lambda: flipped(image_bytes("GIF"), 10), "too large to decode safely"),
    "wrong block.bmp": (lambda: flipped(image_bytes("BMP"), 30), ""),
    "text.png": (lambda: b"a red house by the ocean\n", "not an image in any format"),
    "page.jpg": (lambda: b"<!DOCTYPE html><title>404</title>", "not an image in any format"),
    "state.png": (lambda: pickle.dumps({"a": 1}), "not an image in any format"),
    "bomb.png": (bomb_bytes, "too large to decode safely"),
}
if features.check("avif"):
    # Pillow raises RuntimeError.
    BAD_FILES["wrong block.avif"] = (lambda: flipped(image_bytes("AVIF"), 81), "damaged or truncated")
BAD_PATHS = {
    "none.png": "no such file",
    "folder.png": "this is a folder",
    "https://example.com/a.png": "this is a URL",
    "s3://bucket/a.png": "this is a URL",
    "": "no such file",
    "with\0zero.png": "no such file",
    "x" * 5000: "no such file",
}


def make_bad(name: str, folder: Path) -> tuple[str, str]:
    """Return the path of a bad image and a part of its error."""
    if name in BAD_FILES:
        content, reason = BAD_FILES[name]
        (folder / name).write_bytes(content())
        return str(folder / name), reason
    if name == "folder.png":
        (folder / name).mkdir()
    is_local = name in ("none.png", "folder.png")
    return str(folder / name) if is_local else name, BAD_PATHS[name]


@pytest.mark.parametrize("name", [*BAD_FILES, *BAD_PATHS], ids=lambda name: name[:30])
def test_a_bad_image_is_reported_and_the_others_are_scored(command, model, folder, good, tmp_path, name):
    bad, reason = make_bad(name, tmp_path)
    for method, call in METHODS.items():
        if method != "score_rows":
            with pytest.raises(ImageError) as caught:
                call(model, PROMPT, bad)
            assert caught.value.image == bad
            assert str(caught.value) == f"Cannot use {bad}: {caught.value.reason}."
            assert reason in caught.value.reason
            assert isinstance(caught.value, ImageNotFoundError) == (reason == "no such file")
    images = [good[0], bad, good[1]]
    for batch_size in (None, 1):
        rows = list(model.score_rows([PROMPT] * 3, images, batch_size=batch_size))
        assert [row.image for row in rows] == images
        assert (rows[1].score, rows[1].error) == (None, caught.value.reason)
        assert [rows[0].score, rows[2].score] == pytest.approx(model.score(PROMPT, good), abs=5e-5)
        assert [rows[0].error, rows[2].error] == [None, None]
    if "\0" in bad:
        return  # not possible as an argument
    done = command("rank", PROMPT, *images, "--model", folder, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["failed"] == [{"image": bad, "error": caught.value.reason}]
    assert sorted(result["image"] for result in document["results"]) == sorted(good)
    assert done.stderr == f"reward-core: {bad}: {caught.value.reason}\n"


def test_bad_images_do_not_drop_good_ones(command, model, folder, good, tmp_path):
    images = tmp_path / "pictures"
    images.mkdir()
    for name in BAD_FILES:
        make_bad(name, images)
    names = list(BAD_FILES)
    names[3:3] = ["good0.png"]
    names.append("good1.png")
    for i in (0, 1):
        shutil.copy(good[i], images / f"good{i}.png")
    prompts, out = tmp_path / "prompts.json", tmp_path / "scores.json"
    prompts.write_text(json.dumps({name: PROMPT for name in names}))
    done = command("score", "--prompts", prompts, "--images", images, "--out", out, "--model", folder)
    rows = json.loads(out.read_text())
    assert done.returncode == 1
    assert [row["image"] for row in rows] == [str(images / name) for name in names]
    assert [row["error"] is None for row in rows] == [name.startswith("good") for name in names]
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert scores == pytest.approx(model.score(PROMPT, good), abs=5e-5)
    assert len([line for line in done.stderr.splitlines() if str(images) in line]) == len(BAD_FILES)


@pytest.mark.parametrize(
    "image", [None, b"\x89PNG", 3, np.zeros((48, 48, 3), np.uint8), {}], ids=lambda i: type(i).__name__
)
@pytest.mark.parametrize("method", METHODS)
def test_errors_for_other_objects_name_their_type(model, good, method, image):
    reason = "expected a path or a PIL image"
    if method == "score_rows":
        rows = list(model.score_rows([PROMPT] * 3, [good[0], image, good[1]]))
        assert [row.error is None for row in rows] == [True, False, True]
        assert rows[1].error.startswith(reason)
        assert rows[1].image == f"<{type(image).__name__}>"
    else:
        with pytest.raises(ImageError, match=rf"^Cannot use <{type(image).__name__}>: {reason}\."):
            METHODS[method](model, PROMPT, image)


@pytest.mark.parametrize(
    "images",
    ["a.png", b"a.png", Path("a.png"), Image.new("RGB", (9, 9)), None, 3, {}],
    ids=lambda image: type(image).__name__,
)
def test_a_single_image_is_not_a_list(model, images):
    expected = rf"^Cannot score images: expected a list, got {type(images).__name__}\.$"
    for call in LIST_METHODS.values():
        with pytest.raises(InputError, match=expected):
            call(model, [PROMPT], images)
    with pytest.raises(InputError, match=expected):
        model.inference_rank(PROMPT, images)


def test_pil_images_that_cannot_be_used_are_reported(model, good, tmp_path):
    (tmp_path / "cut.png").write_bytes(image_bytes("PNG")[:2000])
    closed = Image.open(good[0])
    closed.close()
    with Image.open(tmp_path / "cut.png") as cut:
        images = [cut, closed, Image.new("RGB", (0, 5)), Image.new("La", (9, 9))]
        rows = list(model.score_rows([PROMPT] * 5, [*images, Image.open(good[0])]))
    assert rows[0].image == str(tmp_path / "cut.png")
    assert rows[0].error.startswith("cannot be decoded: ")
    assert rows[1].error.startswith("cannot be decoded: ")
    assert (rows[2].image, rows[2].error) == ("<PIL image RGB 0x5>", "the image is empty (0x5 pixels)")
    assert rows[3].error.startswith("cannot be converted to RGB: ")
    assert rows[4].score == pytest.approx(model.score(PROMPT, good[0]), abs=5e-5)


# Unusual but valid images


def test_the_file_extension_does_not_matter(model, rgb, tmp_path):
    for name in ("png.jpg", "no_extension", "png.webp", "ünï 東京.png"):
        copy = shutil.copy(rgb, tmp_path / name)
        assert model.score(PROMPT, copy) == model.score(PROMPT, rgb)


def test_the_first_frame_of_an_animation_is_scored(command, model, folder, tmp_path):
    random = np.random.default_rng(1)
    frames = [Image.fromarray(random.integers(0, 256, (50, 60), dtype=np.uint8), "L") for _ in range(3)]
    frames[0].save(tmp_path / "still.gif")
    for name in ("moving.gif", "moving.webp", "moving.png"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with Image.open(tmp_path / name) as moving:
            assert moving.n_frames == 3
            moving.seek(0)
            first = moving.copy()
        assert model.score(PROMPT, tmp_path / name) == model.score(PROMPT, first)
    assert model.score(PROMPT, tmp_path / "moving.gif") == model.score(PROMPT, tmp_path / "still.gif")
    done = command("rank", PROMPT, tmp_path / "moving.gif", "--model", folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_scores_every_kind_of_image(command, folder, parity, tmp_path):
    expected = json.loads((parity / "expected.json").read_text())
    rewards = {
        str(parity / expected["images"][pair["image"]]["file"]): pair["reward"]
        for pair in expected["pairs"]
        if pair["prompt"] == 0
    }
    kinds = {Image.open(image).mode for image in rewards}
    assert {"1", "P", "L", "RGBA", "CMYK"} <= kinds
    done = command("rank", expected["prompts"][0]["text"], *rewards, "--model", folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    scores = {result["image"]: result["score"] for result in json.loads(done.stdout)["results"]}
    assert scores == pytest.approx(rewards, abs=2e-5)


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    random = np.random.default_rng(2)
    if mode == "I;16":
        # Use low values too, because values above 255 are white in RGB.
        return Image.fromarray(random.integers(0, 400, (height, width), dtype=np.uint16))
    if mode == "1":
        return Image.fromarray(random.integers(0, 2, (height, width), dtype=np.uint8) * 255).convert("1")
    if mode == "P":
        image = Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8), "L").convert("P")
        image.putpalette(random.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.info["transparency"] = bytes(range(256))
        return image
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("size", [(4, 10_000), (10_000, 4), (3, 10_000)], ids=str)
def test_extreme_aspect_ratios_give_the_same_pixels_as_pil(model, size, mode):
    image = noise(mode, size)
    new = resized_size(*size, 48)
    assert new[0] * new[1] > 5_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        box = model.transform.crop_box(*new)
        plain = image.resize(new, Image.Resampling.BICUBIC).crop(box).convert("RGB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = model.transform.to_uint8(image)
    assert len(np.unique(pixels)) > 1
    assert np.array_equal(pixels, np.asarray(plain))


# With an encoder of 224 px, the enlarged image would have 125 million pixels.
MEMORY = """
import resource, sys
from dataclasses import replace
import torch
torch.set_num_threads(1)
import reward_core as RM
model = RM.load(sys.argv[1], device="cpu")
torch.manual_seed(0)
model = RM.RewardModel(replace(model.config, image_size=224), model.tokenizer).eval()
torch.nn.init.zeros_(model.blip.visual_encoder.pos_embed)
torch.nn.init.zeros_(model.blip.visual_encoder.cls_token)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model.score("a red house", sys.argv[2])
before = peak()
for row in model.score_rows(["a red house"] * (len(sys.argv) - 3), sys.argv[3:], batch_size=1):
    print(row.error or "scored", peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux")
def test_extreme_aspect_ratios_and_bombs_take_little_memory(parity, rgb, tmp_path):
    modes = ["RGB", "L", "RGBA", "LA", "P", "1", "I;16"]
    files = []
    for mode in modes:
        files.append(tmp_path / f"{mode.replace(';', '')}.png")
        noise(mode, (4, 10_000)).save(files[-1])
    noise("RGB", (10_000, 4)).save(tmp_path / "wide.png")
    noise("CMYK", (4, 10_000)).save(tmp_path / "cmyk.jpg")
    (tmp_path / "bomb.png").write_bytes(bomb_bytes())
    files += [tmp_path / "wide.png", tmp_path / "cmyk.jpg", tmp_path / "bomb.png"]
    arguments = [sys.executable, "-c", MEMORY, parity / "state_dict.pt", rgb, *files]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert [answer for answer, _ in answers[:-1]] == ["scored"] * (len(files) - 1)
    assert answers[-1][0].startswith("too large to decode safely")
    assert max(float(megabytes) for _, megabytes in answers) < 64


# Prompts


@pytest.mark.parametrize("prompt", [None, 3, b"a dog", ["a dog"], ("a", "dog"), 0.5], ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_that_is_not_a_string_is_reported(model, rgb, method, prompt):
    with pytest.raises(
        PromptTypeError, match=f"Cannot use prompt 0: it must be a string, got {type(prompt).__name__}"
    ) as caught:
        METHODS[method](model, prompt, rgb)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("method", LIST_METHODS)
def test_a_list_of_prompts_is_required(model, rgb, method):
    call = LIST_METHODS[method]
    with pytest.raises(PromptTypeError, match=r"got one string\. Wrap it in a list"):
        call(model, "a", [rgb])
    for prompts in (b"a", None, 3):
        with pytest.raises(PromptTypeError, match=f"expected a list, got {type(prompts).__name__}"):
            call(model, prompts, [rgb])
    with pytest.raises(PromptTypeError, match="Cannot use prompt 1: it must be a string, got int: 3"):
        call(model, ["a", 3], [rgb, rgb])
    with pytest.raises(InputError, match="Cannot use the prompts: no prompts given"):
        call(model, [], [])
    with pytest.raises(InputError, match="Cannot use prompt 1: it contains half a character"):
        call(model, ["a", "\ud83d dog"], [rgb, rgb])


def test_prompts_and_images_must_have_equal_length(model, rgb):
    for prompts, images in ((["a"], [rgb, rgb]), (["a", "b"], [rgb]), (["a"], [])):
        expected = f"Cannot score the pairs: got {len(prompts)} prompts but {len(images)} images"
        with pytest.raises(InputError, match=expected):
            model.score_pairs(prompts, images)
        with pytest.raises(InputError, match=expected):
            list(model.score_rows(prompts, images))
    with pytest.raises(InputError, match="Cannot score the pairs: got 2 prompts but 1 images"):
        model.rewards_from_pixels(torch.rand(1, 3, 48, 48), ["a", "b"])


def test_no_images_are_an_error(model):
    for call in (model.score, model.inference_rank):
        with pytest.raises(InputError, match="Cannot use the images: no images given"):
            call(PROMPT, [])
    with pytest.raises(InputError, match="Cannot use the images: no images given"):
        model.score_matrix([PROMPT], [])


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_an_empty_prompt_is_scored_with_a_warning(command, model, folder, rgb, prompt):
    for call in METHODS.values():
        with pytest.warns(EmptyPromptWarning, match="empty prompt") as caught:
            call(model, prompt, rgb)
        assert len(caught) == 1
    with pytest.warns(EmptyPromptWarning):
        reward = model.score(prompt, rgb)
    assert np.isfinite(reward)
    done = command("rank", prompt, rgb, "--model", folder, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["results"][0]["score"] == pytest.approx(reward, abs=5e-5)
    assert done.stderr == "reward-core: warning: empty prompt: the score depends on the image alone\n"


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8"], ids=repr)
def test_batch_size_is_at_least_one(model, rgb, batch_size):
    calls = [
        lambda: model.score(PROMPT, rgb, batch_size=batch_size),
        lambda: model.inference_rank(PROMPT, [rgb], batch_size=batch_size),
        lambda: model.score_pairs([PROMPT], [rgb], batch_size=batch_size),
        lambda: model.score_matrix([PROMPT], [rgb], batch_size=batch_size),
        lambda: list(model.score_rows([PROMPT], [rgb], batch_size=batch_size)),
    ]
    for call in calls:
        with pytest.raises(InputError, match=rf"Cannot use batch_size={batch_size!r}: .* at least 1\."):
            call()


# NaN and equal rewards


# Grayscale of more than 8 bits

RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))
CLIPPED = {
    "gray16.png": lambda: Image.fromarray((RAMP * 65535).astype(np.uint16)),
    "slightly over.png": lambda: Image.fromarray((RAMP * 256).astype(np.uint16)),
    "big endian.tif": lambda: Image.frombytes("I;16B", (64, 64), (RAMP * 65535).astype(">u2").tobytes()),
    "int.tif": lambda: Image.fromarray((RAMP * 65535).astype(np.int32)),
    "negative.tif": lambda: Image.fromarray((RAMP * 100 - 50).astype(np.int32)),
    "gray16.pgm": lambda: Image.fromarray((RAMP * 65535).astype(np.int32)),
    "float.tif": lambda: Image.fromarray(RAMP.astype(np.float32)),
    "float over.tif": lambda: Image.fromarray((RAMP * 1000).astype(np.float32)),
    "float around zero.tif": lambda: Image.fromarray((RAMP * 2 - 1).astype(np.float32)),
    "not a number.tif": lambda: Image.fromarray(np.where(RAMP > 0.5, np.nan, 9).astype(np.float32)),
}
EXACT_LEVELS = {
    "gray8.png": lambda: Image.fromarray((RAMP * 255).astype(np.uint8)),
    "low levels.png": lambda: Image.fromarray((RAMP * 255).astype(np.uint16)),
    "low int.tif": lambda: Image.fromarray((RAMP * 255).astype(np.int32)),
    "float 255.tif": lambda: Image.fromarray((RAMP * 255).astype(np.float32)),
    "black.tif": lambda: Image.new("F", (64, 64)),
}


def clipped_warnings(caught):
    return [str(w.message) for w in caught if issubclass(w.category, ClippedLevelsWarning)]


@pytest.mark.parametrize("name", [*CLIPPED, *EXACT_LEVELS])
def test_levels_outside_8_bits_give_a_warning_and_are_scored_as_pillow_clips_them(model, tmp_path, name):
    path = tmp_path / name
    (CLIPPED | EXACT_LEVELS)[name]().save(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        score = model.score(PROMPT, path)
    messages = clipped_warnings(caught)
    assert len(messages) == (name in CLIPPED)
    with Image.open(path) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.score(PROMPT, image) == pytest.approx(score, abs=5e-5)
        if messages:
            assert messages[0].startswith(f"{path}: mode {image.mode!r} with levels ")
            assert "Convert it to 8 bits" in messages[0]


def test_only_the_first_clipped_images_are_reported(command, folder, tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for i, file in enumerate(files):
        Image.fromarray((RAMP * (60000 + i)).astype(np.uint16)).save(file)
    done = command("rank", PROMPT, *files, "--model", folder, "--device", "cpu")
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "warning" in line]
    assert sum("Convert it to 8 bits" in line for line in lines) == 3
    assert lines[-1] == "reward-core: warning: 2 more images like these"


def with_weights(model, **changes) -> RM.RewardModel:
    """Return the model with changed weights: name (with __ for dots) = function of the tensor."""
    other = RM.RewardModel(model.config, model.tokenizer)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for name, change in changes.items():
        key = name.replace("__", ".")
        state[key] = change(state[key])
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_method_returns_scores_with_nan_weights(command, model, good, tmp_path, value):
    broken = with_weights(model, mlp__layers__0__weight=lambda weight: torch.full_like(weight, value))
    for call in METHODS.values():
        with pytest.raises(NonFiniteRewardError, match=rf"rgb\.png with prompt '{PROMPT}' is (nan|-?inf)"):
            call(broken, PROMPT, good[0])
    broken.save_pretrained(tmp_path / "broken")
    out, prompts = tmp_path / "scores.csv", tmp_path / "prompts.json"
    prompts.write_text(json.dumps({good[0]: PROMPT}))
    for arguments in (
        ["rank", PROMPT, *good],
        ["rank", PROMPT, *good, "--json"],
        ["score", "--prompts", prompts, "--images", tmp_path, "--out", out],
    ):
        done = command(*arguments, "--model", tmp_path / "broken")
        assert (done.returncode, done.stdout) == (2, "")
        assert "rgb.png" in done.stderr
        assert "Check the model's weights" in done.stderr
    assert not out.exists()


def test_the_pair_with_a_nan_reward_is_reported(model, good):
    dog = model.tokenizer(["dog"])[0][0, 1]

    def without_dogs(weight):
        weight[dog] = float("nan")
        return weight

    broken = with_weights(model, blip__text_encoder__embeddings__word_embeddings__weight=without_dogs)
    prompts = ["a cat", "a dog"]
    name = r"gray_64x93\.png with prompt 'a dog' is nan"
    for call in (LIST_METHODS["score_pairs"], LIST_METHODS["score_rows"]):
        with pytest.raises(NonFiniteRewardError, match=name):
            call(broken, prompts, good)
    with pytest.raises(NonFiniteRewardError, match=r"rgb\.png with prompt 'a dog'"):
        broken.score_matrix(prompts, good)
    # Equal except for rounding: copies of weights may have another alignment in memory.
    assert broken.score("a cat", good) == pytest.approx(model.score("a cat", good), abs=5e-5)


def test_equal_rewards_are_ranked_in_input_order(command, model, good, parity, tmp_path):
    flat = with_weights(model, mlp__layers__0__weight=torch.zeros_like, mlp__layers__0__bias=torch.zeros_like)
    images = [*reversed(good), str(parity / "images" / "rgba.png")]
    ranks, rewards = flat.inference_rank(PROMPT, images)
    assert len(set(rewards)) == 1
    assert ranks == [1, 2, 3]
    flat.save_pretrained(tmp_path)
    done = command("rank", PROMPT, *images, "--model", tmp_path, "--json")
    assert [result["image"] for result in json.loads(done.stdout)["results"]] == images


# Checkpoints


@pytest.fixture
def workdir(parity, tmp_path) -> Path:
    """Return a folder with the model's config.json and vocab.txt, but without weights."""
    for name in ("config.json", "vocab.txt"):
        shutil.copy(parity / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def state(parity) -> dict[str, torch.Tensor]:
    loaded = torch.load(parity / "state_dict.pt", weights_only=True)
    return {key: value for key, value in loaded.items() if not key.endswith("position_ids")}


def refused(command, path: Path, rgb: Path, kind: type = CheckpointError):
    """Return the error of loading ``path``, after checking that the command reports it."""
    with pytest.raises(kind) as caught:
        RM.load(path, device="cpu")
    assert str(path) in str(caught.value)
    done = command("rank", PROMPT, rgb, "--model", path, "--json")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"reward-core: {caught.value}\n")
    return caught.value


CLIP_KEYS = [
    "logit_scale",
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
    "vision_model.embeddings.class_embedding",
    *(f"{side}_model.encoder.layers.{i}.mlp.fc1.weight" for side in ("text", "vision") for i in range(8)),
]


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_another_model_is_reported_by_its_keys(command, state, workdir, rgb, form):
    path = workdir / f"clip.{form}"
    clip = {key: torch.zeros(3, 4) for key in CLIP_KEYS}
    torch.save(clip, path) if form == "pt" else save_file(clip, path)
    error = refused(command, path, rgb, KeyMismatchError)
    assert sorted(error.missing) == sorted(state)
    assert sorted(error.unexpected) == sorted(CLIP_KEYS)
    assert error.mismatched == []
    message = str(error)
    assert f"missing ({len(state)}): {error.missing[0]}, " in message
    assert f"unexpected ({len(CLIP_KEYS)}): {error.unexpected[0]}, " in message
    assert f"({len(state) - 12} more)" in message
    assert "This looks like a CLIP model (transformers)." in message
    assert len(message) < 3000


def test_another_model_is_reported_before_a_vocabulary_is_downloaded(command, tmp_path, rgb):
    path = tmp_path / "clip.pt"  # without config.json and vocab.txt
    torch.save({key: torch.zeros(3, 4) for key in CLIP_KEYS}, path)
    error = refused(command, path, rgb, KeyMismatchError)
    assert "This looks like a CLIP model (transformers)." in str(error)
    assert "vocab" not in str(error).replace(str(tmp_path), "")


def test_mismatched_keys_are_listed(command, state, workdir, rgb):
    path = workdir / "state.pt"
    absent, wrong = "mlp.layers.4.bias", "blip.text_encoder.encoder.layer.1.output.dense.weight"
    changes = {
        "missing": {k: v for k, v in state.items() if k != absent},
        "unexpected": {**state, "blip.text_encoder.pooler.dense.weight": torch.zeros(2)},
        "mismatched": {**state, wrong: state[wrong].T},
    }
    expected = {
        "missing": [absent],
        "unexpected": ["blip.text_encoder.pooler.dense.weight"],
        "mismatched": [(wrong, (64, 32), (32, 64))],
    }
    for change, content in changes.items():
        torch.save(content, path)
        error = refused(command, path, rgb, KeyMismatchError)
        actual = {name: getattr(error, name) for name in expected}
        assert actual == {name: expected[name] if name == change else [] for name in expected}
        assert "1" in str(error)
        assert absent in str(error) or "pooler" in str(error) or "[64, 32] instead of [32, 64]" in str(error)
    torch.save({k: v for k, v in state.items() if k.startswith("blip.")}, path)
    assert "BLIP without a reward head" in str(refused(command, path, rgb, KeyMismatchError))


def test_the_error_for_other_sizes_without_a_configuration_says_what_to_do(command, state, tmp_path, rgb):
    torch.save(state, tmp_path / "state.pt")
    shutil.copy(rgb.parents[1] / "vocab.txt", tmp_path)
    error = refused(command, tmp_path / "state.pt", rgb, KeyMismatchError)
    assert "put its config.json into the same folder" in str(error)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 1790000000\n"
OTHER_FILES = {
    "empty": (b"", "empty (0 bytes)"),
    "text": (b"just words, not weights\n", "neither a safetensors nor a torch file"),
    "page": (b"<!DOCTYPE html><title>404</title>", "neither a safetensors nor a torch file"),
    "LFS pointer": (LFS_POINTER, "Git LFS pointer"),
    "picture": (image_bytes("PNG"), "neither a safetensors nor a torch file"),
    "zip of something else": (b"PK\x03\x04" + b"\1" * 100, "not saved by torch"),
    "pickle of text": (pickle.dumps("weights"), "not saved by torch"),
}


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_other_than_checkpoints_are_reported(command, workdir, rgb, kind, name):
    content, reason = OTHER_FILES[kind]
    (workdir / name).write_bytes(content)
    assert reason in str(refused(command, workdir / name, rgb))


def saved(state: dict, path: Path, form: str) -> Path:
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_every_format_loads_and_truncated_files_are_refused(command, model, state, workdir, rgb, form):
    whole = saved(state, workdir / "whole", form)
    data = whole.read_bytes()
    assert (data[:2] == b"PK") == (form == "zip")
    for name in (
        "whole",
        "whole.pt",
        "whole.safetensors",
    ):  # the format depends on the content, not on the name
        whole = whole.rename(workdir / name)
        assert RM.load(whole, device="cpu").score(PROMPT, rgb) == model.score(PROMPT, rgb)
    cut = workdir / "cut"
    for length in (1, 9, 40, 1000, len(data) // 3, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"Cannot load '.*cut': "):
            RM.load(cut, device="cpu")
    refused(command, cut, rgb)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damaged_checkpoints_only_raise_checkpoint_errors(workdir, form):
    data = saved({"a": torch.ones(300), "b": torch.zeros(20)}, workdir / "whole", form).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for at in random.integers(0, min(1200, len(data)), 3):
            damaged[at] = random.integers(256)
        (workdir / "damaged").write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(CheckpointError):  # an undamaged file raises it too: it does not match
                RM.load(workdir / "damaged", device="cpu")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"model": {}}, {"a": 1, "b": torch.ones(1)}, {1: torch.ones(1)}], ids=str
)
def test_torch_files_without_weights_are_reported(command, workdir, rgb, content):
    torch.save(content, workdir / "state.pt")
    refused(command, workdir / "state.pt", rgb)


class Touch:
    """An object that creates a file when it is unpickled unsafely."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'echo > "{self.marker}"',)


@pytest.mark.parametrize(
    "form", ["pickle 0", "pickle 2", "pickle 4", "pickle 5", "zip", "legacy", "zip, nested"]
)
def test_code_in_a_checkpoint_is_refused_and_not_run(command, state, workdir, rgb, form):
    marker = workdir / "marker"
    path = workdir / "state.pt"
    bait = (
        {**state, "extra": Touch(marker)}
        if form != "zip, nested"
        else {"model": state, "args": [Touch(marker)]}
    )
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"extra": Touch(marker)}, protocol=int(form[-1])))
        pickle.loads(path.read_bytes())
        assert marker.exists()  # unsafe unpickling runs the code
        marker.unlink()
    else:
        torch.save(bait, path, _use_new_zipfile_serialization=form != "legacy")
    message = str(refused(command, path, rgb))
    assert not marker.exists()
    if form not in ("pickle 0", "pickle 4", "pickle 5"):  # torch does not write these
        assert "contains code besides weights" in message
        assert "no code was executed" in message
        assert "system" in message
    assert "weights_only" not in message  # no advice to load the file unsafely
    with pytest.raises(CheckpointError):
        RM.load_score(path, device="cpu")
    assert command("convert", path, workdir / "out").returncode == 2
    assert not marker.exists()
    assert not (workdir / "out").exists()


# Configurations, folders, names


def changed_config(parity: Path, key: str, value) -> dict:
    config = json.loads((parity / "config.json").read_text())
    (config["med_config"] if key.startswith("med.") else config)[key.removeprefix("med.")] = value
    return config


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", '"tiny"', b"\xff\xfe\x00"], ids=repr)
def test_a_config_that_is_not_an_object_is_reported(command, state, workdir, rgb, text):
    torch.save(state, workdir / "state.pt")
    (workdir / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(CheckpointError, match=r"config\.json('|:)"):
        RM.load(workdir / "state.pt", device="cpu")
    done = command("rank", PROMPT, rgb, "--model", workdir / "state.pt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "config.json" in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("image_sise", 48, r"unknown keys \['image_sise'\]\. Known keys are .*'image_size'"),
        ("image_size", "48", "image_size must be a whole number, got '48'"),
        ("image_size", 48.5, "image_size must be a whole number, got 48.5"),
        ("image_size", None, "image_size must be a whole number, got None"),
        ("image_size", True, "image_size must be a whole number, got True"),
        ("image_size", -48, "image_size must be at least 1, got -48"),
        ("patch_size", 0, "patch_size must be at least 1, got 0"),
        ("vision_heads", 3, "a width of 64 is not divisible by 3 attention heads"),
        ("vision_qkv_bias", "no", "vision_qkv_bias must be true or false, got 'no'"),
        ("reward_mean", "0.1", "reward_mean must be a number, got '0.1'"),
        ("reward_mlp", 1024, "reward_mlp must be a list of numbers, got 1024"),
        ("reward_mlp", "1024", "reward_mlp must be a list of numbers, got '1024'"),
        ("reward_mlp", [32, "a"], "reward_mlp must be a whole number, got 'a'"),
        ("pixel_mean", [0.5, 0.5], "pixel_mean must be a list of 3 numbers"),
        ("max_length", 1, "max_length must be 2 to 512 tokens, got 1"),
        ("max_length", 513, "max_length must be 2 to 512 tokens, got 513"),
        ("score_quantiles", {"values": [0.0]}, "must be null or have 'values' and 'source'"),
        (
            "score_quantiles",
            {"values": ["low"], "source": "x"},
            r"must have finite numbers in ascending order, got \['low'\]",
        ),
        ("med_config", "med_config.json", "med_config must be a JSON object"),
        (
            "med.hidden_size",
            "32",
            "hidden_size must be a whole number, got '32'",
        ),
        (
            "med.num_attention_heads",
            5,
            "a width of 32 is not divisible by 5 attention heads",
        ),
        ("med.hidden_act", "relu", "hidden_act='relu' is not implemented. Use 'gelu'"),
    ],
)
def test_a_wrong_value_in_the_config_is_reported(parity, state, workdir, key, value, reason):
    torch.save(state, workdir / "state.pt")
    (workdir / "config.json").write_text(json.dumps(changed_config(parity, key, value)))
    part = "med_config of " if key.startswith("med.") else ""
    with pytest.raises(CheckpointError, match=rf"^Cannot use {part}'.*config\.json': .*{reason}"):
        RM.load(workdir / "state.pt", device="cpu")


def test_med_config_is_checked(parity, workdir, state):
    torch.save(state, workdir / "state.pt")
    with pytest.raises(CheckpointError, match=r"Cannot read med_config from '.*none\.json': no such file"):
        RM.load(workdir / "state.pt", device="cpu", med_config=workdir / "none.json")
    with pytest.raises(
        CheckpointError, match="Cannot use med_config: hidden_size must be a whole number, got None"
    ):
        RM.load(workdir / "state.pt", device="cpu", med_config={"hidden_size": None})


@pytest.mark.slow
def test_an_incomplete_folder_is_reported(run, folder, rgb, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"empty.model\.safetensors': no such file"):
        RM.load(empty, device="cpu")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for file in copy.glob("*token*"):
        file.unlink()
    nothing = tmp_path / "downloads"
    with pytest.raises(RM.RewardCoreError, match=r"vocab\.txt"):
        RM.load(copy, "cpu", nothing, local_files_only=True)
    done = run("rank", PROMPT, rgb, "--model", copy, env={"HF_HOME": str(nothing)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "vocab.txt" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [-1, 1])
def test_another_vocabulary_is_refused(command, parity, state, workdir, rgb, words):
    torch.save(state, workdir / "state.pt")
    lines = (parity / "vocab.txt").read_text(encoding="utf-8").splitlines()
    lines = lines[:words] if words < 0 else [*lines, "word"]
    (workdir / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    error = refused(command, workdir / "state.pt", rgb)
    assert f"the model has 300 tokens, but its tokenizer has {300 + words}" in str(error)


def test_a_broken_tokenizer_is_reported(folder, workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"Cannot read a tokenizer from '.*tokenizer\.json'"):
        RM.load(copy, device="cpu")
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").write_text("a\nred\nhouse\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt' as BERT vocabulary: .*\[CLS\]"):
        RM.load(copy, device="cpu")
    (copy / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"Cannot read a vocabulary from '.*vocab\.txt'"):
        RM.load(copy, device="cpu")


def test_a_saved_folder_loads_as_the_family_in_its_config(folder, tmp_path):
    assert isinstance(RM.load_score(folder, device="cpu"), RM.RewardModel)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "blip-cosine"}))
    with pytest.raises(CheckpointError, match="Known keys are"):  # BLIP has no head
        RM.load(copy, device="cpu")
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    with pytest.raises(
        CheckpointError, match=r"no scorer has model_type 'clip'.*--model NAME --files FOLDER"
    ):
        RM.load(copy, device="cpu")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ImageReward-v2", "Did you mean 'ImageReward-v1.0'"),
        ("hps2.1", "Did you mean 'HPSv2.1'"),
        ("./none", "Known names: ImageReward-v1.0, tiny, tiny-judge, CLIP,"),
        ("none.pt", "Known names"),
        ("a/none.safetensors", "Known names"),
        ("", "Known names"),
    ],
)
def test_the_error_for_an_unknown_name_suggests_known_ones(name, hint):
    for method in (RM.load, RM.load_score):
        with pytest.raises(InputError, match=re.escape(hint)) as caught:
            method(name)
        assert f"Cannot find the model: {name!r} is" in str(caught.value)


def test_unknown_options_are_reported_before_anything_is_read(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for method in (RM.load, RM.load_score):
        with pytest.raises(
            InputError, match="Cannot use precision 'half': it must be one of 'exact', 'fast', 'int8', 'auto'"
        ):
            method(tmp_path, precision="half")
        with pytest.raises(InputError, match="Cannot use device 'toaster'"):
            method(tmp_path, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="Cannot use device 'cuda'"):
            RM.load(tmp_path, device="cuda")


def test_half_of_a_saved_folder_is_reported(command, folder, rgb, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    save_file({key: value for key, value in list(weights.items())[::2]}, copy / "model.safetensors")
    error = refused(command, copy / "model.safetensors", rgb, KeyMismatchError)
    assert sorted(error.missing) == sorted(list(weights)[1::2])
    config = replace(RM.load(folder, device="cpu").config, reward_mean=0.5).to_dict()
    shutil.copy(folder / "model.safetensors", copy)
    (copy / "config.json").write_text(json.dumps(config))
    assert RM.load(copy, device="cpu").config.reward_mean == 0.5


# Errors in other processes


def test_errors_keep_their_type_across_processes():
    """multiprocessing, data loaders and Ray pickle errors."""
    for error in (
        InputError("no images"),
        ImageError("a.png", "truncated"),
        ImageNotFoundError("a.png", "no such file"),
        KeyMismatchError("a folder", ["a"], ["b"], [("c", (1,), (2,))], hint="another model?"),
        MissingExtraError("ray", "Ray"),
        HubError("no network"),
        DiskFullError("no room"),
    ):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


def test_tensors_with_levels_0_to_255_are_refused(model):
    pixels = torch.rand(1, 3, 48, 48)
    with pytest.raises(InputError, match=r"in \[0, 1\], got values up to 2\d\d.* Divide levels"):
        model.rewards_from_pixels(pixels * 255, ["a dog"])
    over = model.rewards_from_pixels(pixels * 1.2, ["a dog"])  # as decoders overshoot
    assert torch.isfinite(over).all()
    refuse_levels(
        torch.vmap(lambda image: refuse_levels(image) or image)(pixels)
    )  # values cannot be read there


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (np.zeros((9, 9, 3), np.uint8), "PIL.Image.fromarray"),
        (torch.zeros(3, 9, 9), "rewards_from_pixels"),
        (b"\x89PNG", "PIL.Image.open"),
    ],
    ids=["array", "tensor", "bytes"],
)
def test_images_of_other_types_are_refused_with_the_call_that_takes_them(model, image, advice):
    with pytest.raises(ImageError, match=advice):
        model.score(PROMPT, image)
    with pytest.raises(ImageError, match=advice):
        model.score_pairs([PROMPT], [image])
    if not isinstance(image, bytes):
        with pytest.raises(InputError, match=advice):
            model.score_pairs([PROMPT], image[None])

"""Scores written into real files of every format, without other changes."""

import io
import json
import os
import re
import stat
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin
from tagged_images import (
    INFOTEXT,
    OTHER,
    PROMPT,
    changed_parts,
    frames,
    indexed_images,
    jpeg_bytes,
    parts,
    pixels,
    sample_image,
    save,
    segment,
    several_images,
    user_comment,
)

from reward_core.errors import ImageError, ImageNotFoundError, InputError
from reward_core.metadata import (
    SCORE_KEY,
    read_prompt,
    read_score,
    read_score_keys,
    read_stored_score,
    read_texts,
    write_score,
)

KINDS = [(".png", {}), (".jpg", {"quality": 90}), (".webp", {"lossless": True}), (".webp", {"quality": 80})]
IDS = ["png", "jpg", "webp-lossless", "webp"]


@pytest.mark.parametrize(("suffix", "options"), KINDS, ids=IDS)
def test_the_score_is_added_to_the_end_of_the_webui_settings(tmp_path, suffix, options):
    path = save(tmp_path / f"a{suffix}", {"parameters": INFOTEXT}, **options)
    before, old_pixels = parts(path), pixels(path)
    write_score(path, SCORE_KEY, 0.58123)
    name = "parameters" if suffix == ".png" else "UserComment"
    assert read_texts(path)[name] == INFOTEXT + ", ImageReward Score: 0.5812"
    removed, added = changed_parts(before, parts(path))
    assert len(removed) == len(added) == 1  # only the chunk of the text
    assert pixels(path) == old_pixels
    with Image.open(path) as image:  # as other programs read it
        if suffix == ".png":
            assert image.info["parameters"].endswith("Version: 1.10, ImageReward Score: 0.5812")
        else:
            raw = image.getexif().get_ifd(0x8769)[0x9286]
            assert raw[8:].decode("utf-16-be").endswith("Version: 1.10, ImageReward Score: 0.5812")
    size = path.stat().st_size
    for score in (-1.25, 0.5, -0.25, 0.58123):  # an old value is replaced, so the file does not grow
        write_score(path, SCORE_KEY, score)
        assert read_texts(path)[name] == INFOTEXT + f", ImageReward Score: {score:.4f}"
        assert read_score(path, SCORE_KEY) == pytest.approx(score, abs=1e-4)
    assert path.stat().st_size == size
    assert read_prompt(path).text == PROMPT


@pytest.mark.parametrize(("suffix", "options"), KINDS, ids=IDS)
def test_images_without_settings_get_a_new_text(tmp_path, suffix, options):
    path = save(tmp_path / f"a{suffix}", **options)
    before, old_pixels = parts(path), pixels(path)
    assert read_score(path, SCORE_KEY) is None
    write_score(path, SCORE_KEY, -0.5)
    removed, added = changed_parts(before, parts(path))
    assert [kind for kind, _ in added] == {
        ".png": [b"tEXt"], ".jpg": [0xE1], ".webp": [b"VP8X", b"XMP "],
    }[suffix]  # fmt: skip
    assert not [kind for kind, _ in removed if kind != b"VP8X"]
    assert pixels(path) == old_pixels
    assert read_score(path, SCORE_KEY) == -0.5
    write_score(path, SCORE_KEY, 1.25)
    write_score(path, "Other Score", 2)
    assert (read_score(path, SCORE_KEY), read_score(path, "Other Score")) == (1.25, 2)
    with Image.open(path) as image:
        image.load()
        assert image.size == (40, 24)
        if suffix == ".png":
            assert image.info[SCORE_KEY] == "1.2500"
        else:
            xmp = image.info["xmp"]
            assert xmp.count(b"rewardcore:ImageReward-Score=") == 1
            root = __import__("xml.etree.ElementTree").etree.ElementTree.fromstring(xmp.decode())
            descriptions = list(root[0])
            assert descriptions[0].attrib["{urn:reward-core:1.0/}ImageReward-Score"] == "1.2500"


def test_transparent_webp_without_a_header_keeps_its_transparency(tmp_path):
    image = sample_image().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for name, options in (("a.webp", {"lossless": True}), ("b.webp", {})):
        image.save(tmp_path / name, **options)
        before = pixels(tmp_path / name)
        write_score(tmp_path / name, SCORE_KEY, 0.1)
        assert pixels(tmp_path / name) == before
        with Image.open(tmp_path / name) as changed:
            assert changed.mode == "RGBA"


def test_other_contents_of_a_file_are_preserved(tmp_path):
    profile = Image.new("RGB", (1, 1)).info.get("icc_profile") or b"\0" * 128 + b"profile"
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        b'<rdf:li xml:lang="x-default">a blue &amp; red ring</rdf:li></rdf:Alt></dc:description>'
        b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    exif = user_comment("a camera's", extra=[(0x010F, "ACME"), (0x0112, 6)])
    for name in ("a.jpg", "a.webp"):
        path = tmp_path / name
        extra = {"comment": b"hello", "progressive": True} if name == "a.jpg" else {}
        sample_image().save(path, icc_profile=profile, exif=exif, xmp=xmp, **extra)
        path.write_bytes(path.read_bytes() + b"trailing bytes")
        # Bytes after a RIFF container are not chunks.
        before = path.read_bytes() if name == "a.webp" else parts(path)
        assert read_prompt(path).text == "a blue & red ring"
        write_score(path, SCORE_KEY, 0.3)
        assert path.read_bytes().endswith(b"trailing bytes")
        assert b"a blue &amp; red ring" in path.read_bytes()
        if name == "a.jpg":
            removed, added = changed_parts(before, parts(path))
            assert len(removed) == len(added) == 1
        else:
            after = path.read_bytes()
            offset = before.index(b"XMP ")
            assert after[12:offset] == before[12:offset]
        with Image.open(path) as image:
            assert image.info["icc_profile"] == profile
            assert image.getexif()[0x010F] == "ACME"
            assert image.getexif()[0x0112] == 6
        assert read_score(path, SCORE_KEY) == 0.3


def test_texts_in_every_kind_of_png_chunk(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("zipped", "z" * 500, zip=True)
    info.add_itxt("parameters", INFOTEXT.replace("red", OTHER), "en", "Parameter", zip=True)
    sample_image().save(tmp_path / "a.png", pnginfo=info, dpi=(72, 72), transparency=(1, 2, 3))
    before = parts(tmp_path / "a.png")
    write_score(tmp_path / "a.png", SCORE_KEY, 0.3)
    (removed,), (added,) = changed_parts(before, parts(tmp_path / "a.png"))
    assert removed[0] == added[0] == b"iTXt"
    with Image.open(tmp_path / "a.png") as image:
        text = image.info["parameters"]
        assert (text.lang, text.tkey) == ("en", "Parameter")
        assert OTHER in text
        assert text.endswith("ImageReward Score: 0.3000")
    assert OTHER in read_prompt(tmp_path / "a.png").text
    # Forks of AUTOMATIC1111 write compressed texts.
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", INFOTEXT, zip=True)
    sample_image().save(tmp_path / "b.png", pnginfo=info)
    write_score(tmp_path / "b.png", SCORE_KEY, 0.3)
    assert parts(tmp_path / "b.png")[0][1][0] == b"zTXt"
    assert read_score(tmp_path / "b.png", SCORE_KEY) == 0.3


def test_a_score_in_the_middle_of_the_settings_moves_to_their_end(tmp_path):
    text = INFOTEXT.replace("Seed: 1,", "Seed: 1, ImageReward Score: 9.0000,")
    path = save(tmp_path / "a.png", {"parameters": text})
    assert read_score(path, SCORE_KEY) == 9
    write_score(path, SCORE_KEY, 0.5)
    assert read_texts(path)["parameters"] == INFOTEXT + ", ImageReward Score: 0.5000"


def test_a_score_written_by_the_comfyui_node_is_replaced_in_place(tmp_path):
    path = save(tmp_path / "a.png", {SCORE_KEY: "0.1234", "prompt": "{}", "parameters": INFOTEXT})
    write_score(path, SCORE_KEY, 0.5)
    texts = read_texts(path)
    assert texts[SCORE_KEY] == "0.5000"
    assert texts["parameters"].endswith("ImageReward Score: 0.5000")


def test_comments_in_other_encodings(tmp_path):
    for i, (encoding, code) in enumerate(
        [
            ("utf-16-le", b"UNICODE\0"),
            ("ascii", b"ASCII\0\0\0"),
            ("utf-8", bytes(8)),
            ("utf-16-be", b"UNICODE\0"),
        ]
    ):
        text = INFOTEXT if encoding == "ascii" else INFOTEXT.replace("red", OTHER)
        path = tmp_path / f"{i}.jpg"
        sample_image().save(path, exif=user_comment(text, encoding, code, extra=[(0x010E, "behind it")]))
        write_score(path, SCORE_KEY, 0.5)
        assert read_texts(path)["UserComment"] == text + ", ImageReward Score: 0.5000", encoding
        with Image.open(path) as image:
            assert image.getexif().get_ifd(0x8769)[0x9286].startswith(code)
            assert image.getexif()[0x010E] == "behind it"


def test_times_permissions_and_links_are_preserved(tmp_path):
    path = save(tmp_path / "a.png", {"parameters": INFOTEXT})
    os.chmod(path, 0o640)
    os.utime(path, (1_000_000_000, 1_100_000_000))
    (tmp_path / "link.png").symlink_to(path)
    write_score(tmp_path / "link.png", SCORE_KEY, 0.5)
    assert (tmp_path / "link.png").is_symlink()
    assert path.stat().st_mtime == 1_100_000_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert read_score(path, SCORE_KEY) == 0.5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "link.png"]


def damaged(tmp_path):
    """Return files that must be refused, with a part of the reason."""
    png, jpg, webp = (
        save(tmp_path / f"whole{s}", {"parameters": INFOTEXT}) for s in (".png", ".jpg", ".webp")
    )
    frames = [sample_image(), sample_image().rotate(90)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    contents = {
        "cut.png": (png.read_bytes()[:-30], "truncated"),
        "cut.jpg": (jpg.read_bytes()[:100], "truncated"),
        "cut.webp": (webp.read_bytes()[:-30], "truncated"),
        "empty.png": (b"", "empty"),
        "text.png": (b"no picture at all", "PNG, JPEG and WebP"),
        "exif.jpg": (jpg.read_bytes().replace(b"MM\0*\0\0\0\x08", b"MM\0*\0\xff\0\x08"), "cut off"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    words = {name: word for name, (_, word) in contents.items()}
    return {**words, "moving.png": "animation", "moving.webp": "animation"}


def test_damaged_and_animated_files_are_refused_and_unchanged(tmp_path):
    for name, word in damaged(tmp_path).items():
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ImageError, match=word):
            write_score(tmp_path / name, SCORE_KEY, 0.5)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(ImageNotFoundError, match="no such file"):
        write_score(tmp_path / "none.png", SCORE_KEY, 0.5)
    path = save(tmp_path / "fixed.png")
    path.chmod(0o444)
    with pytest.raises(ImageError, match="read-only"):
        write_score(path, SCORE_KEY, 0.5)
    big = tmp_path / "full.jpg"
    sample_image().save(big, exif=user_comment("x" * 32_630 + "\n" + INFOTEXT.split("\n")[-1]))
    with pytest.raises(ImageError, match="no room"):
        write_score(big, SCORE_KEY, 0.5)
    assert not list(tmp_path.glob(".*"))


SWARM = json.dumps({"prompt": "scene: harbour, light: golden, lens: 35mm", "steps": 30})
CIVITAI = json.dumps({"prompt": "a", "infotext": "a Steps: 20, Sampler: Euler, Seed: 1"})


@pytest.mark.parametrize("text", [SWARM, CIVITAI, "subject: cat, style: oil painting, mood: dark"])
def test_text_that_only_resembles_settings_is_unchanged(tmp_path, text):
    path = save(tmp_path / "a.png", {"parameters": text})
    before = read_prompt(path)
    write_score(path, SCORE_KEY, 0.5)
    assert read_texts(path) == {"parameters": text, SCORE_KEY: "0.5000"}
    assert read_prompt(path) == before
    sample_image().save(tmp_path / "a.jpg", exif=user_comment(text))
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.5)
    assert read_texts(tmp_path / "a.jpg")["UserComment"] == text
    assert read_score(tmp_path / "a.jpg", SCORE_KEY) == 0.5


def test_settings_with_trailing_text_or_without_a_prompt(tmp_path):
    path = save(tmp_path / "a.png", {"parameters": INFOTEXT + "\nTemplate: a {red|blue} house"})
    assert read_prompt(path).text == PROMPT
    write_score(path, SCORE_KEY, 0.5)
    assert (
        read_texts(path)["parameters"]
        == INFOTEXT + ", ImageReward Score: 0.5000\nTemplate: a {red|blue} house"
    )
    settings = "Steps: 20, Sampler: Euler, Seed: 1"
    for text in ("Negative prompt: bad\n" + settings, "\n" + settings, "Negative prompt: bad"):
        with pytest.raises(ImageError, match="empty"):
            read_prompt(save(tmp_path / "b.png", {"parameters": text}))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("texts", [{}, {"parameters": INFOTEXT}], ids=["plain", "settings"])
def test_scores_with_different_keys_do_not_overwrite_each_other(tmp_path, suffix, texts):
    path = save(tmp_path / f"a{suffix}", texts)
    keys = [
        "My Score",
        "MyScore",
        "My-Score",
        "HPSv2.1",
        "ImageReward-v1.0",
        "Score (tiny)",
        "a/b",
        "a_2F_b",
        "2nd",
    ]
    for _ in range(2):
        for i, key in enumerate(keys):
            write_score(path, key, i)
        size = path.stat().st_size
    assert [read_score(path, key) for key in keys] == list(range(len(keys)))
    write_score(path, keys[0], 0)
    assert path.stat().st_size == size
    if suffix != ".png" and not texts:
        with Image.open(path) as image:
            __import__("xml.etree.ElementTree").etree.ElementTree.fromstring(image.info["xmp"].decode())
    for key in ("评分", "a, b", "a: b", "", " a", "x" * 80, "a\nb"):
        with pytest.raises(InputError, match="name of a score"):
            write_score(path, key, 1)


def test_a_png_converted_from_a_tagged_jpeg(tmp_path):
    sample_image().save(tmp_path / "a.jpg", exif=user_comment(INFOTEXT))
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.1)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png", exif=image.info["exif"])
    assert read_score(tmp_path / "a.png", SCORE_KEY) == pytest.approx(0.1)
    write_score(tmp_path / "a.png", SCORE_KEY, 0.9)
    assert read_score(tmp_path / "a.png", SCORE_KEY) == pytest.approx(0.9)


def test_maker_notes_with_outside_offsets_are_ignored(tmp_path):
    exif = user_comment(INFOTEXT)
    exif.get_ifd(0x8769)[0x927C] = b"0123456789"
    sample_image().save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    for order in ("<", ">"):
        found = data.find(struct.pack(order + "HHI", 0x927C, 7, 10))
        if found >= 0:
            data = data[: found + 8] + b"\x7f" * 4 + data[found + 12 :]
    (tmp_path / "a.jpg").write_bytes(data)
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.5)
    assert read_score(tmp_path / "a.jpg", SCORE_KEY) == 0.5


def test_a_file_name_of_the_maximum_length(tmp_path):
    path = save(tmp_path / ("猫" * 83 + ".png"))
    write_score(path, SCORE_KEY, 0.5)
    assert read_score(path, SCORE_KEY) == 0.5


@pytest.mark.slow
def test_a_compressed_text_bomb_is_not_read(tmp_path):
    path = save(tmp_path / "a.png")
    data = path.read_bytes()
    bomb = b"parameters\0\0" + zlib.compress(b"a" * (65 * 1024 * 1024), 9)
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    path.write_bytes(data[:33] + chunk + data[33:])
    assert "parameters" not in read_texts(path)
    write_score(path, SCORE_KEY, 0.5)
    assert chunk in path.read_bytes()


def test_the_file_is_complete_at_every_moment(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", {"parameters": INFOTEXT})
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImageError, match="No space left"):
        write_score(path, SCORE_KEY, 0.5)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_progressive_and_cmyk_jpegs(tmp_path):
    for name, image, options in (
        ("a.jpg", sample_image().convert("CMYK"), {}),
        ("b.jpg", sample_image().convert("L"), {"progressive": True}),
    ):
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            before = opened.tobytes()
        write_score(tmp_path / name, SCORE_KEY, 0.5)
        with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as opened:
            assert opened.tobytes() == before


XMP_PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">%s'
    b"</rdf:RDF></x:xmpmeta>"
)
PHONE = b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="phone"/>'


def xmp_segment(content=PHONE):
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP_PACKET % content)


def exif_segment():
    return segment(0xE1, b"Exif\0\0" + user_comment(INFOTEXT).tobytes().removeprefix(b"Exif\0\0"))


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("offset", ["before", "behind", "both"])
@pytest.mark.parametrize("what", ["xmp", "exif", "none"])
@pytest.mark.parametrize("count", [2, 3])
def test_every_image_of_a_jpeg_stays_readable(tmp_path, order, offset, what, count):
    own = {"xmp": xmp_segment, "exif": exif_segment, "none": bytes}[what]()
    other = {"xmp": exif_segment, "exif": xmp_segment, "none": bytes}[what]()
    around = {"before": (own, b""), "behind": (b"", own), "both": (own, other)}[offset]
    path = tmp_path / "a.jpg"
    images = several_images(path, order, *around, count=count, trailer=b"a video")
    before = frames(path)
    assert indexed_images(path) == images
    assert len(before) == count
    for score in (0.5, -1.25, 0.25):
        write_score(path, SCORE_KEY, score, model="mine", prompt="a red circle")
        assert read_score(path, SCORE_KEY) == score
        assert frames(path) == before
        first, *others = indexed_images(path)
        assert others == images[1:]
        assert path.read_bytes() == first + b"".join(others) + b"a video"


@pytest.mark.parametrize(
    "options", [{}, {"xmp": XMP_PACKET % PHONE}, {"exif": user_comment(INFOTEXT).tobytes()}]
)
def test_every_image_of_a_file_that_pillow_saved_stays_readable(tmp_path, options):
    path, more = tmp_path / "a.jpg", [sample_image().rotate(90), sample_image().resize((64, 64))]
    sample_image().save(path, "MPO", save_all=True, append_images=more, **options)
    before, images = frames(path), indexed_images(path)
    write_score(path, SCORE_KEY, 0.5)
    assert len(before) == 3
    assert frames(path) == before
    assert indexed_images(path)[1:] == images[1:]
    assert b"".join(indexed_images(path)) == path.read_bytes()


def test_an_index_pointing_outside_is_refused_but_a_truncated_image_is_not(tmp_path):
    path = tmp_path / "a.jpg"
    first, second = several_images(path)
    path.write_bytes(first)  # another program removed the second image
    write_score(path, SCORE_KEY, 0.5)
    assert read_score(path, SCORE_KEY) == 0.5
    for content in (first + b"..." + second, first.replace(b"II*\0", b"II??") + second):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="MPF index"):
            write_score(path, SCORE_KEY, 0.5)
        assert path.read_bytes() == content


ITEM = 'Item:Mime="image/jpeg" Item:Semantic="Primary" Item:Length="%s"'
CONTAINERS = {
    "attributes": f'<rdf:li rdf:parseType="Resource"><Container:Item {ITEM}/></rdf:li>',
    "elements": '<rdf:li rdf:parseType="Resource"><Container:Item rdf:parseType="Resource">'
    "<Item:Semantic>Primary</Item:Semantic><Item:Length>%s</Item:Length></Container:Item></rdf:li>",
}


@pytest.mark.parametrize("form", CONTAINERS)
@pytest.mark.parametrize("settings", [False, True])
def test_the_image_length_of_a_motion_photo_stays_correct(tmp_path, form, settings):
    path, video = tmp_path / "a.jpg", b"\0\0\0\x18ftypmp42" + b"v" * 500
    directory = (
        '<rdf:Description xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"><Container:Directory><rdf:Seq>'
        + CONTAINERS[form]
        + '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="MotionPhoto" Item:Length="512"/>'
        "</rdf:li></rdf:Seq></Container:Directory></rdf:Description>"
    )
    image = jpeg_bytes((40, 24), 1, quality=10)
    start = image[:20] + (exif_segment() if settings else b"")
    for length in (6000, 9760, 9990):  # the last one gets one more digit
        container = xmp_segment(directory.replace("%s", str(length)).encode())
        padding = length - len(start + container + image[20:]) - 4
        content = start + container + segment(0xFE, b"." * padding) + image[20:]
        assert len(content) == length
        path.write_bytes(content + video)
        write_score(path, SCORE_KEY, 0.5)
        grown = path.read_bytes().removesuffix(video)
        primary = re.search(rb"Primary.*?:Length[=>]\"?(\d+).*?Item:Length=\"(\d+)", grown)
        assert (int(primary[1]), int(primary[2])) == (len(grown), 512)
        assert len(grown) > length
        assert grown.endswith(segment(0xFE, b"." * padding) + image[20:])


def idot_png(path, texts=b""):
    """Return a PNG of Apple, whose iDOT chunk stores the distance to each half's pixels."""
    sample_image().save(path)
    data = path.read_bytes()
    pixels_at = data.index(b"IDAT") - 4
    content = b"iDOT" + struct.pack(">7I", 2, 0, 12, 40, 12, 12, 40)
    chunk = struct.pack(">I", 28) + content + struct.pack(">I", zlib.crc32(content))
    path.write_bytes(data[:pixels_at] + texts + chunk + data[pixels_at:])
    return path


def test_apple_offsets_stay_valid(tmp_path):
    path = idot_png(tmp_path / "a.png")
    for score in (0.5, -12.25):
        write_score(path, SCORE_KEY, score, model="mine", prompt="a red circle")
        data = path.read_bytes()
        assert data.index(b"IDAT") - data.index(b"iDOT") == 40
        assert read_score(path, SCORE_KEY) == score


def test_signed_files_are_refused_and_unchanged(tmp_path):
    jumbf = b"\0\0\0\x1ejumb\0\0\0\x16jumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0"
    jpg, png, webp = (save(tmp_path / f"a{suffix}") for suffix in (".jpg", ".png", ".webp"))
    data = jpg.read_bytes()
    jpg.write_bytes(data[:20] + segment(0xEB, b"JP\0\1\0\0\0\1" + jumbf) + data[20:])
    data, chunk = png.read_bytes(), b"caBX" + jumbf
    chunk = struct.pack(">I", len(jumbf)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png.write_bytes(data[:33] + chunk + data[33:])
    data = webp.read_bytes() + b"C2PA" + struct.pack("<I", len(jumbf)) + jumbf + b"\0" * (len(jumbf) % 2)
    webp.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    for path in (jpg, png, webp):
        before = path.read_bytes()
        with pytest.raises(ImageError, match=r"\(C2PA\).*--scores"):
            write_score(path, SCORE_KEY, 0.5)
        assert path.read_bytes() == before
    other = save(tmp_path / "b.jpg")  # JUMBF without a signature
    data = other.read_bytes()
    other.write_bytes(
        data[:20] + segment(0xEB, b"JP\0\1\0\0\0\1" + jumbf.replace(b"c2pa", b"cert")) + data[20:]
    )
    write_score(other, SCORE_KEY, 0.5)
    assert read_score(other, SCORE_KEY) == 0.5


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_neither_written_nor_read(tmp_path, score):
    path = save(tmp_path / "a.png", {"My Score": str(score)})
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"a.png.*{score}"):
        write_score(path, SCORE_KEY, score)
    assert path.read_bytes() == before
    with pytest.raises(ImageError, match=f"a.png.*My Score.*{score}"):
        read_score(path, "My Score")
    jpg = save(tmp_path / "a.jpg", {"parameters": f"{INFOTEXT}, My Score: {score}"})
    with pytest.raises(ImageError, match=f"a.jpg.*My Score.*{score}"):
        read_score(jpg, "My Score")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("texts", [{}, {"parameters": INFOTEXT}], ids=["plain", "settings"])
def test_a_stored_score_names_its_model_and_prompt(tmp_path, suffix, texts):
    path = save(tmp_path / f"a{suffix}", texts)
    old_pixels = pixels(path)
    write_score(path, "best Score", 0.5, model="best@12ab", prompt=f'{OTHER} & <b> "x"\nsecond \x01line')
    stored = read_stored_score(path, "best Score")
    assert (stored.value, stored.model) == (0.5, "best@12ab")
    assert stored.prompt == f'{OTHER} & <b> "x" second line'
    assert read_score_keys(path) == ["best Score"]
    assert pixels(path) == old_pixels
    if texts:
        assert read_prompt(path).text == PROMPT
    if suffix != ".png":
        with Image.open(path) as image:  # valid XML
            __import__("xml.etree.ElementTree").etree.ElementTree.fromstring(image.info["xmp"].decode())
    write_score(path, "best Score", 0.25)  # of an unknown model: the old notes are no longer valid
    stored = read_stored_score(path, "best Score")
    assert (stored.value, stored.model, stored.prompt) == (0.25, "best", None)
    write_score(path, "HPSv2.1", 1, model="other")
    assert sorted(read_score_keys(path)) == ["HPSv2.1", "best Score"]


def test_a_png_converted_from_a_tagged_jpeg_ignores_old_metadata(tmp_path):
    write_score(save(tmp_path / "a.jpg"), "My Score", 0.1, model="first", prompt="a blue square")
    with Image.open(tmp_path / "a.jpg") as image:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", image.info["xmp"].decode())
        image.save(tmp_path / "a.png", pnginfo=info)
    assert read_stored_score(tmp_path / "a.png", "My Score").model == "first"
    write_score(tmp_path / "a.png", "My Score", 0.9)
    stored = read_stored_score(tmp_path / "a.png", "My Score")
    assert (stored.value, stored.model, stored.prompt) == (0.9, "My", None)

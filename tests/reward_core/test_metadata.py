"""Prompts out of real files of every form, and scores into them with every other byte in place."""

import io
import json
import os
import stat
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from reward_core.errors import ImageError, ImageNotFoundError, InputError
from reward_core.metadata import SCORE_KEY, read_prompt, read_score, read_texts, write_score
from reward_core.metadata.infotext import plain

INFOTEXT = (
    "a red circle, <lora:shapes:0.8> (very round:1.3),\nsharp\nNegative prompt: blue: yes, ugly\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8, Lora hashes: "a: 1, b: 2", Version: 1.10'
)
PROMPT = "a red circle, very round, sharp"
OTHER = "Grüße, 世界"  # no Latin-1


def picture():
    image = Image.effect_noise((40, 24), 80).convert("RGB")
    image.paste((200, 30, 60), (4, 4, 20, 20))
    return image


def user_comment(text, encoding="utf-16-be", code=b"UNICODE\0", extra=()):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = code + text.encode(encoding)
    for tag, value in extra:
        exif[tag] = value
    return exif


def save(path, texts=None, **options):
    """A picture with texts in the way its format has them."""
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for key, text in (texts or {}).items():
            if text.isascii():
                info.add_text(key, text)
            else:
                info.add_itxt(key, text, "de", key)
        picture().save(path, pnginfo=info, **options)
    else:
        picture().save(path, exif=user_comment(texts["parameters"]) if texts else Image.Exif(), **options)
    return path


def parts(path):
    """The chunks or segments of a file, taken apart by hand, and what stands behind them."""
    data, found = path.read_bytes(), []
    if path.suffix == ".png":
        place, size, tail = 8, 4, 12
    elif path.suffix == ".webp":
        place = 12
    else:
        place = 2
    while place < len(data):
        if path.suffix == ".png":
            (length,) = struct.unpack_from(">I", data, place)
            found.append((data[place + 4 : place + 8], data[place + size : place + tail + length]))
            place += 12 + length
            if found[-1][0] == b"IEND":
                break
        elif path.suffix == ".webp":
            (length,) = struct.unpack_from("<I", data, place + 4)
            found.append((data[place : place + 4], data[place + 8 : place + 8 + length]))
            place += 8 + length + length % 2
        else:
            if data[place + 1] == 0xDA:
                break
            (length,) = struct.unpack_from(">H", data, place + 2)
            found.append((data[place + 1], data[place : place + 2 + length]))
            place += 2 + length
    return found, data[place:]


def changed_parts(before, after):
    """Parts that are not in both files, in the order of the file; all others must stand in the same order."""
    (old, old_rest), (new, new_rest) = before, after
    assert old_rest == new_rest
    gone, come = [p for p in old if p not in new], [p for p in new if p not in old]
    assert [p for p in old if p in new] == [p for p in new if p in old]
    return gone, come


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGBA").tobytes()


KINDS = [(".png", {}), (".jpg", {"quality": 90}), (".webp", {"lossless": True}), (".webp", {"quality": 80})]
IDS = ["png", "jpg", "webp-lossless", "webp"]


@pytest.mark.parametrize(("suffix", "options"), KINDS, ids=IDS)
def test_the_score_is_the_last_of_the_webuis_settings(tmp_path, suffix, options):
    path = save(tmp_path / f"a{suffix}", {"parameters": INFOTEXT}, **options)
    before, old_pixels = parts(path), pixels(path)
    write_score(path, SCORE_KEY, 0.58123)
    name = "parameters" if suffix == ".png" else "UserComment"
    assert read_texts(path)[name] == INFOTEXT + ", ImageReward Score: 0.5812"
    gone, come = changed_parts(before, parts(path))
    assert len(gone) == len(come) == 1  # the text's own part
    assert pixels(path) == old_pixels
    with Image.open(path) as image:  # as others read it
        if suffix == ".png":
            assert image.info["parameters"].endswith("Version: 1.10, ImageReward Score: 0.5812")
        else:
            raw = image.getexif().get_ifd(0x8769)[0x9286]
            assert raw[8:].decode("utf-16-be").endswith("Version: 1.10, ImageReward Score: 0.5812")
    size = path.stat().st_size
    for score in (-1.25, 0.5, -0.25, 0.58123):  # an old value is replaced, and the file does not grow by it
        write_score(path, SCORE_KEY, score)
        assert read_texts(path)[name] == INFOTEXT + f", ImageReward Score: {score:.4f}"
        assert read_score(path, SCORE_KEY) == pytest.approx(score, abs=1e-4)
    assert path.stat().st_size == size
    assert read_prompt(path).text == PROMPT


@pytest.mark.parametrize(("suffix", "options"), KINDS, ids=IDS)
def test_pictures_without_settings_get_a_text_of_their_own(tmp_path, suffix, options):
    path = save(tmp_path / f"a{suffix}", **options)
    before, old_pixels = parts(path), pixels(path)
    assert read_score(path, SCORE_KEY) is None
    write_score(path, SCORE_KEY, -0.5)
    gone, come = changed_parts(before, parts(path))
    assert [kind for kind, _ in come] == {
        ".png": [b"tEXt"], ".jpg": [0xE1], ".webp": [b"VP8X", b"XMP "],
    }[suffix]  # fmt: skip
    assert not [kind for kind, _ in gone if kind != b"VP8X"]
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
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for name, options in (("a.webp", {"lossless": True}), ("b.webp", {})):
        image.save(tmp_path / name, **options)
        before = pixels(tmp_path / name)
        write_score(tmp_path / name, SCORE_KEY, 0.1)
        assert pixels(tmp_path / name) == before
        with Image.open(tmp_path / name) as changed:
            assert changed.mode == "RGBA"


def test_what_else_a_file_holds_stays(tmp_path):
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
        picture().save(path, icc_profile=profile, exif=exif, xmp=xmp, **extra)
        path.write_bytes(path.read_bytes() + b"trailing bytes")
        # What is behind a RIFF container is none of its chunks.
        before = path.read_bytes() if name == "a.webp" else parts(path)
        assert read_prompt(path).text == "a blue & red ring"
        write_score(path, SCORE_KEY, 0.3)
        assert path.read_bytes().endswith(b"trailing bytes")
        assert b"a blue &amp; red ring" in path.read_bytes()
        if name == "a.jpg":
            gone, come = changed_parts(before, parts(path))
            assert len(gone) == len(come) == 1
        else:
            after = path.read_bytes()
            place = before.index(b"XMP ")
            assert after[12:place] == before[12:place]
        with Image.open(path) as image:
            assert image.info["icc_profile"] == profile
            assert image.getexif()[0x010F] == "ACME"
            assert image.getexif()[0x0112] == 6
        assert read_score(path, SCORE_KEY) == 0.3


def test_texts_in_every_chunk_of_png(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("zipped", "z" * 500, zip=True)
    info.add_itxt("parameters", INFOTEXT.replace("red", OTHER), "en", "Parameter", zip=True)
    picture().save(tmp_path / "a.png", pnginfo=info, dpi=(72, 72), transparency=(1, 2, 3))
    before = parts(tmp_path / "a.png")
    write_score(tmp_path / "a.png", SCORE_KEY, 0.3)
    (gone,), (come,) = changed_parts(before, parts(tmp_path / "a.png"))
    assert gone[0] == come[0] == b"iTXt"
    with Image.open(tmp_path / "a.png") as image:
        text = image.info["parameters"]
        assert (text.lang, text.tkey) == ("en", "Parameter")
        assert OTHER in text
        assert text.endswith("ImageReward Score: 0.3000")
    assert OTHER in read_prompt(tmp_path / "a.png").text
    # A compressed text as AUTOMATIC1111's forks write it.
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", INFOTEXT, zip=True)
    picture().save(tmp_path / "b.png", pnginfo=info)
    write_score(tmp_path / "b.png", SCORE_KEY, 0.3)
    assert parts(tmp_path / "b.png")[0][1][0] == b"zTXt"
    assert read_score(tmp_path / "b.png", SCORE_KEY) == 0.3


def test_a_score_in_the_middle_of_the_settings_moves_to_their_end(tmp_path):
    text = INFOTEXT.replace("Seed: 1,", "Seed: 1, ImageReward Score: 9.0000,")
    path = save(tmp_path / "a.png", {"parameters": text})
    assert read_score(path, SCORE_KEY) == 9
    write_score(path, SCORE_KEY, 0.5)
    assert read_texts(path)["parameters"] == INFOTEXT + ", ImageReward Score: 0.5000"


def test_a_score_written_by_the_comfyui_node_is_replaced_where_it_is(tmp_path):
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
        picture().save(path, exif=user_comment(text, encoding, code, extra=[(0x010E, "behind it")]))
        write_score(path, SCORE_KEY, 0.5)
        assert read_texts(path)["UserComment"] == text + ", ImageReward Score: 0.5000", encoding
        with Image.open(path) as image:
            assert image.getexif().get_ifd(0x8769)[0x9286].startswith(code)
            assert image.getexif()[0x010E] == "behind it"


def test_times_and_permissions_stay_and_links_go_on_leading_there(tmp_path):
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
    """Files that must be refused, and a word of the reason."""
    png, jpg, webp = (
        save(tmp_path / f"whole{s}", {"parameters": INFOTEXT}) for s in (".png", ".jpg", ".webp")
    )
    frames = [picture(), picture().rotate(90)]
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


def test_damaged_and_animated_files_are_refused_and_left(tmp_path):
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
    picture().save(big, exif=user_comment("x" * 32_630 + "\n" + INFOTEXT.split("\n")[-1]))
    with pytest.raises(ImageError, match="no room"):
        write_score(big, SCORE_KEY, 0.5)
    assert not list(tmp_path.glob(".*"))


WANTED = "a red circle, round (or not)"
WRITTEN = "a red circle, (round:1.2) \\(or not\\)"  # as ComfyUI's encoder reads it


def graph():
    return {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["12", 0], "negative": ["7", 0],
              "latent_image": ["5", 0]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": WRITTEN,
              "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "12": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["6", 0],
               "negative": ["7", 0]}},
    }  # fmt: skip


def flux_graph():
    nodes = graph()
    del nodes["12"]
    nodes["3"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {"guider": ["22", 0], "latent_image": ["5", 0]},
    }
    nodes["22"] = {"class_type": "BasicGuider", "inputs": {"model": ["4", 0], "conditioning": ["26", 0]}}
    nodes["26"] = {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}}
    nodes["6"] = {"class_type": "CLIPTextEncodeFlux", "inputs": {"clip_l": "red", "t5xxl": ["30", 0]}}
    nodes["30"] = {"class_type": "StringConcatenate", "inputs": {"string_a": ["31", 0], "delimiter": ", ",
                   "string_b": "(round:1.2) \\(or not\\)"}}  # fmt: skip
    nodes["31"] = {"class_type": "PrimitiveString", "inputs": {"value": "a red circle"}}
    return nodes


def two_samplers():
    nodes = graph()
    nodes["40"] = {"class_type": "KSampler", "inputs": {"positive": ["6", 0], "latent_image": ["5", 0]}}
    nodes["41"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "details"}}
    nodes["3"]["inputs"] |= {"latent_image": ["40", 0], "positive": ["6", 0]}
    nodes["40"]["inputs"]["positive"] = ["41", 0]  # farther from the saved picture
    return nodes


def workflow():
    return {
        "nodes": [
            {"id": 1, "type": "SaveImage", "inputs": [{"name": "images", "link": 10}]},
            {"id": 2, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 11}]},
            {"id": 3, "type": "KSampler", "widgets_values": [1, "fixed"],
             "inputs": [{"name": "positive", "link": 12}, {"name": "negative", "link": 13}]},
            {"id": 4, "type": "Reroute", "inputs": [{"name": "", "link": 14}]},
            {"id": 5, "type": "CLIPTextEncode", "inputs": [], "widgets_values": [WRITTEN]},
            {"id": 6, "type": "CLIPTextEncode", "inputs": [{"name": "text", "widget": {"name": "text"}}],
             "widgets_values": ["ugly"]},
            {"id": 7, "type": "SaveImage", "mode": 2, "inputs": [{"name": "images", "link": 99}]},
            {"id": 8, "type": "FluxGuidance", "mode": 4, "inputs": [{"name": "conditioning", "link": 15}]},
        ],
        "links": [[10, 2, 0, 1, 0, "IMAGE"], [11, 3, 0, 2, 0, "LATENT"], [12, 4, 0, 3, 1, "CONDITIONING"],
                  [13, 6, 0, 3, 2, "CONDITIONING"], [14, 8, 0, 4, 0, "*"],
                  {"id": 15, "origin_id": 5, "origin_slot": 0, "target_id": 8}],
    }  # fmt: skip


@pytest.mark.parametrize("make", [graph, flux_graph, two_samplers])
def test_comfyuis_graph_leads_to_the_prompt(tmp_path, make):
    path = save(tmp_path / "a.png", {"prompt": json.dumps(make()), "workflow": "{}"})
    found = read_prompt(path)
    assert (found.text, found.source) == (WANTED, "prompt (ComfyUI)")
    before = parts(path)
    write_score(path, SCORE_KEY, 0.5)  # beside the graphs, not in them
    gone, come = changed_parts(before, parts(path))
    assert not gone
    assert come == [(b"tEXt", b"tEXtImageReward Score\x000.5000" + come[0][1][-4:])]


def test_comfyuis_other_forms(tmp_path):
    path = save(tmp_path / "a.png", {"workflow": json.dumps(workflow())})
    assert read_prompt(path).text == WANTED
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(graph())
    exif[0x010F] = "workflow:" + json.dumps(workflow())
    picture().save(tmp_path / "a.webp", exif=exif)
    assert read_prompt(tmp_path / "a.webp").text == WANTED
    own = save(tmp_path / "b.png", {"prompt": json.dumps(graph()), "ImageReward Prompt": '"what was scored"'})
    assert read_prompt(own).text == "what was scored"
    loader = graph()  # an extension's node that holds both texts itself
    loader["12"] = {"class_type": "Efficient Loader", "inputs": {"positive": WRITTEN, "negative": "ugly"}}
    loader["3"] = {
        "class_type": "KSampler (Efficient)",
        "inputs": {"positive": ["12", 1], "negative": ["12", 2]},
    }
    assert read_prompt(save(tmp_path / "c.png", {"prompt": json.dumps(loader)})).text == WANTED


HOUSE, SEA = {"value": "a red house"}, {"value": "by the sea"}


def encoded(text):
    return {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}}


@pytest.mark.parametrize(
    ("kind", "inputs", "read"),
    [
        (
            "Text Concatenate",
            {"delimiter": ", ", "text_a": ["31", 0], "text_b": ["32", 0]},
            "a red house, by the sea",
        ),
        ("JoinStrings", {"delimiter": " ", "string1": ["31", 0], "string2": "by day"}, "a red house by day"),
        ("CR Text Concatenate", {"text1": "a", "text2": "b", "separator": "\\n"}, "a b"),
        (
            "ImpactSwitch",
            {"select": 2, "sel_mode": False, "input1": ["31", 0], "input2": ["32", 0]},
            "by the sea",
        ),
        ("ComfySwitchNode", {"switch": True, "on_false": ["31", 0], "on_true": ["32", 0]}, "by the sea"),
        ("ComfySwitchNode", {"switch": False, "on_false": ["31", 0], "on_true": ["32", 0]}, "a red house"),
        ("Any Switch (rgthree)", {"any_01": ["99", 0], "any_02": ["32", 0]}, "by the sea"),
        ("StringReplace", {"string": "a COLOR house", "find": "COLOR", "replace": "red"}, "a red house"),
        ("ImpactWildcardProcessor", {"wildcard_text": "a {b|c}", "populated_text": "a c"}, "a c"),
        ("ShowText|pysssss", {"text": ["33", 0], "text_0": "what it wrote"}, "what it wrote"),
        ("Anything else", {"model": ["4", 0], "x": ["31", 0]}, "a red house"),
    ],
)
def test_comfyuis_nodes_that_make_texts_of_texts(tmp_path, kind, inputs, read):
    nodes = graph() | {
        "6": encoded(["30", 0]),
        "30": {"class_type": kind, "inputs": inputs},
        "31": {"class_type": "PrimitiveString", "inputs": HOUSE},
        "32": {"class_type": "PrimitiveString", "inputs": SEA},
        "33": {"class_type": "OllamaGenerate", "inputs": {"prompt": "You are a writer of prompts"}},
    }
    assert read_prompt(save(tmp_path / "a.png", {"prompt": json.dumps(nodes)})).text == read


@pytest.mark.parametrize(
    ("kind", "inputs", "read"),
    [
        (
            "ConditioningConcat",
            {"conditioning_from": ["42", 0], "conditioning_to": ["41", 0]},
            "a house, by the sea",
        ),
        (
            "ConditioningCombine",
            {"conditioning_1": ["41", 0], "conditioning_2": ["42", 0]},
            "a house, by the sea",
        ),
        ("ConditioningAverage", {"conditioning_from": ["42", 0], "conditioning_to": ["41", 0]}, "a house"),
        (
            "CLIPTextEncodeSDXL",
            {"text_g": "a house", "text_l": "sharp, 35mm photo"},
            "a house, sharp, 35mm photo",
        ),
        ("CLIPTextEncodeSDXL", {"text_g": "a house", "text_l": "a house"}, "a house"),
        ("CLIPTextEncodeSD3", {"clip_l": "a", "clip_g": "a house", "t5xxl": ""}, "a house"),
        ("CLIPTextEncodeLumina2", {"system_prompt": "You are", "user_prompt": "a house"}, "a house"),
        ("CLIPTextEncode", {"text": "a house <lora:x:1>, embedding:easy, old"}, "a house, old"),
    ],
)
def test_comfyuis_conditionings(tmp_path, kind, inputs, read):
    nodes = graph() | {
        "6": {"class_type": kind, "inputs": inputs},
        "41": encoded("a house"),
        "42": encoded("by the sea"),
    }
    assert read_prompt(save(tmp_path / "a.png", {"prompt": json.dumps(nodes)})).text == read
    nodes["3"] = {
        "class_type": "XlabsSampler",
        "inputs": {"conditioning": ["6", 0], "neg_conditioning": ["7", 0]},
    }
    assert read_prompt(save(tmp_path / "b.png", {"prompt": json.dumps(nodes)})).text == read


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        ("ImpactSwitch", {"select": ["4", 0], "input1": ["31", 0], "input2": ["32", 0]}, "ImpactSwitch"),
        ("MyNode", {"a": ["31", 0], "b": ["32", 0]}, "which text MyNode"),
        ("RegexReplace", {"string": "a", "regex_pattern": "a", "replace": "b"}, "pattern"),
        ("OllamaGenerate", {"prompt": "You are a writer of prompts"}, "no prompt"),
    ],
)
def test_comfyuis_texts_that_cannot_be_known(tmp_path, kind, inputs, words):
    nodes = graph() | {
        "6": encoded(["30", 0]),
        "30": {"class_type": kind, "inputs": inputs},
        "31": {"class_type": "PrimitiveString", "inputs": HOUSE},
        "32": {"class_type": "PrimitiveString", "inputs": SEA},
    }
    with pytest.raises(ImageError, match=words):
        read_prompt(save(tmp_path / "a.png", {"prompt": json.dumps(nodes)}))


def test_graphs_that_do_not_say_which_prompt(tmp_path):
    nodes = graph()
    nodes["50"] = {"class_type": "SaveImage", "inputs": {"images": ["51", 0]}}
    nodes["51"] = {"class_type": "VAEDecode", "inputs": {"samples": ["52", 0]}}
    nodes["52"] = {"class_type": "KSampler", "inputs": {"positive": ["53", 0]}}
    nodes["53"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a blue ring"}}
    path = save(tmp_path / "a.png", {"prompt": json.dumps(nodes)})
    with pytest.raises(ImageError, match="2 prompts"):
        read_prompt(path)
    circle = {**graph(), "6": {"class_type": "Reroute", "inputs": {"x": ["12", 0]}}}
    with pytest.raises(ImageError, match="no prompt"):
        read_prompt(save(tmp_path / "b.png", {"prompt": json.dumps(circle)}))
    deep = "(" * 100_000
    with pytest.raises(ImageError, match="nested"):
        read_prompt(save(tmp_path / "c.png", {"parameters": INFOTEXT.replace("a red", deep)}))


@pytest.mark.parametrize(
    ("texts", "source"),
    [
        ({"prompt": WANTED}, "prompt"),
        ({"Description": WANTED, "Software": "NovelAI"}, "description"),
        ({"Comment": json.dumps({"prompt": WANTED, "steps": 28}), "Title": "AI"}, "comment (JSON)"),
        ({"invokeai_metadata": json.dumps({"positive_prompt": WANTED})}, "invokeai_metadata (JSON)"),
        ({"sd-metadata": json.dumps({"image": {"prompt": [{"prompt": WANTED}]}})}, "sd-metadata (JSON)"),
        ({"parameters": json.dumps({"sui_image_params": {"prompt": WANTED}})}, "parameters (JSON)"),
        ({"parameters": WANTED}, "parameters"),
        ({"Title": WANTED}, "title"),
    ],
    ids=str,
)
def test_plain_forms(tmp_path, texts, source):
    found = read_prompt(save(tmp_path / "a.png", texts))
    assert (found.text, found.source) == (WANTED, source)


def test_plain_forms_outside_png(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = WANTED
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert read_prompt(tmp_path / "a.jpg").text == WANTED
    picture().save(tmp_path / "b.jpg", comment=WANTED.encode())
    assert read_prompt(tmp_path / "b.jpg").text == WANTED
    picture().save(tmp_path / "c.png", exif=exif)
    assert read_prompt(tmp_path / "c.png").text == WANTED
    picture().save(tmp_path / "d.webp")
    (tmp_path / "d.txt").write_text(INFOTEXT)
    found = read_prompt(tmp_path / "d.webp")
    assert (found.text, found.source) == (PROMPT, "d.txt (A1111)")
    (tmp_path / "d.txt").write_text(WANTED + "\n")
    assert read_prompt(tmp_path / "d.webp").text == WANTED
    (tmp_path / "d.txt").unlink()
    with pytest.raises(ImageError, match="texts: none at all"):
        read_prompt(tmp_path / "d.webp")


SWARM = json.dumps({"prompt": "scene: harbour, light: golden, lens: 35mm", "steps": 30})
CIVITAI = json.dumps({"prompt": "a", "infotext": "a Steps: 20, Sampler: Euler, Seed: 1"})


@pytest.mark.parametrize("text", [SWARM, CIVITAI, "subject: cat, style: oil painting, mood: dark"])
def test_what_only_looks_like_settings_is_left_alone(tmp_path, text):
    path = save(tmp_path / "a.png", {"parameters": text})
    before = read_prompt(path)
    write_score(path, SCORE_KEY, 0.5)
    assert read_texts(path) == {"parameters": text, SCORE_KEY: "0.5000"}
    assert read_prompt(path) == before
    picture().save(tmp_path / "a.jpg", exif=user_comment(text))
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.5)
    assert read_texts(tmp_path / "a.jpg")["UserComment"] == text
    assert read_score(tmp_path / "a.jpg", SCORE_KEY) == 0.5


def test_settings_with_more_behind_them_and_without_a_prompt(tmp_path):
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


def test_a_caption_comes_before_what_cameras_and_editors_write(tmp_path):
    picture().save(tmp_path / "a.jpg", comment=b"Created with GIMP")
    assert read_prompt(tmp_path / "a.jpg").text == "Created with GIMP"
    (tmp_path / "a.txt").write_text(WANTED)
    assert read_prompt(tmp_path / "a.jpg").text == WANTED
    exif = Image.Exif()
    exif[0x010E] = 'Workflow:{"nodes": [], "links": []}'
    picture().save(tmp_path / "b.jpg", exif=exif)
    with pytest.raises(ImageError, match="no prompt"):
        read_prompt(tmp_path / "b.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("texts", [{}, {"parameters": INFOTEXT}], ids=["plain", "settings"])
def test_every_key_has_a_place_of_its_own(tmp_path, suffix, texts):
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


def test_a_png_made_from_a_tagged_jpeg(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=user_comment(INFOTEXT))
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.1)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png", exif=image.info["exif"])
    assert read_score(tmp_path / "a.png", SCORE_KEY) == pytest.approx(0.1)
    write_score(tmp_path / "a.png", SCORE_KEY, 0.9)
    assert read_score(tmp_path / "a.png", SCORE_KEY) == pytest.approx(0.9)


def test_a_cameras_notes_that_point_outside_are_none_of_ours(tmp_path):
    exif = user_comment(INFOTEXT)
    exif.get_ifd(0x8769)[0x927C] = b"0123456789"
    picture().save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    for order in ("<", ">"):
        found = data.find(struct.pack(order + "HHI", 0x927C, 7, 10))
        if found >= 0:
            data = data[: found + 8] + b"\x7f" * 4 + data[found + 12 :]
    (tmp_path / "a.jpg").write_bytes(data)
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.5)
    assert read_score(tmp_path / "a.jpg", SCORE_KEY) == 0.5


def test_the_description_in_a_pngs_xmp(tmp_path):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{WANTED}</rdf:li></rdf:Alt></dc:description></rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet)
    picture().save(tmp_path / "a.png", pnginfo=info)
    assert read_prompt(tmp_path / "a.png").text == WANTED


def test_a_name_as_long_as_names_can_be(tmp_path):
    path = save(tmp_path / ("猫" * 83 + ".png"))
    write_score(path, SCORE_KEY, 0.5)
    assert read_score(path, SCORE_KEY) == 0.5


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("(red:1.3) house", "red house"),
        ("((red)) [small] house", "red small house"),
        ("a [red:blue:0.5] house", "a blue house"),
        ("a [red:blue:30] house", "a red house"),
        ("a [red::10] house", "a house"),
        ("a [red:5] house", "a red house"),
        ("a [red|blue|green] house", "a blue house"),  # 20 steps: the last is the second's
        ("<lora:x:1> red <hypernet:y:0.3>", "red"),
        ("red BREAK house", "red house"),
        (r"red \(the colour\), 50% [a:b]", "red (the colour), 50% a:b"),
        ("a (red, round:1.1), house :) (", "a red, round, house :) ("),
    ],
)
def test_the_webuis_notation(written, read):
    assert plain(written, 20) == read


def test_a_text_that_unpacks_without_end_is_left_unread(tmp_path):
    path = save(tmp_path / "a.png")
    data = path.read_bytes()
    bomb = b"parameters\0\0" + zlib.compress(b"a" * (65 * 1024 * 1024), 9)
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    path.write_bytes(data[:33] + chunk + data[33:])
    assert "parameters" not in read_texts(path)
    write_score(path, SCORE_KEY, 0.5)
    assert chunk in path.read_bytes()


def test_the_file_is_whole_at_every_moment(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", {"parameters": INFOTEXT})
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ImageError, match="No space left"):
        write_score(path, SCORE_KEY, 0.5)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_jpeg_of_a_progressive_and_a_cmyk_picture(tmp_path):
    for name, image, options in (
        ("a.jpg", picture().convert("CMYK"), {}),
        ("b.jpg", picture().convert("L"), {"progressive": True}),
    ):
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            before = opened.tobytes()
        write_score(tmp_path / name, SCORE_KEY, 0.5)
        with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as opened:
            assert opened.tobytes() == before

"""Prompts of each generator in any field, and texts of other programs, which are not prompts."""

import json
from html import escape

import pytest
from PIL import Image, PngImagePlugin
from tagged_images import sample_image, save, user_comment

from reward_core.errors import ImageError
from reward_core.metadata import read_prompt

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
INFOTEXT = f"a (white:1.2) heron <lora:birds:0.7>\nNegative prompt: blurred, text\n{SETTINGS}"
DRAW_THINGS = (
    "Steps: 8, Sampler: UniPC, Guidance Scale: 4.5, Seed: 7, Size: 512x768, Model: x.ckpt, Strength: 1.0"
)


def packet(**properties):
    """Return an XMP packet; "dc_description" is the property dc:description."""
    values = "".join(
        f'<{name.replace("_", ":")}><rdf:Alt><rdf:li xml:lang="x-default">{escape(text)}</rdf:li></rdf:Alt>'
        f"</{name.replace('_', ':')}>"
        for name, text in properties.items()
    )
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
        f' xmlns:xmp="http://ns.adobe.com/xap/1.0/">{values}</rdf:Description></rdf:RDF></x:xmpmeta>'
    )


def exif_with(tag, text):
    exif = Image.Exif()
    exif[tag] = text
    return exif


def in_field(tmp_path, field, text):
    """Return an image with the text in a field of its format."""
    if field.startswith("png "):
        return save(tmp_path / "a.png", {field.removeprefix("png "): text})
    path = tmp_path / ("a.webp" if field == "webp xmp" else "a.jpg")
    options = {
        "jpeg comment": lambda: {"comment": text.encode()},
        "image description": lambda: {"exif": exif_with(0x010E, text)},
        "user comment": lambda: {"exif": user_comment(text)},
        "windows comment": lambda: {"exif": exif_with(0x9C9C, text.encode("utf-16-le") + b"\0\0")},
        "webp xmp": lambda: {"xmp": packet(dc_description=text).encode()},
    }
    sample_image().save(path, **options[field]())
    return path


@pytest.mark.parametrize(
    "field",
    [
        "png parameters", "png Description", "png Comment", "png anything", "jpeg comment",
        "image description", "user comment", "windows comment", "webp xmp",
    ],
)  # fmt: skip
def test_settings_are_not_part_of_the_prompt_in_any_field(tmp_path, field):
    found = read_prompt(in_field(tmp_path, field, INFOTEXT))
    assert found.text == "a white heron"
    assert found.source.endswith("(A1111)")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (f"a heron Negative prompt: blurred {SETTINGS}", "a heron"),
        (f"a heron Negative prompt: blurred, text, {SETTINGS}", "a heron"),
        (f"a heron at dawn, {SETTINGS}", "a heron at dawn"),
        ("a heron\r\nNegative prompt: blurred\r\nSteps: 20, Sampler: Euler a\r\n", "a heron"),
        ("a heron\nSampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512", "a heron"),
        ("a heron\nCFG scale: 7, Seed: 1", "a heron"),
        ("a heron\nSteps: 20.0, Sampler: Euler a, Seed: 1", "a heron"),
        (f"a heron\n{SETTINGS}, App: SD.Next\nTemplate: a {{heron|stork}}", "a heron"),
        (f"Prompt: a heron\nNegative prompt: blurred\n{SETTINGS}", "a heron"),
        ("a heron\nin reeds\n-blurred\n-text\n" + DRAW_THINGS, "a heron in reeds"),
        ("a heron, negative prompt: blurred", "a heron"),
        ("a (tall:1.3) heron <lora:birds:1>", "a tall heron"),
        ("a heron (or a stork)", "a heron (or a stork)"),
        ("scene: marsh, light: golden, lens: 35mm", "scene: marsh, light: golden, lens: 35mm"),
        ("the steps: 20 of them, seed: none, size: large", "the steps: 20 of them, seed: none, size: large"),
    ],
)
def test_formats_of_settings(tmp_path, text, read):
    assert read_prompt(in_field(tmp_path, "png Description", text)).text == read
    assert read_prompt(in_field(tmp_path, "jpeg comment", text)).text == read
    bare = save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_bytes(text.encode())
    assert read_prompt(bare).text == read


def nested(value):
    return json.dumps({"sui_image_params": value})


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        ({"parameters": nested({"prompt": "a (white:1.2) heron <lora:x:1> <segment:face> eyes"})},
         "a white heron"),
        ({"parameters": nested({"prompt": "a <fromto[0.5]:gray, white> heron"})}, "a white heron"),
        ({"parameters": json.dumps({"prompt": "a heron", "full_prompt": ["a heron", "film"]}),
          "fooocus_scheme": "fooocus"}, "a heron"),
        ({"invokeai_metadata": json.dumps({"positive_prompt": "a white++ heron, (tall reeds)0.8 [text]"})},
         "a white heron, tall reeds"),
        ({"sd-metadata": json.dumps({"image": {"prompt": [{"prompt": "a heron [text]", "weight": 1}]}})},
         "a heron"),
        ({"Dream": '"a heron [text]" -s 50 -S 7 -W 512 -H 512 -C 7.5 -A k_lms'}, "a heron"),
        ({"Description": "{{a white}} [heron], 1.4::reeds ::", "Software": "NovelAI", "Source": "NovelAI V4",
          "Title": "NovelAI generated image"}, "a white heron, reeds"),
        ({"Software": "NovelAI", "Title": "AI generated image",
          "Comment": json.dumps({"uc": "text", "v4_prompt": {"caption": {"base_caption": "{a heron}"}}})},
         "a heron"),
        ({"Description": "a heron --ar 3:2 --stylize 80 --v 6 Job ID: 0b9e1c57-1f9a-4f0c-9d5e-2c1f6b1a7d11"},
         "a heron"),
        ({"Description": "https://s.mj.run/abc a heron --no people, cars --niji 6"}, "a heron"),
        ({"Prompt": "a heron", "Negative Prompt": "text", "Seed": "1"}, "a heron"),
        ({"generation_data": json.dumps({"prompt": "a heron", "negativePrompt": "text"}) + "\0"}, "a heron"),
        ({"Comment": "Include in Image: a heron; Exclude from Image: text; Model: m; Seed: 1; Steps: 8"},
         "a heron"),
    ],
    ids=str,
)  # fmt: skip
def test_notations_of_generators(tmp_path, texts, read):
    assert read_prompt(save(tmp_path / "a.png", texts)).text == read


def test_a_prompt_with_a_part_chosen_by_swarmui_is_refused(tmp_path):
    path = save(tmp_path / "a.png", {"parameters": nested({"prompt": "a <random:white,gray> heron"})})
    with pytest.raises(ImageError, match="at random"):
        read_prompt(path)


def test_draw_things_keeps_the_prompt_in_xmp(tmp_path):
    description = f"a heron\n-blurred\n{DRAW_THINGS}"
    stored = json.dumps({"c": "a heron", "uc": "blurred", "steps": 8, "v2": {"width": 512}})
    for texts in (
        {"dc_description": description},
        {"exif_UserComment": stored, "dc_description": description},
    ):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet(**texts, xmp_CreatorTool="Draw Things"))
        sample_image().save(tmp_path / "a.png", pnginfo=info)
        assert read_prompt(tmp_path / "a.png").text == "a heron"


def test_xmp_values_in_other_formats(tmp_path):
    whole = packet(dc_description="a heron")
    element = "<dc:description>a &lt;heron&gt;</dc:description>"
    start, end = whole.index("<dc:description>"), whole.index("</rdf:Description>")
    about = whole.index("xmlns:xmp")
    attribute = whole[:about] + 'dc:description="a &lt;heron&gt;" ' + whole[about:start] + whole[end:]
    for form in (whole[:start] + element + whole[end:], attribute):
        sample_image().save(tmp_path / "a.webp", xmp=form.encode())
        assert read_prompt(tmp_path / "a.webp").text == "a <heron>"


def test_fooocus_and_easy_diffusion_in_jpeg_and_webp(tmp_path):
    sample_image().save(
        tmp_path / "a.jpg", exif=exif_with(0x9286, json.dumps({"prompt": "a heron", "steps": 30}))
    )
    assert read_prompt(tmp_path / "a.jpg").text == "a heron"
    sample_image().save(tmp_path / "b.webp")
    lines = ["Prompt: a heron", "Seed: 1", "Steps: 25", "Guidance Scale: 7.5", "Negative Prompt: text"]
    (tmp_path / "b.txt").write_text("\n".join(lines))
    assert read_prompt(tmp_path / "b.webp").text == "a heron"


def test_a_recognized_prompt_comes_before_a_caption(tmp_path):
    path = in_field(tmp_path, "jpeg comment", INFOTEXT)
    path.with_suffix(".txt").write_text("a caption")
    assert read_prompt(path).text == "a white heron"


BANNERS = """
CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 85
CREATOR: XV Version 3.10a  Rev: 12/29/94  Quality = 75, Smoothing = 0
Lavc61.19.100
Created with The GIMP
AppleMark
File written by Adobe Photoshop® 4.0
OLYMPUS DIGITAL CAMERA
KONICA MINOLTA DIGITAL CAMERA
KODAK EASYSHARE C813 ZOOM DIGITAL CAMERA
SAMSUNG CAMERA PICTURES
SONY DSC
NIKON D70
Canon PowerShot A70
Imacon Color Scanner
Scanned with CanoScan LiDE 110
Processed By eBay with ImageMagick, z1.1.0. ||B2
Handmade Software, Inc. Image Alchemy v1.11
LEAD Technologies Inc. V1.01
Intel(R) JPEG Library, version [2.0.16.48]
JPEG Encoder Copyright 1998, James R. Weeks and BioElectroMech.
Paint Tool -SAI- JPEG Encoder v1.00
Optimized by JPEGmini 3.18.2.210033067-TBTBLN 0x1
Matplotlib version3.8.0, https://matplotlib.org/
Screenshot
Screenshot 2024-05-01 at 10.11.12
Untitled-1
IMG_1234.JPG
DSC01234
2024:05:01 10:11:12
https://example.com/a
Copyright 2020 A. Person
ASCII
Made with Google AI
This image was created with Stable Diffusion
FLUX.1-dev
Motorola Razr
iPhone 12 Pro
oppo_32
IMG-20200101-WA0001
""".strip().split("\n")


@pytest.mark.parametrize("field", ["jpeg comment", "png Description", "png Title"])
def test_text_left_by_cameras_and_programs_is_not_a_prompt(tmp_path, field):
    for text in BANNERS:
        with pytest.raises(ImageError, match="no prompt"):
            read_prompt(in_field(tmp_path, field, text))


def test_sentences_about_cameras_and_programs_are_prompts(tmp_path):
    sentences = """
    a camera by the sea | a heron | heron | a blue & white heron | shot on Kodak Portra 400, a woman in rain
    Apple Pie | Fuji Mountain | Polaroid Portrait
    apple | Canon EOS R5 photo of a heron, 85mm | image of a dog | photo of 3 dogs
    a screenshot of a video game | Untitled goose game, a goose | Gemini, the twins, fresco | 青い鳥
    a cake made with apples | Camera: a woman looking into it | rendered in watercolor, a boat at sea
    """.replace("\n", " | ")
    for text in filter(None, map(str.strip, sentences.split(" | "))):
        assert read_prompt(in_field(tmp_path, "jpeg comment", text)).text == text

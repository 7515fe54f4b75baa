"""Prompts in real files, in every format that programs write."""

import json

import pytest
from PIL import Image, PngImagePlugin
from tagged_images import INFOTEXT, PROMPT, changed_parts, parts, sample_image, save

from reward_core.errors import ImageError
from reward_core.metadata import SCORE_KEY, read_prompt, write_score
from reward_core.metadata.infotext import plain

WANTED = "a red circle, round (or not)"
WRITTEN = "a red circle, (round:1.2) \\(or not\\)"  # in the notation of ComfyUI's encoder


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
    nodes["40"]["inputs"]["positive"] = ["41", 0]  # further from the saved image
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
def test_the_prompt_is_found_in_a_comfyui_graph(tmp_path, make):
    path = save(tmp_path / "a.png", {"prompt": json.dumps(make()), "workflow": "{}"})
    found = read_prompt(path)
    assert (found.text, found.source) == (WANTED, "prompt (ComfyUI)")
    before = parts(path)
    write_score(path, SCORE_KEY, 0.5)  # outside the graphs
    removed, added = changed_parts(before, parts(path))
    assert not removed
    assert added == [(b"tEXt", b"tEXtImageReward Score\x000.5000" + added[0][1][-4:])]


def test_other_formats_of_comfyui(tmp_path):
    path = save(tmp_path / "a.png", {"workflow": json.dumps(workflow())})
    assert read_prompt(path).text == WANTED
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(graph())
    exif[0x010F] = "workflow:" + json.dumps(workflow())
    sample_image().save(tmp_path / "a.webp", exif=exif)
    assert read_prompt(tmp_path / "a.webp").text == WANTED
    own = save(tmp_path / "b.png", {"prompt": json.dumps(graph()), "ImageReward Prompt": '"what was scored"'})
    assert read_prompt(own).text == "what was scored"
    loader = graph()  # a node of an extension with both texts
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
def test_comfyui_nodes_that_combine_texts(tmp_path, kind, inputs, read):
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
def test_conditionings_of_comfyui(tmp_path, kind, inputs, read):
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
def test_comfyui_texts_that_cannot_be_determined(tmp_path, kind, inputs, words):
    nodes = graph() | {
        "6": encoded(["30", 0]),
        "30": {"class_type": kind, "inputs": inputs},
        "31": {"class_type": "PrimitiveString", "inputs": HOUSE},
        "32": {"class_type": "PrimitiveString", "inputs": SEA},
    }
    with pytest.raises(ImageError, match=words):
        read_prompt(save(tmp_path / "a.png", {"prompt": json.dumps(nodes)}))


def test_graphs_with_several_prompts_are_refused(tmp_path):
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
def test_plain_texts_in_png(tmp_path, texts, source):
    found = read_prompt(save(tmp_path / "a.png", texts))
    assert (found.text, found.source) == (WANTED, source)


def test_plain_texts_outside_png(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = WANTED
    sample_image().save(tmp_path / "a.jpg", exif=exif)
    assert read_prompt(tmp_path / "a.jpg").text == WANTED
    sample_image().save(tmp_path / "b.jpg", comment=WANTED.encode())
    assert read_prompt(tmp_path / "b.jpg").text == WANTED
    sample_image().save(tmp_path / "c.png", exif=exif)
    assert read_prompt(tmp_path / "c.png").text == WANTED
    sample_image().save(tmp_path / "d.webp")
    (tmp_path / "d.txt").write_text(INFOTEXT)
    found = read_prompt(tmp_path / "d.webp")
    assert (found.text, found.source) == (PROMPT, "d.txt (A1111)")
    (tmp_path / "d.txt").write_text(WANTED + "\n")
    assert read_prompt(tmp_path / "d.webp").text == WANTED
    (tmp_path / "d.txt").unlink()
    with pytest.raises(ImageError, match="texts: none"):
        read_prompt(tmp_path / "d.webp")


def test_a_caption_comes_before_texts_of_cameras_and_editors(tmp_path):
    sample_image().save(tmp_path / "a.jpg", comment=b"my garden in spring")
    assert read_prompt(tmp_path / "a.jpg").text == "my garden in spring"
    (tmp_path / "a.txt").write_text(WANTED)
    assert read_prompt(tmp_path / "a.jpg").text == WANTED
    exif = Image.Exif()
    exif[0x010E] = 'Workflow:{"nodes": [], "links": []}'
    sample_image().save(tmp_path / "b.jpg", exif=exif)
    with pytest.raises(ImageError, match="no prompt"):
        read_prompt(tmp_path / "b.jpg")


def test_the_description_in_the_xmp_of_a_png(tmp_path):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{WANTED}</rdf:li></rdf:Alt></dc:description></rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    )
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet)
    sample_image().save(tmp_path / "a.png", pnginfo=info)
    assert read_prompt(tmp_path / "a.png").text == WANTED


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("(red:1.3) house", "red house"),
        ("((red)) [small] house", "red small house"),
        ("a [red:blue:0.5] house", "a blue house"),
        ("a [red:blue:30] house", "a red house"),
        ("a [red::10] house", "a house"),
        ("a [red:5] house", "a red house"),
        ("a [red|blue|green] house", "a blue house"),  # the last of 20 steps uses the second word
        ("<lora:x:1> red <hypernet:y:0.3>", "red"),
        ("red BREAK house", "red house"),
        (r"red \(the colour\), 50% [a:b]", "red (the colour), 50% a:b"),
        ("a (red, round:1.1), house :) (", "a red, round, house :) ("),
    ],
)
def test_the_notation_of_the_webui(written, read):
    assert plain(written, 20) == read

"""Prompts in ComfyUI graphs: random choices, nodes other than samplers, other fields."""

import json

import pytest
from tagged_images import sample_image, save, user_comment

from reward_core.errors import ImageError
from reward_core.metadata import read_prompt

RANDOM = "picks part of the prompt at random"


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def sampled(**nodes):
    """Return a graph that samples the text of node 20; "n20" is the node 20."""
    graph = {
        "3": node("KSampler", seed=1, steps=20, positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
        "5": node("EmptyLatentImage", width=64),
        "6": node("CLIPTextEncode", text=["20", 0], clip=["4", 1]),
        "7": node("CLIPTextEncode", text="{blurred|dark}", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0]),
        "9": node("SaveImage", images=["8", 0]),
    }
    return graph | {name.removeprefix("n"): value for name, value in nodes.items()}


def asked(kind, **inputs):
    """Return a graph that saves the image of one node."""
    return {"1": node(kind, **inputs), "2": node("SaveImage", images=["1", 0])}


def read(tmp_path, graph, **texts):
    texts = {name: json.dumps(value) for name, value in texts.items()}
    return read_prompt(save(tmp_path / "a.png", {"prompt": json.dumps(graph), **texts})).text


def wildcard(kind="ImpactWildcardProcessor", template="a {red|{dark|light} blue} boat, __sea/*__", **inputs):
    return node(kind, wildcard_text=template, **inputs)


@pytest.mark.parametrize(
    "chooser",
    [
        node("DPRandomGenerator", text="a {red|blue} boat", seed=5),
        node("DPRandomGenerator", text=["21", 0], seed=5),
        node("DPCombinatorialGenerator", text="a {red|blue} boat"),
        node("DPMagicPrompt", text="a boat"),
        node(
            "PrimitiveString", value="a __color__ boat"
        ),  # extensions resolve it in nodes of other extensions
        node("Wildcard Processor", prompt="a __color__ boat", seed=1),
        node("easy wildcards", text="a __hair_color__ boat", seed=1),
        node("easy positive", positive="a {red|blue} boat"),
        node("Text Random Line", text="a boat\na house", seed=1),
        node("Text Random Line", text=["22", 0], seed=1),
        node("RandomText", text1="a boat", text2="a house", seed=1),
        node("easy promptLine", prompt="a boat\na house", start_index=0, max_rows=1000),
        node("StringConcatenate", string_a=["23", 0], string_b="by the sea", delimiter=" "),
        node("OneButtonPrompt", insanitylevel=5, artist="all"),
        wildcard(mode="populate", populated_text="", seed=1),
        wildcard(mode="populate", populated_text="an old house", seed=1),  # belongs to another template
        wildcard(mode="fixed", populated_text="a {red|blue} boat", seed=1),  # resolved while the graph runs
        wildcard("WildcardEncode //Inspire"),
    ],
    ids=lambda chooser: chooser["class_type"],
)
def test_a_text_that_a_node_picks_at_random_is_refused(tmp_path, chooser):
    graph = sampled(
        n20=chooser,
        n21=node("Text Multiline", text="a __color__ boat"),
        n22=node("Text Multiline", text="a boat\na house"),
        n23=node("DPRandomGenerator", text="a {red|blue} boat"),
    )
    with pytest.raises(ImageError, match=rf"{RANDOM} \(.+\)\. Give the prompt"):
        read(tmp_path, graph)


@pytest.mark.parametrize(
    ("chooser", "text"),
    [
        (node("DPRandomGenerator", text="a red boat, the sea", seed=5), "a red boat, the sea"),
        (node("Wildcard Processor", prompt="a red boat", seed=1), "a red boat"),
        (node("Text Random Line", text="a red boat", seed=1), "a red boat"),
        (node("easy promptLine", prompt="a boat\na house", start_index=1, max_rows=1), "a house"),
        (
            wildcard(mode="populate", populated_text="a light blue boat, calm sea"),
            "a light blue boat, calm sea",
        ),
        (
            wildcard(
                template="a {2$$red|{old|new {blue|gray}}|green} boat",
                mode="populate",
                populated_text="a red, new gray boat",
            ),
            "a red, new gray boat",
        ),
        (wildcard(mode=False, populated_text="a red boat, storm", seed=1), "a red boat, storm"),
        (wildcard(mode="reproduce", populated_text="a red boat, storm"), "a red boat, storm"),
        (wildcard(mode="fixed", populated_text="an old house"), "an old house"),
    ],
    ids=lambda value: value["class_type"] if isinstance(value, dict) else value,
)
def test_a_text_without_alternatives_or_with_its_recorded_choice_is_read(tmp_path, chooser, text):
    assert read(tmp_path, sampled(n20=chooser)) == text


def test_braces_in_a_plain_encoder_are_words_in_prompt_and_a_template_in_workflow(tmp_path):
    graph = sampled(n6=node("CLIPTextEncode", text="a {red|blue} boat"))
    assert read(tmp_path, graph) == "a {red|blue} boat"
    workflow = {
        "nodes": [
            {"id": 1, "type": "SaveImage", "inputs": [{"name": "images", "link": 10}]},
            {"id": 2, "type": "VAEDecode", "inputs": [{"name": "samples", "link": 11}]},
            {"id": 3, "type": "KSampler", "inputs": [{"name": "positive", "link": 12}]},
            {"id": 4, "type": "CLIPTextEncode", "widgets_values": ["a {red|blue} boat"]},
        ],
        "links": [[10, 2, 0, 1, 0, "IMAGE"], [11, 3, 0, 2, 0, "LATENT"], [12, 4, 0, 3, 0, "CONDITIONING"]],
    }
    path = save(tmp_path / "b.png", {"workflow": json.dumps(workflow)})
    with pytest.raises(ImageError, match="template"):
        read_prompt(path)
    workflow["nodes"][3] |= {
        "type": "ImpactWildcardEncode",
        "widgets_values": ["a {red|blue} boat", "a red boat", "populate", 1],
    }
    assert read_prompt(save(tmp_path / "c.png", {"workflow": json.dumps(workflow)})).text == "a red boat"


def test_text_shown_by_a_node_during_generation_is_the_prompt(tmp_path):
    chooser = node("DPRandomGenerator", text="a {red|blue} boat", seed=5)
    shown = node("ShowText|pysssss", text=["20", 0], text_0="a red boat")
    assert (
        read(tmp_path, sampled(n20=chooser, n21=shown)) == "a red boat"
    )  # not between the text and the sampler
    workflow = {
        "nodes": [{"id": 21, "type": "ShowText|pysssss", "widgets_values": [["a blue boat"]]}],
        "links": [],
    }
    graph = sampled(n20=chooser, n21=shown, n6=node("CLIPTextEncode", text=["21", 0]))
    assert (
        read(tmp_path, graph, workflow=workflow) == "a blue boat"
    )  # the graph has the text of the previous run


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("GeminiImageNode", {"seed": 1, "model": "m"}),
        ("OpenAIDalle3", {"seed": 1, "size": "1024x1024"}),
        ("OpenAIGPTImage1", {"quality": "low"}),
        ("IdeogramV3", {"aspect_ratio": "1:1"}),
        ("StabilityStableImageUltraNode", {"seed": 1}),
        ("RecraftTextToImageNode", {"size": "1024x1024", "n": 1}),
        ("KlingImageGenerationNode", {"n": 1}),
        ("SomebodysImageNode", {}),
    ],
)
def test_the_prompt_of_a_node_that_calls_an_image_service_is_read(tmp_path, kind, inputs):
    assert read(tmp_path, asked(kind, prompt="a boat", **inputs)) == "a boat"
    linked = asked(kind, prompt=["5", 0], **inputs) | {"5": node("PrimitiveStringMultiline", value="a boat")}
    scaled = linked | {
        "2": node("SaveImage", images=["4", 0]),
        "4": node("ImageScale", image=["1", 0], width=64),
    }
    assert read(tmp_path, linked) == read(tmp_path, scaled) == "a boat"
    random = linked | {"5": node("DPRandomGenerator", text="a {red|blue} boat")}
    with pytest.raises(ImageError, match=RANDOM):
        read(tmp_path, random)
    written = linked | {"5": node("OpenAIChatNode", prompt="You write prompts", seed=1)}
    with pytest.raises(ImageError, match="no prompt"):
        read(tmp_path, written)


def test_text_nodes_after_the_sampler_are_ignored(tmp_path):
    graph = sampled(n20=node("PrimitiveString", value="a boat"), n9=node("SaveImage", images=["30", 0]))
    for kind, inputs in (
        ("SAMSegment", {"prompt": "the sail", "seed": 1}),
        ("FaceDetailer", {"positive": ["31", 0], "steps": 5, "seed": 1}),
        ("StabilityUpscaleConservativeNode", {"prompt": "sharp", "seed": 1}),
    ):
        graph |= {
            "30": node(kind, image=["8", 0], **inputs),
            "31": node("CLIPTextEncode", text="a face"),
        }
        assert read(tmp_path, graph) == "a boat"


def test_the_prompt_of_an_upscaler_that_samples_is_read(tmp_path):
    graph = sampled(
        n3=node("LoadImage", image="a.png"),
        n8=node("UltimateSDUpscale", image=["3", 0], positive=["6", 0], negative=["7", 0], seed=1, steps=20),
        n20=node("PrimitiveString", value="a boat"),
    )
    assert read(tmp_path, graph) == "a boat"


def test_graphs_in_fields_that_comfyui_does_not_use_are_read(tmp_path):
    graph = sampled(n20=node("PrimitiveString", value="a (red:1.2) boat"), extra={"airs": []})
    wrapped = {"prompt": graph, "workflow": {"nodes": [], "links": []}}
    for value in (graph, wrapped, {"prompt": json.dumps(graph)}):
        sample_image().save(tmp_path / "a.jpg", exif=user_comment(json.dumps(value)))
        assert read_prompt(tmp_path / "a.jpg").text == "a red boat"
        assert read_prompt(save(tmp_path / "a.png", {"parameters": json.dumps(value)})).text == "a red boat"
    civitai = sampled(n20=node("SomethingRandom", text1="a", text2="b"))
    civitai["extraMetadata"] = json.dumps({"prompt": "a [small] boat", "negativePrompt": "dark"})
    sample_image().save(tmp_path / "b.jpg", exif=user_comment(json.dumps(civitai)))
    assert read_prompt(tmp_path / "b.jpg").text == "a small boat"

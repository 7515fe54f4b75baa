"""The CogVLM2 network at tiny size, stage by stage (tests/data/parity_visionreward)."""

import copy
import json

import PIL
import pytest
import torch
from cogvlm2_reference import (
    DATA,
    IMAGES,
    PAIRS,
    TENSORS,
    image_file,
    pixels_of,
    published_config,
    published_weights,
    reference_model,
)
from PIL import Image

from reward_core.errors import CheckpointError, KeyMismatchError
from reward_core.models.cogvlm2.config import CogVlm2Config
from reward_core.models.cogvlm2.config_files import read_cogvlm2_config
from reward_core.models.cogvlm2.key_map import to_own_keys
from reward_core.models.cogvlm2.language_model import prefix_positions
from reward_core.models.cogvlm2.network import CogVlm2
from reward_core.models.cogvlm2.packing import pack_questions

PREFIX = 12  # tokens before a question
STAGED = (0, 7, 10)  # pairs whose stages are stored


@pytest.fixture(scope="module")
def model():
    return reference_model()


@pytest.fixture(scope="module")
def double():
    model = reference_model()
    model.network.double()
    return model


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def question_ids(pair):
    return TENSORS[f"pair{pair:02}.input_ids"][PREFIX:].tolist()


def last_logits(model, pair):
    """Return the logits after the question of a pair, (V,)."""
    network, tokens = model.network, model.tokenizer.tokens
    with torch.no_grad():
        prefix = network.encode_images(pixels_of(model, PAIRS[pair]["picture"]), tokens.begin_of_text)
        return network(prefix, pack_questions([question_ids(pair)], tokens.yeses))[0, 0, 0]


def recorded(modules, run):
    """Return the outputs of modules, a list for each, while ``run`` is called."""
    outputs = [[] for _ in modules]
    hooks = [
        module.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
        for module, kept in zip(modules, outputs)
    ]
    run()
    for hook in hooks:
        hook.remove()
    return outputs


def full_size_shapes(form):
    """Return the published names and shapes at full size, as tensors on "meta"."""
    content = json.loads((DATA / "keys" / f"full_size_keys_checklist_{form}.json").read_text())
    shapes = {}
    for entry in content["keys"]:
        first, last = entry["index_range"][0] if entry["index_range"] else (0, 0)
        names = (entry["key"].replace("{i}", str(i)) for i in range(first, last + 1))
        shapes |= {name: torch.empty(entry["shape"], device="meta") for name in names}
    return shapes


@pytest.mark.parametrize(("form", "tensors"), [("sat", 1190), ("hf", 1221)])
def test_names_and_shapes_at_full_size_are_those_of_both_published_forms(form, tensors):
    published = full_size_shapes(form)
    assert len(published) == tensors
    with torch.device("meta"):
        network = CogVlm2(CogVlm2Config())
    own = to_own_keys(published, CogVlm2Config(), form)
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert sum(weight.numel() for weight in network.parameters()) == 19_503_105_280


def test_both_published_forms_give_the_same_model():
    sat, hf = (read_cogvlm2_config(published_config(form), form) for form in ("sat", "hf"))
    assert sat == hf
    assert (sat.image_tokens, sat.prefix_tokens, sat.kv_heads) == (9, PREFIX, 2)
    weights = [to_own_keys(published_weights(form), sat, form) for form in ("sat", "hf")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert read_cogvlm2_config(sat.to_dict(), "saved") == sat


@pytest.mark.parametrize("form", ["sat", "hf"])
def test_missing_unknown_and_foreign_weights_are_refused(form):
    config, weights = read_cogvlm2_config(published_config(), "sat"), published_weights(form)
    left_out = next(key for key in weights if "vision_tower" not in key and key.endswith("norm.weight"))
    with pytest.raises(KeyMismatchError, match="missing") as caught:
        to_own_keys({key: value for key, value in weights.items() if key != left_out}, config, "w")
    assert caught.value.missing == [left_out]
    with pytest.raises(KeyMismatchError, match="unexpected"):
        to_own_keys({**weights, "extra.weight": torch.zeros(1)}, config, "w")
    frequencies = next(key for key in weights if key.endswith("inv_freq"))
    with pytest.raises(CheckpointError, match="rope_theta=500000"):
        to_own_keys({**weights, frequencies: weights[frequencies] ** 0.5}, config, "w")
    with pytest.raises(CheckpointError, match="not the weights of a CogVLM2"):
        to_own_keys({"a.weight": torch.zeros(1)}, config, "w")


def test_settings_that_are_not_implemented_are_refused():
    changes = [
        ("sat", {"use_final_layernorm": True}, "use_final_layernorm=True"),
        ("sat", {"use_final_layernorm": None}, None),
        ("sat", {"layernorm_order": "pre"}, "layernorm_order='pre'"),
        ("sat", {"image_size": [84, 70]}, "two equal sides"),
        ("sat", {"hidden_size": None}, "'eva_args.hidden_size' is missing"),
        ("hf", {"hidden_act": "gelu_new"}, "hidden_act='gelu_new'"),
        ("hf", {"num_positions": 38}, "num_positions is 38"),
        ("hf", {"num_heads": 5}, "not divisible by 5"),
    ]
    for form, change, message in changes:
        content = published_config(form)
        content["eva_args" if form == "sat" else "vision_config"].update(change)
        if message is None:
            content["eva_args"].pop("use_final_layernorm")
            message = "'eva_args.use_final_layernorm' is missing"
        with pytest.raises(CheckpointError, match=message):
            read_cogvlm2_config(content, "config")


def test_pixels_are_those_of_the_authors(model):
    stored = [name for name in IMAGES if f"img.{name}.pixels" in TENSORS]
    assert len(stored) == 4
    for name in stored:
        if name == "tall" and int(PIL.__version__.split(".")[0]) < 13:
            continue  # Pillow 13 resizes it in another order
        actual = model.transform.from_pil(Image.open(image_file(name)))
        close(actual, TENSORS[f"img.{name}.pixels"], 1e-6)


@pytest.mark.parametrize("name", ["wide", "gray"])
def test_vision_tower_and_adapter_agree_with_the_authors(model, name):
    tower, adapter, pixels = model.network.vision_tower, model.network.adapter, pixels_of(model, name)
    close(tower.embed(pixels)[0], TENSORS[f"img.{name}.vit_embed"], 1e-4)
    layers = recorded(tower.layers, lambda: tower(pixels))
    for i, (output,) in enumerate(layers):
        close(output[0], TENSORS[f"img.{name}.vit_layer_{i}"], 1e-4)
    patches = tower(pixels)
    close(patches[0], TENSORS[f"img.{name}.vit_layer_2"][1:], 1e-4)
    close(adapter.merge(patches)[0], TENSORS[f"img.{name}.conv_out"], 1e-4)
    close(adapter(patches)[0, 1:-1], TENSORS[f"img.{name}.adapter_out"], 3e-5)


@pytest.mark.parametrize("pair", STAGED)
def test_language_layers_agree_with_the_authors(model, pair):
    language = model.network.language_model
    outputs = recorded([*language.layers, language.norm], lambda: last_logits(model, pair))
    tokens = len(question_ids(pair))
    for i, (prefix, text) in enumerate(outputs[:-1]):
        x = torch.cat([prefix[0], text[0][:, :tokens]], dim=1)[0]
        close(x, TENSORS[f"pair{pair:02}.lm_layer_{i}"], 2e-4)
    (normed,) = outputs[-1]
    close(normed[0, :tokens], TENSORS[f"pair{pair:02}.lm_final_norm"][PREFIX:], 2e-4)


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_positions_and_logits_agree_with_the_authors(model, double, pair):
    packed = pack_questions([question_ids(pair)], model.tokenizer.tokens.yeses)
    positions = torch.cat([prefix_positions(PREFIX, packed.positions.device), packed.positions[:-2]])
    assert positions.tolist() == TENSORS[f"pair{pair:02}.position_ids"].tolist()
    assert packed.positions[-2:].tolist() == [positions[-1] + 1] * 2
    close(last_logits(model, pair), TENSORS[f"pair{pair:02}.logits_last"], 3e-4)
    # Only float64 distinguishes the exact GELU and the adapter's eps from their neighbors.
    close(last_logits(double, pair), TENSORS[f"pair{pair:02}.logits_last_f64"], 1e-6)


def test_bfloat16_keeps_logits_and_the_best_token(model):
    bf16 = copy.deepcopy(model)
    bf16.network.bfloat16()
    for pair in STAGED:
        logits, expected = last_logits(bf16, pair), TENSORS[f"pair{pair:02}.logits_last"]
        assert logits.dtype == torch.float32
        close(logits, expected, 0.6)
        assert logits.argmax() == expected.argmax() == PAIRS[pair]["argmax"]


def test_offloaded_vision_experts_are_copied_to_the_device_of_the_image(model):
    network = copy.deepcopy(model.network)
    network.place("meta", offload_vision_experts=True)
    on_cpu = {name for name, weight in network.named_parameters() if weight.device.type == "cpu"}
    assert on_cpu == {name for name, _ in network.named_parameters() if ".vision_expert." in name}
    prefix = network.encode_images(torch.zeros(2, 3, 84, 84, device="meta"), 368)
    logits = network(prefix, pack_questions([[5, 6, 7], [8]], (1, 2)))
    assert (logits.shape, logits.device.type) == ((2, 2, 3, 384), "meta")
    with pytest.raises(ValueError, match=r"expected \(B, 3, 84, 84\)"):
        model.network.encode_images(torch.zeros(1, 3, 80, 84), 368)

"""LoRA files for ComfyUI and the WebUI: their keys, and what a program computes from them.

The expected keys follow the tables of ComfyUI and both WebUIs, which were run on files of these structures
(docs/refl.md says how).
"""

import json

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_pipelines import MAKERS
from torch import nn

from refl import load_config
from refl.config import ModelConfig
from refl.errors import ModelError
from refl.families import family_of
from refl.publishing.lora_export import (
    TABLES,
    kohya_tensors,
    lora_layers,
    original_layers,
    safe_name,
    write_comfyui_lora,
)
from refl.publishing.lora_layers import FLUX, FLUX2, SD3, Z_IMAGE, original_layer
from refl.trainable import Trainable

# The block counts of the published models, with one head of a few channels.
UNET = dict(norm_num_groups=2, cross_attention_dim=8, sample_size=8)
SIZES = {
    "sd": lambda: UNet2DConditionModel(block_out_channels=(4,) * 4, attention_head_dim=2, **UNET),
    "sdxl": lambda: UNet2DConditionModel(
        block_out_channels=(4,) * 3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=2,
        use_linear_projection=True,
        **UNET,
    ),
    "sd3": lambda: SD3Transformer2DModel(
        num_layers=24,
        attention_head_dim=8,
        num_attention_heads=1,
        caption_projection_dim=8,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        dual_attention_layers=tuple(range(13)),  # as in SD3.5 medium
    ),
    "flux": lambda: FluxTransformer2DModel(
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=8,
        num_attention_heads=1,
        in_channels=4,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    ),
}


def unet_layers(depths, up_depths, middle):
    """Return the expected layers of a UNet from the transformer depth of each block."""
    places = [(f"down_blocks_{i}", depth, 2) for i, depth in depths.items()]
    places += [(f"up_blocks_{i}", depth, 3) for i, depth in up_depths.items()] + [("mid_block", middle, 1)]
    return {
        f"{block}_attentions_{a}_transformer_blocks_{t}_{attention}_{projection}"
        for block, depth, attentions in places
        for a in range(attentions)
        for t in range(depth)
        for attention in ("attn1", "attn2")
        for projection in ("to_q", "to_k", "to_v", "to_out_0")
    }


EXPECTED = {
    "sd": unet_layers({0: 1, 1: 1, 2: 1}, {1: 1, 2: 1, 3: 1}, 1),
    "sdxl": unet_layers({1: 2, 2: 10}, {0: 10, 1: 2}, 10),
    # The text stream of SD3 ends in the last block.
    "sd3": {f"joint_blocks_{i}_x_block_attn_{part}" for i in range(24) for part in ("qkv", "proj")}
    | {f"joint_blocks_{i}_x_block_attn2_{part}" for i in range(13) for part in ("qkv", "proj")}
    | {f"joint_blocks_{i}_context_block_attn_qkv" for i in range(24)}
    | {f"joint_blocks_{i}_context_block_attn_proj" for i in range(23)},
    "flux": {
        f"double_blocks_{i}_{stream}_attn_{part}"
        for i in range(19)
        for stream in ("img", "txt")
        for part in ("qkv", "proj")
    }
    | {f"single_blocks_{i}_linear1" for i in range(38)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_keys_of_full_models_are_those_that_programs_know(name):
    pipeline = MAKERS[name]()
    setattr(pipeline, "unet" if name in ("sd", "sdxl") else "transformer", SIZES[name]())
    family = family_of(pipeline)
    Trainable(family, ModelConfig(lora_rank=1))
    keys = set(kohya_tensors(family, lora_layers(family.denoiser), 1.0))
    ends = ("alpha", "lora_down.weight", "lora_up.weight")
    assert keys == {f"lora_unet_{layer}.{end}" for layer in EXPECTED[name] for end in ends}


def linear_layers(denoiser):
    return tuple(n for n, m in denoiser.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


@pytest.mark.parametrize(
    ("name", "table"),
    [("sd", None), ("sdxl", None), ("sd3", SD3), ("flux", FLUX), ("flux2", FLUX2), ("z-image", Z_IMAGE),
     ("qwen-image", None)],
)  # fmt: skip
def test_a_program_adds_the_change_that_diffusers_adds(tmp_path, name, table):
    """Every linear layer and convolution has a LoRA; its scale is not 1."""
    torch.manual_seed(0)
    family = family_of(MAKERS[name]())
    targets = linear_layers(family.denoiser)
    trainable = Trainable(family, ModelConfig(lora_rank=3, lora_alpha=5, lora_targets=targets))
    for parameter in trainable.parameters:
        parameter.data = torch.randn_like(parameter)
    config = load_config(settings=[f"run.out={tmp_path / 'my run'}", "model.lora_rank=3"])
    path = write_comfyui_lora(trainable, config, ["a", "b"], 7, tmp_path)
    assert path.name == "my_run_comfyui.safetensors"
    tensors = load_file(path)
    added = {}
    for key in tensors:
        if key.endswith(".alpha"):
            layer = key.removesuffix(".alpha")
            up, down = (tensors[f"{layer}.lora_{side}.weight"].flatten(1) for side in ("up", "down"))
            added[layer] = tensors[key].item() / len(down) * up @ down
    expected = {}
    last = len(family.denoiser.transformer_blocks) - 1 if table is SD3 else 0
    for target in targets:
        change = family.denoiser.get_submodule(target).get_delta_weight("default").flatten(1)
        original = original_layer(table, target, last) if table else None
        layer = f"lora_unet_{(original.name if table else target).replace('.', '_')}"
        position = original.parts.index(target) if table else 0
        expected.setdefault(layer, {})[position] = change
    assert added.keys() == expected.keys()
    for layer, changes in expected.items():
        joined = torch.cat([changes[i] for i in sorted(changes)])
        if (name != "z-image" and layer.endswith("final_layer_adaLN_modulation_1")) or (
            name == "sd3" and layer.endswith(f"{last}_context_block_adaLN_modulation_1")
        ):  # shift comes before scale in the original code
            joined = torch.cat(joined.chunk(2)[::-1])
        assert (added[layer] - joined).abs().max() < 1e-5 * max(1, joined.abs().max())


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("flux2", single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers),
        ("z-image", single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers),
    ],
)
def test_names_of_original_layers_are_those_that_diffusers_converts(name, convert):
    family = family_of(MAKERS[name]())
    targets = linear_layers(family.denoiser)
    trainable = Trainable(family, ModelConfig(lora_rank=3, lora_targets=targets))
    for parameter in trainable.parameters:
        parameter.data = torch.randn_like(parameter)
    original = original_layers(TABLES[type(family)], family.denoiser, lora_layers(family.denoiser))
    converted = convert({f"{layer}.weight": up @ down for layer, (down, up) in original.items()})
    assert converted.keys() == {f"{target}.weight" for target in targets}
    for target in targets:
        change = family.denoiser.get_submodule(target).get_delta_weight("default")
        assert (converted[f"{target}.weight"] - change).abs().max() < 1e-5 * max(1, change.abs().max())


def test_a_layer_without_lora_beside_one_with_it_does_not_change():
    family = family_of(MAKERS["flux"]())
    trainable = Trainable(family, ModelConfig(lora_rank=2, lora_targets=("to_k",)))
    for parameter in trainable.parameters:
        parameter.data = torch.randn_like(parameter)
    up = kohya_tensors(family, lora_layers(family.denoiser), 1.0)[
        "lora_unet_single_blocks_0_linear1.lora_up.weight"
    ]
    size = family.denoiser.config.attention_head_dim * family.denoiser.config.num_attention_heads
    changed = up.abs().sum(1) > 0
    assert up.shape == (7 * size, 2)  # queries, keys, values, and four times as many of the MLP
    assert changed.nonzero().flatten().tolist() == list(range(size, 2 * size))


def test_diffusers_reads_the_file_back(tmp_path):
    """Not for FLUX.1: diffusers reads such files only at the sizes of the published model."""
    pipeline = MAKERS["sd"]()
    trainable = Trainable(family_of(pipeline), ModelConfig(lora_rank=4, lora_alpha=2))
    for parameter in trainable.parameters:
        parameter.data = torch.randn_like(parameter)
    write_comfyui_lora(trainable, load_config(settings=[f"run.out={tmp_path / 'x'}"]), ["a"], 1, tmp_path)
    other = MAKERS["sd"]()
    other.load_lora_weights(tmp_path, weight_name="x_comfyui.safetensors", adapter_name="default")
    ours, theirs = (getattr(p, trainable.family.part) for p in (pipeline, other))
    compared = 0
    for layer, module in ours.named_modules():
        if hasattr(module, "get_delta_weight"):
            change = theirs.get_submodule(layer).get_delta_weight("default")
            assert (module.get_delta_weight("default") - change).abs().max() < 1e-5
            compared += 1
    assert compared > 10


def test_the_metadata_names_model_and_recipe(tmp_path):
    trainable = Trainable(family_of(MAKERS["sdxl"]()), ModelConfig(lora_rank=2))
    config = load_config(
        settings=[
            f"run.out={tmp_path / 'x'}",
            f"model.id={tmp_path}",
            "rewards=[{name: tiny, weight: 0.5}, {name: tiny-judge, weight: 0}]",
        ]
    )
    path = write_comfyui_lora(trainable, config, ["a"], 7, tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"  # without it the WebUI assumes SD 1
    assert metadata["refl.base_model"] == tmp_path.name  # no path of this machine
    assert json.loads(metadata["refl.rewards"]) == [{"name": "tiny", "weight": 0.5}]
    assert (metadata["refl.rank"], metadata["refl.strategy"], metadata["refl.step"]) == ("2", "refl", "7")
    assert metadata["refl.prompts_sha256"].startswith("ca978112ca1bbdca")  # SHA-256 of "a"


def test_an_unknown_layer_is_refused():
    with pytest.raises(ModelError, match=r"Cannot name the layer 'transformer_blocks\.0\.extra'"):
        original_layer(FLUX, "transformer_blocks.0.extra", 18)


def test_names_fit_the_prompt_syntax_of_the_webui():
    assert safe_name("a <b>: c") == "a_b_c"
    assert safe_name("...") == "refl"

"""Names of the layers of transformers in their original code, as other programs know them.

diffusers splits some layers of the original code: queries, keys and values are one layer there. UNets and
Qwen-Image need no table: other programs know their layers by the names of diffusers.

Sources: ``MMDiT`` of Stability AI's SD3 and ``Flux`` of Black Forest Labs, checked against the tables of
ComfyUI (comfy/utils.py, ``mmdit_to_diffusers`` and ``flux_to_diffusers``); for FLUX.2 and Z-Image, diffusers'
converters of original checkpoints (loaders/single_file_utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ModelError


@dataclass(frozen=True)
class OriginalLayer:
    """A layer of the original code that contains a layer of diffusers.

    Attributes:
        name: name of the original layer.
        parts: names of all diffusers layers that the original layer joins, in the order of its outputs; one
            name if it joins none.
        swapped: whether the halves of the outputs, scale and shift, are in the other order.
    """

    name: str
    parts: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True)
class LayerTable:
    """The layers of an architecture.

    Attributes:
        blocks: prefix of diffusers' blocks -> (prefix of the original's, name within a block -> original name
            within a block).
        joined: prefix of diffusers' blocks -> original name within a block -> names that it joins.
        others: name of diffusers -> original name of the layers outside blocks.
    """

    blocks: Mapping[str, tuple[str, Mapping[str, str]]]
    joined: Mapping[str, Mapping[str, tuple[str, ...]]]
    others: Mapping[str, str]


_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_SECOND_QKV = ("attn2.to_q", "attn2.to_k", "attn2.to_v")  # of SD3.5 medium

SD3 = LayerTable(
    blocks={
        "transformer_blocks": (
            "joint_blocks",
            {
                "norm1.linear": "x_block.adaLN_modulation.1",
                "attn.to_out.0": "x_block.attn.proj",
                "attn2.to_out.0": "x_block.attn2.proj",
                "ff.net.0.proj": "x_block.mlp.fc1",
                "ff.net.2": "x_block.mlp.fc2",
                "norm1_context.linear": "context_block.adaLN_modulation.1",
                "attn.to_add_out": "context_block.attn.proj",
                "ff_context.net.0.proj": "context_block.mlp.fc1",
                "ff_context.net.2": "context_block.mlp.fc2",
            },
        )
    },
    joined={
        "transformer_blocks": {
            "x_block.attn.qkv": _QKV,
            "x_block.attn2.qkv": _SECOND_QKV,
            "context_block.attn.qkv": _TEXT_QKV,
        }
    },
    others={
        "pos_embed.proj": "x_embedder.proj",
        "context_embedder": "context_embedder",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
)

FLUX = LayerTable(
    blocks={
        "transformer_blocks": (
            "double_blocks",
            {
                "norm1.linear": "img_mod.lin",
                "attn.to_out.0": "img_attn.proj",
                "ff.net.0.proj": "img_mlp.0",
                "ff.net.2": "img_mlp.2",
                "norm1_context.linear": "txt_mod.lin",
                "attn.to_add_out": "txt_attn.proj",
                "ff_context.net.0.proj": "txt_mlp.0",
                "ff_context.net.2": "txt_mlp.2",
            },
        ),
        "single_transformer_blocks": (
            "single_blocks",
            {"norm.linear": "modulation.lin", "proj_out": "linear2"},
        ),
    },
    joined={
        "transformer_blocks": {"img_attn.qkv": _QKV, "txt_attn.qkv": _TEXT_QKV},
        "single_transformer_blocks": {"linear1": (*_QKV, "proj_mlp")},
    },
    others={
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
)


FLUX2 = LayerTable(
    blocks={
        "transformer_blocks": (
            "double_blocks",
            {
                "attn.to_out.0": "img_attn.proj",
                "ff.linear_in": "img_mlp.0",
                "ff.linear_out": "img_mlp.2",
                "attn.to_add_out": "txt_attn.proj",
                "ff_context.linear_in": "txt_mlp.0",
                "ff_context.linear_out": "txt_mlp.2",
            },
        ),
        "single_transformer_blocks": (
            "single_blocks",
            {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        ),
    },
    joined={
        "transformer_blocks": {"img_attn.qkv": _QKV, "txt_attn.qkv": _TEXT_QKV},
        "single_transformer_blocks": {},
    },
    others={
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
)

_Z_IMAGE_BLOCK = {
    "attention.to_out.0": "attention.out",
    **{f"feed_forward.w{i}": f"feed_forward.w{i}" for i in (1, 2, 3)},
    "adaLN_modulation.0": "adaLN_modulation.0",
}
_Z_IMAGE_QKV = {"attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v")}
_Z_IMAGE_PARTS = ("layers", "noise_refiner", "context_refiner")

Z_IMAGE = LayerTable(
    blocks={part: (part, _Z_IMAGE_BLOCK) for part in _Z_IMAGE_PARTS},
    joined=dict.fromkeys(_Z_IMAGE_PARTS, _Z_IMAGE_QKV),
    others={
        "all_x_embedder.2-1": "x_embedder",
        "all_final_layer.2-1.linear": "final_layer.linear",
        "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        **{name: name for name in ("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")},
    },
)


def original_layer(table: LayerTable, name: str, last_block: int) -> OriginalLayer:
    """Return the original layer that contains a layer of diffusers.

    Args:
        table: layers of the architecture.
        name: name of the layer in diffusers' transformer.
        last_block: index of the last block with text. In SD3 it ends the text stream: its modulation has
            scale before shift in diffusers and after it in the original, as the final layer's.

    Raises:
        ModelError: the table has no such layer.
    """
    if name in table.others:
        return OriginalLayer(table.others[name], (name,), swapped=name == "norm_out.linear")
    match = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", name)
    if match is not None and match[1] in table.blocks:
        prefix, (original_prefix, names) = match[1], table.blocks[match[1]]
        inner, block, number = match[3], f"{original_prefix}.{match[2]}", int(match[2])
        if inner in names:
            ends_text = table is SD3 and inner == "norm1_context.linear" and number == last_block
            return OriginalLayer(f"{block}.{names[inner]}", (name,), swapped=ends_text)
        for joint, parts in table.joined[prefix].items():
            if inner in parts:
                return OriginalLayer(f"{block}.{joint}", tuple(f"{prefix}.{number}.{part}" for part in parts))
    raise ModelError(
        f"Cannot name the layer {name!r} for other programs: the original code of the model has no such "
        "layer. Remove it from model.lora_targets."
    )

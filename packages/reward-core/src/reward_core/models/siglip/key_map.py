"""Names of weights: from SigLIP's checkpoint and the published head to this package."""

from __future__ import annotations

from torch import Tensor

_POOLING = "vision_model.head.attention.in_proj_"
_UNUSED = ("text_model.", "logit_scale", "logit_bias")  # parts of SigLIP that rate texts


def to_siglip_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of SigLIP or of the head under the names of `SiglipScorer`.

    SigLIP's text tower is dropped. The projections of queries, keys and values of the pooling head are one
    matrix in the checkpoint.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(_UNUSED):
            continue
        if key.startswith(_POOLING):
            leaf = key[len(_POOLING) :]
            owner = "vision_model.head.attention"
            renamed |= {f"{owner}.{p}_proj.{leaf}": part for p, part in zip("qkv", value.chunk(3))}
        elif key.startswith("scoring_head."):
            renamed[f"head.layers.{key[len('scoring_head.') :]}"] = value
        else:
            renamed[key] = value
    return renamed

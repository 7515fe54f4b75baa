"""Names of MPS's weights: from the authors' checkpoint or imscore's copy to this package."""

from __future__ import annotations

import re

from torch import Tensor

_LAYER = re.compile(r"cross_model\.layers\.(\d+)\.([01])\.fn\.(.+)")
_BLOCKS = ("text", "image")
_IN_BLOCK = {
    "ff.0.weight": "ff_in.weight",
    "ff.2.weight": "ff_out.weight",
    "ff_out.1.weight": "ff_out.weight",
    "attn_out.weight": "to_out.weight",
}
_FUSED = "fused_attn_ff_proj.weight"


def to_mps_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of MPS under the names of `MpsScorer`; unknown names stay."""
    if state and all(key.startswith("mps.") for key in state):  # imscore's copy
        state = {key[len("mps.") :]: value for key, value in state.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("model."):
            renamed[f"clip.{key[len('model.') :]}"] = value
        elif match := _LAYER.fullmatch(key):
            layer = f"cross_model.layers.{match[1]}"
            block, name = f"{layer}.{_BLOCKS[int(match[2])]}", match[3]
            if name == "rotary_emb.inv_freq":
                renamed[f"{layer}.rotary.inv_freq"] = value
            elif name == _FUSED:
                renamed |= _split(block, key, value, state)
            else:
                renamed[f"{block}.{_IN_BLOCK.get(name, name)}"] = value
        else:
            renamed[key] = value
    return renamed


def _split(block: str, key: str, fused: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split the projections of queries, keys and values, and MLP, which are one matrix.

    The widths are those of the output projections; without them, or if they do not fit, the key stays and the
    strict loading reports it.
    """
    owner = key[: -len(_FUSED)]
    outputs = [state.get(f"{owner}{name}.weight") for name in ("attn_out", "ff_out.1")]
    if any(output is None or output.ndim != 2 for output in outputs) or fused.ndim != 2:
        return {key: fused}
    heads, hidden = (output.shape[1] for output in outputs if output is not None)
    sizes = [heads, fused.shape[0] - heads - 2 * hidden, 2 * hidden]
    if sizes[1] < 0:
        return {key: fused}
    return {
        f"{block}.{name}.weight": part for name, part in zip(("to_q", "to_kv", "ff_in"), fused.split(sizes))
    }

"""Write seeded tiny weights in the published layout of a scorer, to try its loading without a download.

    python tools/make_tiny_checkpoint.py PickScore /tmp/tiny-pickscore
    reward-core models                                       # the names

The folder has the published file names and weight names, a configuration with the sizes, and a tokenizer of
single letters. It loads with ``reward_core.load(NAME, files=FOLDER)``. Scores are random numbers that depend
on the image and the prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_scorers import write_mps, write_siglip
from tiny_visionreward import make_visionreward
from tiny_vlm import make_vlm
from tiny_vqascore import make_vqascore
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from reward_core.inputs.tokenizer import SPECIAL_TOKENS
from reward_core.models.blip.scorer import BlipScorer
from reward_core.models.clip.scorer import ClipScorer
from reward_core.models.clip.tokenizer import ENDS
from reward_core.models.imagereward.reward_model import RewardModel
from reward_core.models.model_spec import ModelSpec
from reward_core.models.mps.scorer import MpsScorer
from reward_core.models.registry import BUILT_IN, find_spec
from reward_core.models.siglip.scorer import SiglipScorer
from reward_core.network.encoder_sizes import TextConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def make_tiny_checkpoint(name: str, out: Path, seed: int = 0) -> None:
    """Write the files of a published scorer at a tiny size.

    Args:
        name: registered name, in upper or lower case.
        out: folder to write.
        seed: seed of the weights.

    Raises:
        ValueError: the name is unknown, or its family has no tiny size in this script.
    """
    known = find_spec(name)
    if known is None or known[1].family not in MAKERS:
        raise ValueError(f"Cannot make a tiny {name!r}. Choose one of {', '.join(published_names())}.")
    out.mkdir(parents=True, exist_ok=True)
    MAKERS[known[1].family](known[1], out, seed)


def published_names() -> list[str]:
    """Return the names of the scorers that are downloaded."""
    return [name for name, spec in BUILT_IN.items() if spec.downloads()]


def fill(model: nn.Module, seed: int) -> None:
    """Draw all weights, so that every bias and norm matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            inputs = parameter.shape[-1] if parameter.ndim > 1 else 100
            parameter.copy_(1 + 0.1 * noise if is_norm else noise * inputs**-0.5)


# BLIP and ImageReward


def bert_tokens() -> list[str]:
    """Return a vocabulary of BERT's special tokens and single letters."""
    return [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def small_blip(config: Any, **changes: Any) -> Any:
    """Return the configuration with one head and two layers of width 32."""
    tokens = len(bert_tokens())
    text = TextConfig(
        vocab_size=tokens + 2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        encoder_width=32,
    )
    sizes = {"image_size": 64, "vision_width": 32, "vision_depth": 2, "vision_heads": 2, "proj_dim": 16}
    ids = {"vocab_lines": tokens, "dec_token_id": tokens, "enc_token_id": tokens + 1}
    return replace(config, **sizes, **ids, text=text, **changes)


def write_blip_folder(out: Path, config: Any) -> None:
    """Write the configuration and the vocabulary."""
    (out / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    (out / "vocab.txt").write_text("\n".join(bert_tokens()) + "\n")


def make_imagereward(spec: ModelSpec, out: Path, seed: int) -> None:
    """Write ImageReward.pt."""
    config = small_blip(spec.config, reward_mlp=(32, 1024, 128, 64, 16, 1), score_quantiles=None)
    model = RewardModel(config, None)  # type: ignore[arg-type]  # the weights do not depend on the tokenizer
    fill(model, seed)
    torch.save(model.state_dict(), out / spec.parts["weights"].names[0])
    write_blip_folder(out, config)


def make_blip(spec: ModelSpec, out: Path, seed: int) -> None:
    """Write model_large.pth, with a part of BLIP's pre-training that scoring does not use."""
    config = small_blip(spec.config)
    model = BlipScorer(config, None)  # type: ignore[arg-type]
    fill(model, seed)
    state = {key.removeprefix("blip."): value for key, value in model.state_dict().items()}
    state["temp"] = torch.zeros(1)
    torch.save({"model": state}, out / spec.parts["weights"].names[0])
    write_blip_folder(out, config)


# CLIP, Aesthetic, PickScore, HPSv2.1


def clip_tokenizer() -> Tokenizer:
    """Return a byte-pair tokenizer of single bytes; its last two tokens are CLIP's ends."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, *(f"{a}</w>" for a in letters), *ENDS])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = [(token, vocabulary[token]) for token in ENDS]
    tokenizer.post_processor = processors.TemplateProcessing(f"{ENDS[0]} $A {ENDS[1]}", special_tokens=ends)
    return tokenizer


def make_clip(spec: ModelSpec, out: Path, seed: int) -> None:
    """Write the files of a scorer based on CLIP."""
    tokenizer = clip_tokenizer()
    config = replace(
        spec.config,  # type: ignore[type-var]
        image_size=56, vision_width=32, vision_depth=2, vision_heads=2, vision_mlp=128, text_width=24,
        text_depth=2, text_heads=2, text_mlp=96, proj_dim=20, vocab_size=tokenizer.get_vocab_size(),
    )  # fmt: skip
    model = ClipScorer(config, None)  # type: ignore[arg-type]
    fill(model, seed)
    nn.init.constant_(model.clip.logit_scale, 2.5)
    weights = spec.parts["weights"].names[0]
    state = {key: value.contiguous() for key, value in model.clip.state_dict().items()}
    if spec.parts["config"].names[0] == "open_clip_config.json":
        torch.save({"state_dict": to_open_clip(state)}, out / weights)
        (out / "open_clip_config.json").write_text(json.dumps(open_clip_config(config), indent=1))
    else:
        save_file(state, out / weights, metadata={"format": "pt"})
        (out / "config.json").write_text(json.dumps({**model.clip.config.to_dict(), "model_type": "clip"}))
    if "head" in spec.parts:
        torch.save(model.head.state_dict(), out / spec.parts["head"].names[0])
    tokenizer.save(str(out / "tokenizer.json"))


def open_clip_config(config: Any) -> dict[str, Any]:
    """Return the sizes as open_clip writes them."""
    head_width = config.vision_width // config.vision_heads
    vision = {"layers": config.vision_depth, "width": config.vision_width, "head_width": head_width}
    text = {"layers": config.text_depth, "width": config.text_width, "heads": config.text_heads}
    return {
        "embed_dim": config.proj_dim,
        "vision_cfg": {**vision, "image_size": config.image_size, "patch_size": config.patch_size},
        "text_cfg": {**text, "context_length": config.max_length, "vocab_size": config.vocab_size},
    }


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of transformers' CLIPModel under open_clip's names."""
    result = {
        "logit_scale": state["logit_scale"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
    }
    modules = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    modules["ln_final"] = "text_model.final_layer_norm"
    for side, prefix in (("vision_model", "visual."), ("text_model", "")):
        for layer in {key.split(".")[3] for key in state if key.startswith(f"{side}.encoder.layers.")}:
            old, new = f"{side}.encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
            modules |= {f"{new}.ln_1": f"{old}.layer_norm1", f"{new}.ln_2": f"{old}.layer_norm2"}
            modules |= {f"{new}.mlp.c_fc": f"{old}.mlp.fc1", f"{new}.mlp.c_proj": f"{old}.mlp.fc2"}
            modules[f"{new}.attn.out_proj"] = f"{old}.self_attn.out_proj"
            for leaf in ("weight", "bias"):
                parts = [state[f"{old}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
                result[f"{new}.attn.in_proj_{leaf}"] = torch.cat(parts)
    for new, old in modules.items():
        result |= {f"{new}.{leaf}": state[f"{old}.{leaf}"] for leaf in ("weight", "bias")}
    return result


# MPS, Aesthetic-v2.5


def make_mps(spec: ModelSpec, out: Path, seed: int) -> None:
    """Write MPS's files, with imscore's names of the weights."""
    tokenizer = clip_tokenizer()
    config = replace(
        spec.config,  # type: ignore[type-var]
        image_size=56, vision_width=32, vision_depth=2, vision_heads=2, vision_mlp=128, text_width=24,
        text_depth=2, text_heads=2, text_mlp=96, proj_dim=32, vocab_size=tokenizer.get_vocab_size(),
        cross_depth=2, cross_heads=2, cross_head_width=16, cross_ff=64,
    )  # fmt: skip
    model = MpsScorer(config, None)  # type: ignore[arg-type]
    fill(model, seed)
    nn.init.constant_(model.clip.logit_scale, 2.5)
    write_mps(model, out, spec.parts["weights"].names[0])
    tokenizer.save(str(out / "tokenizer.json"))


def make_siglip(spec: ModelSpec, out: Path, seed: int) -> None:
    """Write the files of Aesthetic-v2.5."""
    config = replace(
        spec.config,  # type: ignore[type-var]
        image_size=64, patch_size=14, vision_width=32, vision_depth=2, vision_heads=2, vision_mlp=64,
    )  # fmt: skip
    model = SiglipScorer(config, None)  # type: ignore[arg-type]
    fill(model, seed)
    write_siglip(model, out, spec.parts["weights"].names[0], spec.parts["head"].names[0])


def make_checklist(spec: ModelSpec, out: Path, seed: int) -> None:
    """Write VisionReward's files, with those of VQAScore in a subfolder."""
    vqascore = BUILT_IN["VQAScore"]
    make_visionreward(out, seed, fill, lambda folder, seed: MAKERS[vqascore.family](vqascore, folder, seed))


# Family -> function that writes its files. A new family adds its own.
MAKERS: dict[str, Callable[[ModelSpec, Path, int], None]] = {
    BUILT_IN["ImageReward-v1.0"].family: make_imagereward,
    BUILT_IN["BLIP"].family: make_blip,
    BUILT_IN["CLIP"].family: make_clip,
    BUILT_IN["MPS"].family: make_mps,
    BUILT_IN["Aesthetic-v2.5"].family: make_siglip,
    BUILT_IN["HPSv3"].family: partial(make_vlm, fill=fill),
    BUILT_IN["HPSv3++"].family: partial(make_vlm, fill=fill),
    BUILT_IN["VisionReward"].family: make_checklist,
    BUILT_IN["VQAScore"].family: partial(make_vqascore, fill=fill),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", metavar="NAME", help=", ".join(published_names()))
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    args = parser.parse_args()
    try:
        make_tiny_checkpoint(args.name, args.out, args.seed)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.out}: load it with reward_core.load({args.name!r}, files={str(args.out)!r})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tiny files of VisionReward for tools/make_tiny_checkpoint.py."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from reward_core.models.cogvlm2.config import CogVlm2Config
from reward_core.models.cogvlm2.key_map import frequency_keys, key_map
from reward_core.models.cogvlm2.network import CogVlm2
from reward_core.models.cogvlm2.packing import pack_questions
from reward_core.models.cogvlm2.prompts import QuestionTokenizer
from reward_core.models.cogvlm2.rotary import inverse_frequencies
from reward_core.models.visionreward.checklist import published_structure

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>")
MERGES = [("y", "e"), ("ye", "s"), ("Ġ", "yes"), ("n", "o"), ("Ġ", "no")]
PIECES = 3
THINGS, LOOKS = (
    ("sky", "tree", "old house", "sea", "cat", "road"),
    ("red", "bright", "calm", "sharp", "small"),
)
TEXTS = [f"Is the {thing} {look}?" for thing in THINGS for look in LOOKS]


def make_visionreward(
    out: Path, seed: int, fill: Callable[[nn.Module, int], None], make_vqascore: Callable[[Path, int], None]
) -> None:
    """Write a folder of local files: checklist/split_part_a*, tokenizer/, alignment/ and checklist.json.

    Args:
        out: the folder.
        seed: seed of the weights.
        fill: function that draws the weights of a model.
        make_vqascore: function that writes the files of VQAScore to a folder.
    """
    tokenizer = llama_tokenizer()
    (out / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(out / "tokenizer" / "tokenizer.json"))
    (out / "checklist").mkdir()
    model = answering_model(tokenizer, seed, fill)
    for i, piece in enumerate(sat_pieces(model)):
        (out / "checklist" / f"split_part_a{'abcdefgh'[i]}").write_bytes(piece)
    published_structure().with_texts(TEXTS, "texts").save(out / "checklist.json")
    (out / "alignment").mkdir()
    make_vqascore(out / "alignment", seed)


def llama_tokenizer() -> Tokenizer:
    """Return a byte-pair tokenizer with Llama 3's special tokens and single tokens for yes and no."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES)]
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer


def answering_model(tokenizer: Tokenizer, seed: int, fill: Callable[[nn.Module, int], None]) -> CogVlm2:
    """Return a network whose greedy answers are yes or no, by chance, and then the end of text.

    The first number of a state marks the token before the end: only the embeddings of "yes" and "no" have it,
    and only the output row of the end token reads it.
    """
    config = CogVlm2Config(
        image_size=56, vision_width=32, vision_depth=2, vision_heads=2, vision_mlp=48, width=32, depth=2,
        heads=4, kv_heads=2, mlp=48, vocab_size=tokenizer.get_vocab_size(),
    )  # fmt: skip
    network = CogVlm2(config)
    fill(network, seed)
    questions = QuestionTokenizer(tokenizer, config.vocab_size, "tokenizer")
    tokens = questions.tokens
    language = network.language_model.requires_grad_(False)
    language.embedding.weight[:, 0] = 0
    language.embedding.weight[[tokens.yes, tokens.space_yes, tokens.no, tokens.space_no], 0] = 50
    direction = varied_direction(network, questions, seed)
    direction[0] = 0
    language.lm_head.weight.zero_()
    language.lm_head.weight[tokens.yes] = direction
    language.lm_head.weight[tokens.no] = -direction
    language.lm_head.weight[tokens.end_of_text, 0] = 50
    return network.eval()


@torch.no_grad()
def varied_direction(network: CogVlm2, questions: QuestionTokenizer, seed: int) -> Tensor:
    """Return a direction in which the states after the questions about an image differ most.

    Along it the mean of the states is 0 for each of some random images, so that about half of the answers are
    yes.
    """
    size = network.config.image_size
    coarse = torch.rand(8, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    pixels = 4 * nn.functional.interpolate(coarse, (size, size)) - 2
    packed = pack_questions(questions(TEXTS), questions.tokens.yeses)
    prefix = network.encode_images(pixels, questions.tokens.begin_of_text)
    states = network.language_model(packed.token_ids, packed.positions, packed.mask, prefix)
    states = states[:, packed.read[:, 0]]  # (images, questions, width)
    states[..., 0] = 0
    means = states.mean(1)
    direction = torch.linalg.svd((states - means[:, None]).flatten(0, 1), full_matrices=False).Vh[0]
    basis = torch.linalg.svd(means, full_matrices=False).Vh  # of the means of all images
    return direction - basis.T @ (basis @ direction)


def sat_pieces(model: CogVlm2) -> list[bytes]:
    """Return the pieces of a tar with the authors' names of files and weights."""
    config = model.config
    own = model.state_dict()
    state: dict[str, Tensor] = {sat: own[key].clone() for sat, key in key_map(config, "sat").items()}
    for key in frequency_keys(config, "sat"):
        state[key] = inverse_frequencies(config.head_width, config.rope_theta, torch.device("cpu"))
    weights = io.BytesIO()
    torch.save({"module": state, "iteration": 1}, weights)
    files = {
        "visionreward/latest": b"1",
        "visionreward/model_config.json": json.dumps(sat_config(config)).encode(),
        "visionreward/1/mp_rank_00_model_states.pt": weights.getvalue(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = packed.getvalue()
    size = len(data) // PIECES + 1
    return [data[start : start + size] for start in range(0, len(data), size)]


def sat_config(config: CogVlm2Config) -> dict[str, object]:
    """Return the sizes as the authors' model_config.json has them."""
    eva = {
        "num_layers": config.vision_depth, "hidden_size": config.vision_width,
        "num_attention_heads": config.vision_heads, "inner_hidden_size": config.vision_mlp,
        "layernorm_epsilon": config.vision_layer_norm_eps, "layernorm_order": "post",
        "use_final_layernorm": False, "image_size": [config.image_size] * 2, "patch_size": config.patch_size,
        "pre_len": 1, "post_len": 0, "in_channels": 3,
    }  # fmt: skip
    return {
        "num_layers": config.depth, "hidden_size": config.width, "num_attention_heads": config.heads,
        "num_multi_query_heads": config.kv_heads, "inner_hidden_size": config.mlp,
        "vocab_size": config.vocab_size, "layernorm_epsilon": config.rms_norm_eps, "use_bias": False,
        "image_length": config.image_tokens, "eva_args": eva,
    }  # fmt: skip

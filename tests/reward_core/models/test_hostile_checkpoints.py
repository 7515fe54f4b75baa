"""Model folders that attack the loader: each fails fast with the name of the file or loads."""

import json
import shutil
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import reward_core as RM
from reward_core.errors import CheckpointError, InputError, RewardCoreError
from reward_core.inputs.prompt_file import read_pairs
from reward_core.metadata.image_scores import read_scores
from reward_core.models.clip.config import ClipConfig
from reward_core.network.config import RewardConfig
from reward_core.rankings.read import read_rankings

TINY = Path(RM.__file__).parent / "demo" / "tiny"
CONFIG = json.loads((TINY / "config.json").read_text())
TOKENIZER = json.loads((TINY / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def weights():
    return load_file(TINY / "model.safetensors")


@pytest.fixture
def tiny(tmp_path):
    """Return a copy of the bundled model for changes."""
    return shutil.copytree(TINY, tmp_path / "tiny")


def changed(key, value):
    """Change a value in config.json; "med." is the prefix of the text encoder."""
    config = json.loads(json.dumps(CONFIG))
    (config["med_config"] if key.startswith("med.") else config)[key.removeprefix("med.")] = value
    return config


def refused(folder, match):
    """Load a folder that must be refused fast."""
    begin = time.process_time()
    with pytest.raises(CheckpointError, match=match):
        RM.load(folder, device="cpu")
    assert time.process_time() - begin < 5


# config.json

HUGE, NAN, INF = 10**400, float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("vision_depth", 10**6, "vision_depth must be at most 1000"),
        ("vision_depth", 900, "asks for 9.. layers, but the file has"),
        ("med.num_hidden_layers", 10**6, "num_hidden_layers must be at most 1000"),
        ("med.num_hidden_layers", 900, "asks for 9.. layers, but the file has"),
        ("reward_mlp", [96] + [4] * 200_000 + [1], "reward_mlp must have at most 1000 numbers"),
        ("reward_mlp", [96] + [4] * 900 + [1], "asks for 9.. layers, but the file has"),
        ("reward_mlp", [], r"reward_mlp must begin with hidden_size \(96\)"),
        ("reward_mlp", [32, 1], r"reward_mlp must begin with hidden_size \(96\)"),
        ("reward_mlp", [96, 2], "end with 1"),
        ("vision_width", 16 * 10**30, "vision_width must be at most 131072"),
        ("med.hidden_size", 12 * 10**9, "hidden_size must be at most 131072"),
        ("med.encoder_width", 64, r"encoder_width of med_config must be vision_width \(128\)"),
        ("med.vocab_size", 10**12, "vocab_size must be at most"),
        ("med.max_position_embeddings", 10**9, "max_position_embeddings must be at most"),
        ("image_size", 10**12, "image_size must be at most 16384"),
        ("patch_size", 10**6, "patch_size must be at most 16384"),
        ("patch_size", 128, r"patch_size must be at most image_size \(64\)"),
        ("vision_mlp_ratio", -4, "vision_mlp_ratio must be 0.01 to 64, got -4"),
        ("vision_mlp_ratio", NAN, "vision_mlp_ratio must be 0.01 to 64, got nan"),
        ("vision_mlp_ratio", INF, "vision_mlp_ratio must be 0.01 to 64, got inf"),
        ("vision_layer_norm_eps", -1.0, "vision_layer_norm_eps must be 1e-20 to 0.1"),
        ("med.layer_norm_eps", NAN, "layer_norm_eps must be 1e-20 to 0.1"),
        ("vision_drop_path", 9, "vision_drop_path must be 0 to 0.999, got 9"),
        ("head_dropout", [9, 9, 9], "head_dropout must be 0 to 0.999, got 9"),
        ("med.hidden_dropout_prob", 9, "hidden_dropout_prob must be 0 to 0.999"),
        ("med.attention_probs_dropout_prob", -1, "attention_probs_dropout_prob must be 0 to 0.999"),
        ("pixel_mean", [HUGE] * 3, "a whole number has 401 digits"),
        ("pixel_mean", [INF] * 3, "pixel_mean must be -10 to 10, got inf"),
        ("pixel_std", [0, 0, 0], "pixel_std must be 0.001 to 100, got 0"),
        ("pixel_std", [NAN] * 3, "pixel_std must be 0.001 to 100, got nan"),
        ("reward_std", 0, "reward_std must be 1e-06 to 1e.06, got 0"),
        ("reward_mean", INF, "reward_mean must be -1e.06 to 1e.06, got inf"),
        ("enc_token_id", -5, "enc_token_id must be 0 to"),
        ("dec_token_id", 2**70, "dec_token_id must be 0 to"),
        ("med.pad_token_id", 10**9, "pad_token_id must be 0 to"),
        ("score_quantiles", {"values": [NAN] * 5, "source": "x"}, "finite numbers in ascending order"),
        ("score_quantiles", {"values": [1.0, 0.0], "source": "x"}, "finite numbers in ascending order"),
        ("score_quantiles", {"values": "123", "source": "x"}, "must have 1 to 100,000 values"),
        ("score_quantiles", {"values": [], "source": "x"}, "must have 1 to 100,000 values"),
        ("score_quantiles", {"values": [0.0], "source": 5}, "source of score_quantiles must be a string"),
    ],
)
def test_a_value_out_of_range_is_reported_before_a_model_is_built(tiny, key, value, reason):
    (tiny / "config.json").write_text(json.dumps(changed(key, value)))
    refused(tiny, rf"{tiny.name}/.*{reason}")


def test_values_passed_by_the_caller_have_the_same_ranges():
    for value in (HUGE, -HUGE, NAN):
        with pytest.raises(CheckpointError, match="pixel_mean must be -10 to 10"):
            RewardConfig.from_dict(changed("pixel_mean", [value] * 3))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("vision_depth", 10**6, "vision_depth must be at most 1000"),
        ("vision_width", "x", "vision_width must be a whole number"),
        ("text_heads", 5, "a width of 768 is not divisible by 5 attention heads"),
        ("vocab_size", 1, "vocab_size must be at least 2"),
        ("image_size", 10**6, "image_size must be at most 16384"),
        ("patch_size", 1000, "patch_size must be at most image_size"),
        ("activation", "swish", "activation must be quick_gelu or gelu"),
        ("fit", "stretch", "fit must be crop or pad"),
        ("scaled", 1, "scaled must be true or false"),
        ("head", 5, "head must be a list of numbers"),
        ("head", [5, 2], "head must end with 1"),
    ],
)
def test_the_configuration_of_a_clip_is_checked(tmp_path, key, value, reason):
    (tmp_path / "config.json").write_text(json.dumps({**ClipConfig().to_dict(), key: value}))
    save_file({"clip.logit_scale": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"Cannot load '.*config\.json': {reason}"):
        RM.load_score(tmp_path, device="cpu")


def test_layers_of_a_clip_are_counted_before_it_is_built(tmp_path):
    config = {**ClipConfig().to_dict(), "vision_depth": 900}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"clip.logit_scale": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="asks for 912 layers, but the file has 1 weights"):
        RM.load_score(tmp_path, device="cpu")


# JSON of any kind

DEEP = ["[" * 200_000, '{"a":' * 200_000, "[" * 500 + "]" * 500, '{"a":' * 101 + "1" + "}" * 101]
READERS = {
    "config.json": lambda path: RM.load(path.parent, device="cpu"),
    "prompts.json": lambda path: read_pairs(path, path.parent),
    "rankings.json": read_rankings,
    "rankings.jsonl": read_rankings,
    "scores.json": read_scores,
    "scores.jsonl": read_scores,
}


@pytest.mark.parametrize("text", [*DEEP, "9" * 5000, "[" + "9" * 400 + "]", "\0"], ids=lambda text: text[:6])
@pytest.mark.parametrize("name", READERS)
def test_the_error_for_invalid_json_names_the_file(tiny, name, text):
    (tiny / name).write_text(text)
    with pytest.raises(RewardCoreError, match=name.replace(".", r"\.")):
        READERS[name](tiny / name)


@pytest.mark.parametrize("name", READERS)
def test_the_error_for_json_in_another_encoding_names_the_file(tiny, name):
    (tiny / name).write_bytes("[]".encode("utf-16"))
    with pytest.raises(RewardCoreError, match=name.replace(".", r"\.")):
        READERS[name](tiny / name)


def test_json_with_the_maximum_depth_is_read(tmp_path):
    record = {"id": "1", "prompt": "a", "generations": ["a.png"], "ranking": [1], "objects": 0}
    text = json.dumps([record]).replace('"objects": 0', '"objects": ' + "[" * 97 + "]" * 97)
    (tmp_path / "rankings.json").write_text(text)
    assert len(read_rankings(tmp_path / "rankings.json")) == 1


def test_utilities_that_overflow_a_float_are_reported(tmp_path):
    record = {"id": "1", "prompt": "a", "generations": ["a.png"], "ranking": [1], "utilities": [10**299]}
    (tmp_path / "rankings.json").write_text(json.dumps([record]))
    assert read_rankings(tmp_path / "rankings.json")[0].utilities == (1e299,)
    record["utilities"] = [HUGE]
    (tmp_path / "rankings.json").write_text(json.dumps([record]))
    with pytest.raises(InputError, match=r"rankings\.json' as JSON: a whole number has 401 digits"):
        read_rankings(tmp_path / "rankings.json")


# Tensors

SPECIAL = {
    "sparse": torch.Tensor.to_sparse,
    "meta": lambda tensor: tensor.to("meta"),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SPECIAL)
def test_tensors_that_are_not_dense_are_refused(tiny, weights, kind):
    torch.save({key: SPECIAL[kind](tensor) for key, tensor in weights.items()}, tiny / "model.pt")
    with pytest.raises(CheckpointError, match=rf"model\.pt': 'blip.* is a {kind} tensor"):
        RM.load(tiny / "model.pt", device="cpu")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_weights_that_are_not_floats_are_refused(tiny, weights, dtype):
    torch.save({key: tensor.to(dtype) for key, tensor in weights.items()}, tiny / "model.pt")
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=f"holds {name} instead of float numbers"):
        RM.load(tiny / "model.pt", device="cpu")


def test_an_expanded_tensor_of_a_terabyte_is_refused(tiny):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tiny / "model.pt")
    with pytest.raises(CheckpointError, match="would take 4,000,000,000,000 bytes"):
        RM.load(tiny / "model.pt", device="cpu")


def test_a_compressed_torch_file_is_refused(tiny, weights):
    torch.save({"a": torch.zeros(1_000_000)}, tiny / "whole.pt")
    with zipfile.ZipFile(tiny / "whole.pt") as whole, zipfile.ZipFile(tiny / "model.pt", "w") as packed:
        for member in whole.namelist():
            packed.writestr(member, whole.read(member), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed and would unpack"):
        RM.load(tiny / "model.pt", device="cpu")


def test_a_safetensors_header_nested_too_deeply_is_refused(tiny):
    header = b'{"a":' * 100_000
    (tiny / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tiny, r"model\.safetensors': it is truncated or damaged")


# tokenizer.json


def with_model(**changes):
    return {**TOKENIZER, "model": {**TOKENIZER["model"], **changes}}


def split_by(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def replacing(content):
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


VOCABULARY = TOKENIZER["model"]["vocab"]
A_WORD = next(word for word in VOCABULARY if word.isalpha())
HOSTILE = {
    "a hole in the ids": with_model(vocab={**VOCABULARY, A_WORD: 10**6}),
    "a negative id": with_model(vocab={**VOCABULARY, A_WORD: -1}),
    "one id twice": with_model(vocab={**VOCABULARY, A_WORD: VOCABULARY["[UNK]"]}),
    "an id that is not a number": with_model(vocab={**VOCABULARY, A_WORD: "5"}),
    "an added token with another id": {
        **TOKENIZER,
        "added_tokens": [{**TOKENIZER["added_tokens"][0], "id": 7}, *TOKENIZER["added_tokens"][1:]],
    },
    "an added token without a text": {
        **TOKENIZER,
        "added_tokens": [
            *TOKENIZER["added_tokens"],
            {**TOKENIZER["added_tokens"][0], "id": 35, "content": ""},
        ],
    },
    "no vocabulary": with_model(vocab={}),
    "a vocabulary that is a list": with_model(vocab=[]),
    "no unknown token": with_model(unk_token="nope"),
    "another model": with_model(type="BPE", merges=[]),
    "words without end": with_model(max_input_chars_per_word=10**9),
    "a regex that takes minutes": {**TOKENIZER, "pre_tokenizer": split_by("(a+)+$")},
    "a regex with several repetitions": {**TOKENIZER, "pre_tokenizer": split_by("a*a*a*a*a*b")},
    "a wrong regex": {**TOKENIZER, "pre_tokenizer": split_by("((((")},
    "a normalizer's regex": {
        **TOKENIZER,
        "normalizer": {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": ""},
    },
    "a normalizer that multiplies": {
        **TOKENIZER,
        "normalizer": {"type": "Sequence", "normalizers": [replacing("a" * 1000)] * 3},
    },
    "a normalizer of very many steps": {
        **TOKENIZER,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 10_000},
    },
    "a normalizer that prepends": {**TOKENIZER, "normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
    "a sequence in a sequence": {
        **TOKENIZER,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]},
    },
    "no post-processor": {**TOKENIZER, "post_processor": None},
    "other ends": {
        **TOKENIZER,
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 10**6], "cls": ["[CLS]", 2]},
    },
    "a list": [],
    "null": None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tokenizer_is_refused_when_the_model_is_loaded(tiny, kind):
    (tiny / "tokenizer.json").write_text(json.dumps(HOSTILE[kind]))
    refused(tiny, r"Cannot read a tokenizer from '.*tokenizer\.json': .")


def test_a_tokenizer_nested_too_deeply_is_refused(tiny):
    (tiny / "tokenizer.json").write_text("[" * 200_000)
    refused(tiny, r"tokenizer\.json': ")


def test_the_truncation_setting_of_a_tokenizer_is_ignored(tiny):
    cut = {"max_length": 0, "strategy": "LongestFirst", "stride": 100, "direction": "Right"}
    (tiny / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "truncation": cut}))
    image = Image.new("RGB", (50, 40), "red")
    score = RM.load(tiny, device="cpu").score("a red circle", image)
    assert score == RM.load(TINY, device="cpu").score("a red circle", image)


def test_a_vocabulary_of_gigabytes_is_refused(tiny):
    (tiny / "tokenizer.json").unlink()
    with (tiny / "vocab.txt").open("wb") as file:
        file.truncate(2**33)
    refused(tiny, r"Cannot read a vocabulary from '.*vocab\.txt': the file is too large")

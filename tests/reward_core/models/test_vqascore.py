"""VQAScore at a tiny size, compared with the authors' program (tests/data/parity_visionreward)."""

import itertools
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.errors import InputError, PromptTruncatedWarning
from reward_core.models.vqascore.config import VqaConfig
from reward_core.models.vqascore.network import ClipT5
from reward_core.models.vqascore.padded_square import BACKGROUND, MOST_SIDE
from reward_core.models.vqascore.weights import published_key

DATA = Path(__file__).parents[2] / "data" / "parity_visionreward"
FOLDER = DATA / "alignment"


class Published:
    """The scorer loaded from the authors' files, and the authors' numbers."""

    def __init__(self):
        self.model = RM.load("VQAScore", device="cpu", files=FOLDER)
        self.reference = json.loads((FOLDER / "pairs.json").read_text())
        self.pairs = self.reference["pairs"]
        self.tensors = dict(np.load(FOLDER / "tensors.npz"))
        self.prompts = [pair["caption"] for pair in self.pairs]
        self.images = [Image.open(DATA / "pictures" / f"{pair['picture']}.png") for pair in self.pairs]
        self.scores = torch.tensor([pair["score_f64"] for pair in self.pairs])


@pytest.fixture(scope="module")
def published():
    return Published()


def close(actual, expected, tolerance=3e-6):
    expected = torch.as_tensor(expected, dtype=torch.as_tensor(actual).dtype)
    torch.testing.assert_close(torch.as_tensor(actual), expected, atol=tolerance, rtol=0)


def test_scores_agree_with_the_authors_program_alone_batched_and_shuffled(published):
    p = published
    close([p.model.score(prompt, image) for prompt, image in zip(p.prompts, p.images)], p.scores)
    close(p.model.score_pairs(p.prompts, p.images, batch_size=12), p.scores)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = p.model.score_pairs([p.prompts[i] for i in order], [p.images[i] for i in order], batch_size=5)
    close(shuffled, p.scores[order])


def test_token_ids_are_those_of_the_authors_tokenizer(published):
    p = published
    token_ids, mask = p.model.tokenizer(p.prompts)
    for ids, seen, pair in zip(token_ids, mask, p.pairs):
        assert ids[: seen.sum()].tolist() == pair["input_ids"]
    assert p.model.tokenizer.answer == p.pairs[0]["label_ids"]
    assert p.model.tokenizer.rows == p.reference["tokenizer_length"]


def test_texts_are_tokenized_as_by_sentencepiece(published):
    cases = json.loads((FOLDER / "token_ids.json").read_text())["texts"]
    spiece = published.model.tokenizer.spiece
    for case in cases:
        assert [token.id for token in spiece(case["text"])] == case["ids"], case["text"]
    assert len(cases) == 25
    # Of nested rules the longest is used: a syllable and its mark, not the syllable alone.
    for text in ("\uff76\uff9e", "\uff8a\uff9f", "\u1100\u1161\u11a8"):
        assert spiece.normalized(text) == "\u2581" + unicodedata.normalize("NFKC", text)


def test_every_stage_agrees_with_the_authors_program(published):
    p, model = published, published.model
    for pair, image in zip(p.pairs, p.images):
        name, key = f"img.{pair['picture']}", f"pair{pair['id']:02}"
        pixels = model.transform.from_pil(image)
        assert np.array_equal(pixels.numpy(), p.tensors[f"{name}.pixels"])
        features = model.encode_pixels(pixels[None])
        close(features[0], p.tensors[f"{name}.vision_features"], 3e-5)
        tokens = model.project_kv(features)
        close(tokens[0], p.tensors[f"{name}.image_features"], 3e-5)
        token_ids, mask = model.tokenizer([pair["caption"]])
        mask = model.mask_to_upload(mask)
        inputs, seen = model.network.encoder_inputs(tokens, token_ids, mask, model.tokenizer.image_index)
        assert (len(inputs[0]), seen) == (pair["n_encoder"], None)
        if f"{key}.encoder_in" in p.tensors:
            close(inputs[0], p.tensors[f"{key}.encoder_in"], 3e-5)
            encoded = model.network.t5.encoder(inputs_embeds=inputs).last_hidden_state
            close(encoded[0], p.tensors[f"{key}.encoder_out"], 3e-5)
        logits = model.answer_logits(tokens, token_ids, mask)[0]
        close(logits, p.tensors[f"{key}.logits"], 5e-5)
        log_probabilities = logits.log_softmax(-1)[[0, 1], pair["label_ids"]]
        close(log_probabilities, pair["token_logprobs"], 5e-5)


def test_a_matrix_encodes_each_image_once(published):
    p, calls = published, []
    hook = p.model.network.vision.register_forward_hook(lambda *_: calls.append(1))
    matrix = p.model.score_matrix(p.prompts[:5], [p.images[0], p.images[2], p.images[4]], batch_size=1)
    hook.remove()
    assert len(calls) == 3
    close(matrix[[0, 1, 2, 3, 4], [0, 0, 1, 1, 2]], p.scores[:5])
    features = p.model.encode_images([p.images[0], p.images[2], p.images[4]])
    assert features.data.shape == (3, 16, 32)
    close(p.model.score_matrix(p.prompts[:5], features, batch_size=3), matrix)
    ranking, rewards = p.model.inference_rank(p.prompts[0], [p.images[0], p.images[2]])
    assert ranking == ([1, 2] if rewards[0] > rewards[1] else [2, 1])
    close(rewards[0], p.scores[0])


# Prompts


def test_special_tokens_in_a_prompt_are_ordinary_text(published):
    model, image = published.model, published.images[0]
    prompts = [f"a {token} b" for token in ("<image>", "</s>", "<pad>", "<extra_id_0>")]
    ids, mask = model.tokenizer(prompts)
    assert ((ids == -200).sum(1) == 1).all()
    assert (((ids == 1) & mask.bool()).sum(1) == 2).all()
    assert len(set(model.score_matrix(prompts, [image])[:, 0].tolist())) == 4


def test_long_prompts_are_cut_at_2048_tokens(published):
    model = published.model
    words = " ".join(f"cat{i}" for i in range(900))
    with pytest.warns(PromptTruncatedWarning, match=r"cut at 2048 tokens, ignoring 't649 .* of 'cat0 "):
        ids, mask = model.tokenizer([words, "a cat"])
    assert ids.shape == (2, 2048)
    assert mask.sum(1).tolist() == [2048, len(model.tokenizer(["a cat"])[0][0])]
    assert model.tokenizer.dropped_words(words).endswith("cat898 cat899")
    assert model.tokenizer.dropped_words("a cat") == ""
    with pytest.raises(InputError, match=r"more than 262,144 \(REWARD_CORE_MAX_PROMPT_TEXT"):
        model.tokenizer(["\ufdfa" * 20_000])  # one character becomes 18


# Images


def padded_by_pil(image, size):
    """Return an image pasted into the middle of a square, then resized, as levels."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(image.convert("RGB"), ((side - width) // 2, (side - height) // 2))
    return np.array(square.resize((size, size), Image.Resampling.BICUBIC))


def noise(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "size", [(90, 61), (61, 90), (57, 56), (3, 5), (56, 1), (1, 300), (56, 56), (900, 31), (31, 900)]
)
def test_images_are_padded_and_resized_as_by_pil(published, size):
    image, transform = noise(*size), published.model.transform
    expected = padded_by_pil(image, 56)
    assert np.array_equal(transform.to_uint8(image), expected)
    # Float images are rounded in the same steps, but may differ in ties.
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    difference = (transform.resize(levels)[0].permute(1, 2, 0) - torch.from_numpy(expected).float()).abs()
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_large_squares_are_resized_in_strips(published):
    image = noise(30, 4200)  # a square of 18 million pixels, in two strips
    assert np.array_equal(published.model.transform.to_uint8(image), padded_by_pil(image, 56))


def test_the_longest_strips_score_and_longer_ones_are_error_rows(published):
    strips = [Image.new("RGB", size, "red") for size in ((MOST_SIDE, 1), (1, MOST_SIDE + 1), (5, 5))]
    rows = list(published.model.score_rows(["a"] * 3, strips))
    assert [row.error is None for row in rows] == [True, False, True]
    assert rows[1].error == "its longer side, 65,537 pixels, is over 65,536. Crop it"


def test_squares_are_prepared_without_torch(published):
    assert published.model.transform.prepares_with_pil
    code = "import sys, reward_core.models.vqascore.padded_square as m; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# Gradients


def test_gradients_are_those_of_finite_differences(published):
    model = RM.load("VQAScore", device="cpu", files=FOLDER)
    model.network.double()
    pixels = model.transform.from_pil(published.images[0])[None].double().repeat(2, 1, 1, 1)
    tokens = model.tokenizer(published.prompts[:2])
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).double()
    inputs = pixels.clone().requires_grad_()
    model(inputs, *tokens).sum().backward()
    step = 1e-4 * direction
    with torch.no_grad():
        difference = model(pixels + step, *tokens).sum() - model(pixels - step, *tokens).sum()
    # Logits are rounded to float32.
    assert (inputs.grad * direction).sum().item() == pytest.approx(difference.item() / 2e-4, rel=1e-2)


def test_float_images_score_as_files_and_carry_gradients(published):
    p = published
    for i in (0, 2, 4):
        pixels = torch.from_numpy(np.array(p.images[i].convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        pixels.requires_grad_()
        rewards = p.model.rewards_from_pixels(pixels, [p.prompts[i]])
        close(rewards.detach(), p.scores[i : i + 1], 2e-3)  # ties of rounding
        rewards.sum().backward()
        assert pixels.grad.isfinite().all()
        assert (pixels.grad != 0).float().mean() > 0.9
    with pytest.raises(InputError, match="got 2 prompts but 1 images"):
        p.model.rewards_from_pixels(pixels, ["a", "b"])


# Weights


def test_the_published_weights_match_the_full_size_model():
    """The names and shapes of all 956 published tensors, with their other names for the embeddings."""
    stored = {}
    for entry in json.loads((DATA / "keys" / "full_size_keys_alignment.json").read_text())["keys"]:
        ranges = [range(first, last + 1) for first, last in entry["index_range"]]
        numbered = list(itertools.product(*ranges))
        # The projector has layers 0 and 2.
        for numbers in numbered if len(numbered) == entry["count"] else (numbered[0], numbered[-1]):
            key = entry["key"]
            for number in numbers:
                key = key.replace("{i}", str(number), 1)
            stored[key] = tuple(entry["shape"])
    assert len(stored) == 956
    with torch.device("meta"):
        network = ClipT5(VqaConfig())
    ours = {published_key(key): tuple(p.shape) for key, p in network.named_parameters()}
    assert sum(p.numel() for p in network.parameters()) == 11_459_590_144
    cut = {"shared.weight", "lm_head.weight"}  # 32128 rows, of which the tokenizer's 32100 are used
    aliases = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight"}
    assert {stored[key] for key in cut | aliases} == {(32128, 4096)}
    assert {ours[key] for key in cut} == {(32100, 4096)}
    assert {k: s for k, s in ours.items() if k not in cut} == {
        k: s for k, s in stored.items() if k not in cut | aliases
    }

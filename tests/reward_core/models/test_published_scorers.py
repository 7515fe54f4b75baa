"""Published scorers at tiny sizes, compared with the authors' programs (tests/data/parity_scorers)."""

import json
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import reward_core as RM
from reward_core.errors import InputError, KeyMismatchError
from reward_core.inputs.image_transform import ImageTransform

DATA = Path(__file__).parents[2] / "data" / "parity_scorers"


@dataclass(frozen=True)
class Case:
    """A scorer, its reference, and tolerances.

    Attributes:
        key: key of the scores in reference.json.
        tolerance: largest difference of a score in float32.
        rounding: largest difference of a score with 16-bit matrices. Measured: a third to a half of it.
        stride: of the rows and columns of stored gradients.
        variants: other scores in reference.json, and the settings that compute them.
    """

    folder: str
    key: str
    tolerance: float
    rounding: float
    stride: int = 4
    variants: dict[str, dict] = field(default_factory=dict)


OTHER_CONDITION = "light, color, clarity, tone, style, ambiance, artistry"
CASES = {
    "PickScore": Case("pickscore", "score_float64", 2e-4, 1.5),
    "HPSv2.1": Case(
        "hpsv2_1",
        "score_antialias_float64",
        5e-6,
        0.01,
        variants={"score_no_antialias": {"antialias": False}},
    ),
    "CycleReward-Combo": Case("cyclereward", "score_float64", 5e-5, 0.06),
    "MPS": Case(
        "mps",
        "score_float64",
        2e-4,
        1.2,
        variants={
            "score_threshold_0.01": {"threshold": 0.01},
            "score_condition_other": {"condition": OTHER_CONDITION},
        },
    ),
    "Aesthetic-v2.5": Case("aesthetic_v2_5", "score_float64", 5e-5, 0.1, stride=6),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning"),
    pytest.mark.filterwarnings("ignore::reward_core.errors.EmptyPromptWarning"),
]


class Published:
    """A scorer loaded from the authors' files, and what their program computed."""

    def __init__(self, name):
        self.name, self.case = name, CASES[name]
        folder = DATA / self.case.folder
        self.model = RM.load(name, device="cpu", files=folder)
        reference = json.loads((folder / "reference.json").read_text())
        self.pairs = reference.get("pairs") or reference["pictures"]
        self.prompts = [pair.get("prompt", "") for pair in self.pairs]
        self.images = [Image.open(DATA / pair["picture"]) for pair in self.pairs]
        self.tensors = load_file(folder / "inputs.safetensors")

    def expected(self, key=None):
        key = key or self.case.key
        return np.array([pair.get(key, pair.get(key.removesuffix("_float64"))) for pair in self.pairs])

    def agrees(self, scores, expected=None, tolerance=None):
        expected = self.expected() if expected is None else expected
        np.testing.assert_allclose(scores, expected, atol=tolerance or self.case.tolerance, rtol=0)


@pytest.fixture(scope="module")
def scorers():
    return cache(Published)


@pytest.fixture(params=CASES)
def published(request, scorers):
    return scorers(request.param)


def test_token_ids_are_those_of_the_authors_program(published):
    for i, prompt in enumerate(published.prompts):
        if f"input_ids.{i}" not in published.tensors:
            assert published.name == "Aesthetic-v2.5"
            continue
        ids = published.model.tokenizer([prompt], warn=False)[0][0].tolist()
        padded = published.tensors[f"input_ids.{i}"].tolist()
        assert padded[: len(ids)] == ids
        assert len(set(padded[len(ids) :])) <= 1  # nothing but padding


@pytest.mark.slow
def test_scores_do_not_depend_on_batches_or_order(published):
    model, prompts, images = published.model, published.prompts, published.images
    published.agrees([model.score(prompt, image) for prompt, image in zip(prompts, images)])
    published.agrees(model.score_pairs(prompts, images, batch_size=5))
    backwards = model.score_pairs(prompts[::-1], images[::-1], batch_size=3)
    published.agrees(backwards, published.expected()[::-1])
    features = model.encode_prompts(prompts), model.encode_images(images)
    published.agrees(model.score_pairs(*features))
    few = slice(2, 7)
    published.agrees(
        model.score_matrix(prompts[few], images[few], batch_size=2).diagonal(), published.expected()[few]
    )
    matrix = model.score_matrix(features[0][few], features[1][few])
    published.agrees(matrix.diagonal(), published.expected()[few])


def test_scores_do_not_depend_on_padding(published):
    model = published.model
    pixels = torch.stack([model.transform.from_pil(image) for image in published.images[:4]])
    ids, mask = model.tokenizer(published.prompts[:4], warn=False)
    length = min(ids.shape[1] + 9, model.tokenizer.max_length)
    padded = model.tokenizer(published.prompts[:4], length=length, warn=False)
    for tokens in ((ids, mask), padded):
        published.agrees(model(pixels, *tokens), published.expected()[:4])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), [(name, key) for name in CASES for key in CASES[name].variants])
def test_settings_choose_the_authors_other_variants(scorers, name, key):
    published = scorers(name)
    model = published.model.with_settings(**CASES[name].variants[key])
    published.agrees(model.score_pairs(published.prompts, published.images), published.expected(key))
    published.agrees(published.model.score_pairs(published.prompts, published.images))  # is unchanged
    assert next(model.parameters()) is next(published.model.parameters())


def test_gradients_agree_with_the_authors_program(published):
    found = [key for key in published.tensors if key.startswith("grad_score_pixels.")]
    assert found
    for key in found:
        i, step = int(key.rpartition(".")[2]), published.case.stride
        token_ids, mask = published.model.tokenizer(published.prompts[i : i + 1], warn=False)
        pixels = published.model.transform.from_pil(published.images[i])[None].requires_grad_()
        published.model(pixels, token_ids, mask).sum().backward()
        expected = published.tensors[key]
        assert (pixels.grad[0, :, ::step, ::step] - expected).norm() < 1e-4 * expected.norm()


def test_rewards_of_float_pixels_are_those_of_the_image(published):
    image, prompt = published.images[4].convert("RGB"), published.prompts[4]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    pixels.requires_grad_()
    reward = published.model.rewards_from_pixels(pixels, [prompt])
    score = published.model.score(prompt, image)
    assert reward.item() == pytest.approx(score, abs=published.case.rounding / 10)
    reward.sum().backward()
    assert 0 < pixels.grad.norm() < float("inf")


@pytest.mark.slow
def test_16_bit_matrices_change_scores_little(scorers, published):
    fast = Published(published.name)
    fast.model.set_encoder_dtype(torch.bfloat16)
    fast.model.fast = True
    scores = fast.model.score_pairs(fast.prompts, fast.images)
    fast.agrees(scores, tolerance=fast.case.rounding)
    assert (scores - torch.tensor(fast.expected())).abs().max() > 2 * fast.case.tolerance  # was in effect
    matrix = fast.model.score_matrix(fast.prompts[:3], fast.images[:3])
    fast.agrees(matrix.diagonal(), fast.expected()[:3], tolerance=fast.case.rounding)
    if published.name in ("PickScore", "MPS"):  # bfloat16 would change every score by up to 0.4%
        assert fast.model.clip.logit_scale.dtype == torch.float32


@pytest.mark.slow
def test_images_of_any_mode_and_shape_are_scored_alike_in_batches(published):
    levels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    image = Image.fromarray(levels)
    modes = [image.convert(mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    shapes = [
        image.convert("RGB").resize(size) for size in ((1, 1), (1, 400), (400, 2), (224, 100), (384, 384))
    ]
    images = [*modes, *shapes]
    prompts = [["a red house", "", "a cat " * 60][i % 3] for i in range(len(images))]
    alone = [published.model.score(prompt, image) for prompt, image in zip(prompts, images)]
    assert np.isfinite(alone).all()
    published.agrees(published.model.score_pairs(prompts, images, batch_size=4), np.array(alone))


def test_a_saved_folder_gives_the_same_scores(published, tmp_path):
    variants = list(published.case.variants.items()) or [(published.case.key, {})]
    key, settings = variants[0]
    published.model.with_settings(**settings).save_pretrained(tmp_path / "saved")
    model = RM.load(tmp_path / "saved", device="cpu")
    published.agrees(model.score_pairs(published.prompts, published.images), published.expected(key))


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_missing_and_unexpected_weights_are_errors(published, tmp_path, change):
    folder = shutil.copytree(DATA / published.case.folder, tmp_path / "files")
    for file in folder.glob("*.safetensors"):
        if file.name == "inputs.safetensors":
            continue
        state = {key: tensor.clone() for key, tensor in load_file(file).items()}
        key = sorted(state)[-1]
        state = {k: v for k, v in state.items() if k != key} if change == "missing" else state
        save_file({**state, **({"odd.weight": torch.zeros(2)} if change == "unexpected" else {})}, file)
    with pytest.raises(KeyMismatchError, match="odd.weight" if change == "unexpected" else "missing"):
        RM.load(published.name, device="cpu", files=folder)


def test_unknown_and_invalid_settings_are_errors(scorers):
    mps = scorers("MPS").model
    with pytest.raises(InputError, match=r"\['size'\] of MpsScorer: it has condition, threshold"):
        mps.with_settings(size=2)
    with pytest.raises(InputError, match="threshold must be below 1"):
        mps.with_settings(threshold=1.0)
    with pytest.raises(InputError, match="antialias must be true or false"):
        scorers("HPSv2.1").model.with_settings(antialias=1)


@pytest.mark.slow
def test_mps_compares_similarities_within_one_prompt(scorers):
    """The tiny weights have the same largest similarity for all prompts; these have not."""
    published = Published("MPS")
    torch.manual_seed(0)
    text = published.model.clip.text_model
    with torch.no_grad():
        text.final_layer_norm.bias.normal_(std=0.1)
        text.embeddings.position_embedding.weight[0].normal_(std=0.01)
        text.embeddings.token_embedding.weight[-2].normal_(std=0.01)
    model = published.model.with_settings(threshold=0.9)
    alone = [model.score(prompt, image) for prompt, image in zip(published.prompts, published.images)]
    published.agrees(model.score_pairs(published.prompts, published.images), np.array(alone))
    matrix = model.score_matrix(published.prompts[:4], published.images[:4])
    published.agrees(matrix.diagonal(), np.array(alone[:4]))


def test_aesthetic_v2_5_ignores_the_prompt(scorers):
    published = scorers("Aesthetic-v2.5")
    matrix = published.model.score_matrix(["", "a red house", "x" * 500], published.images)
    for row in matrix:
        published.agrees(row)


@pytest.mark.parametrize("size", [(384, 384), (300, 200), (70, 900), (900, 70), (500, 1300), (768, 768)])
def test_stretched_images_are_pils(scorers, size):
    transform: ImageTransform = scorers("Aesthetic-v2.5").model.transform
    levels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    resized = np.array(image.resize((384, 384), Image.Resampling.BICUBIC))
    assert np.array_equal(transform.to_uint8(image), resized)
    pixels = transform.resize(torch.from_numpy(levels).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    assert (pixels - torch.from_numpy(resized).float()).abs().max() <= 1


@pytest.mark.parametrize(
    ("prompt", "same_as"),
    [
        ("It’s “fine”…", 'it\'s "fine"…'),
        ("rock &amp;amp; roll", "rock & roll"),
        ("ＡＢＣ ﬁne\n\n  text", "abc fine text"),
        ("schÃ¶n", "schön"),
    ],
)
def test_hpsv2_cleans_prompts_like_open_clip(scorers, prompt, same_as):
    tokenizer = scorers("HPSv2.1").model.tokenizer
    ids = tokenizer([prompt])[0].tolist()
    assert ids == tokenizer([same_as])[0].tolist()
    assert scorers("PickScore").model.tokenizer([prompt])[0].tolist() != ids


@pytest.mark.parametrize("name", ["PickScore", "HPSv2.1", "MPS"])
def test_an_end_token_in_a_prompt_is_where_it_is_read(scorers, name):
    published = scorers(name)
    image = published.images[0]
    ids = published.model.tokenizer(["a red <|endoftext|> house"])[0][0]
    assert (ids == ids.max()).sum() == 2
    if name != "MPS":  # which reads all tokens
        score = published.model.score("a red <|endoftext|> house", image)
        published.agrees(score, published.model.score("a red", image))

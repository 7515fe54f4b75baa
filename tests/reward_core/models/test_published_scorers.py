"""PickScore and HPSv2.1 at tiny sizes, compared with the authors' programs (tests/data/parity_scorers)."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import reward_core as RM

DATA = Path(__file__).parents[2] / "data" / "parity_scorers"
# name -> folder, key of the scores, tolerance of scores, number of pairs whose text the scorer reads alike
SCORERS = {
    "PickScore": ("pickscore", "score_float64", 2e-4, 12),
    "HPSv2.1": ("hpsv2_1", "score_antialias_float64", 5e-6, 12),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::reward_core.errors.PromptTruncatedWarning"),
    pytest.mark.filterwarnings("ignore::reward_core.errors.EmptyPromptWarning"),
]


@pytest.fixture(scope="module", params=SCORERS)
def published(request):
    """Return (name, model, reference, tensors) of a scorer loaded from the authors' files."""
    folder = DATA / SCORERS[request.param][0]
    model = RM.load(request.param, device="cpu", files=folder)
    reference = json.loads((folder / "reference.json").read_text())
    return request.param, model, reference, load_file(folder / "inputs.safetensors")


def pairs_of(name, reference):
    _, key, _, count = SCORERS[name]
    pairs = reference["pairs"][:count]
    images = [Image.open(DATA / pair["picture"]) for pair in pairs]
    return [pair["prompt"] for pair in pairs], images, [pair[key] for pair in pairs]


def test_scores_agree_with_the_authors_program(published):
    name, model, reference, tensors = published
    prompts, images, expected = pairs_of(name, reference)
    tolerance = SCORERS[name][2]
    for i, prompt in enumerate(prompts):
        ids = tensors[f"input_ids.{i}"].tolist()
        assert (
            model.tokenizer([prompt], warn=False)[0][0].tolist()
            == ids[: len(ids) - ids[::-1].index(max(ids))]
        )
    alone = [model.score(prompt, image) for prompt, image in zip(prompts, images)]
    np.testing.assert_allclose(alone, expected, atol=tolerance, rtol=0)
    batched = model.score_pairs(prompts, images, batch_size=5)
    np.testing.assert_allclose(batched, expected, atol=tolerance, rtol=0)


def test_gradients_agree_with_the_authors_program(published):
    name, model, reference, tensors = published
    prompts, images, _ = pairs_of(name, reference)
    for key, expected in tensors.items():
        if not key.startswith("grad_score_pixels."):
            continue
        i = int(key.rpartition(".")[2])
        token_ids, mask = model.tokenizer(prompts[i : i + 1])
        pixels = model.transform.from_pil(images[i])[None].requires_grad_()
        model(pixels, token_ids, mask).sum().backward()
        actual = pixels.grad[0, :, ::4, ::4]
        assert (actual - expected).norm() < 1e-4 * expected.norm()

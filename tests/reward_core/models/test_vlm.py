"""HPSv3 and HPSv3++ at tiny sizes, compared with the authors' programs (tests/data/parity_scorers)."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import reward_core as RM
from reward_core.errors import InputError
from reward_core.models.vlm.image_rows import grids_of, unpacked, vision_patches

DATA = Path(__file__).parents[2] / "data" / "parity_scorers"
FOLDERS = {"HPSv3": "hpsv3", "HPSv3++": "hpsv3pp"}
TOLERANCE = 5e-5  # float32 against float64 is 1.5e-5 (HPSv3) and 1.7e-6 (HPSv3++)

pytestmark = pytest.mark.filterwarnings("ignore::reward_core.errors.EmptyPromptWarning")


class Published:
    """A scorer loaded from the authors' files, and the authors' numbers."""

    def __init__(self, name):
        folder = DATA / FOLDERS[name]
        self.name = name
        self.model = RM.load(name, device="cpu", files=folder)
        self.reference = json.loads((folder / "reference.json").read_text())
        self.pairs = self.reference["pairs"]
        self.inputs = load_file(folder / "inputs.safetensors")
        self.intermediates = load_file(folder / "intermediates.safetensors")
        self.prompts = [pair["prompt"] for pair in self.pairs]
        self.images = [Image.open(DATA / pair["picture"]) for pair in self.pairs]
        self.mu = torch.tensor([pair["mu_float64"] for pair in self.pairs])


@pytest.fixture(scope="module")
def scorers():
    return cache(Published)


@pytest.fixture(params=["HPSv3", pytest.param("HPSv3++", marks=pytest.mark.slow)])
def published(request, scorers):
    return scorers(request.param)


@pytest.fixture
def hpsv3(scorers):
    return scorers("HPSv3")


@pytest.fixture
def hpsv3_plus_plus(scorers):
    return scorers("HPSv3++")


def patches(model, image):
    """Return the flattened patches of an image, in the order of the processor."""
    rows = model.transform.finish(model.transform.prepare(image)[None])
    return vision_patches(unpacked(rows[0], grids_of(rows)[0])[0])


def float_image(image):
    """Return an image as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def close(actual, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), atol=tolerance, rtol=0)


def test_scores_agree_with_the_authors_program_alone_batched_and_shuffled(published):
    p = published
    alone = [p.model.score(prompt, image) for prompt, image in zip(p.prompts, p.images)]
    close(alone, p.mu.tolist())
    close(p.model.score_pairs(p.prompts, p.images, batch_size=12), p.mu)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = p.model.score_pairs([p.prompts[i] for i in order], [p.images[i] for i in order], batch_size=5)
    close(shuffled, p.mu[order])


def test_token_ids_and_patches_are_those_of_the_authors_processor(published):
    p = published
    token_ids, mask = p.model.tokenizer(p.prompts, warn=False)
    index = p.model.tokenizer.image_index
    for i, pair in enumerate(p.pairs):
        ids = token_ids[i, : mask[i].sum()].tolist()
        visual = [ids[index]] * (pair["image_grid_thw"][1] * pair["image_grid_thw"][2] // 4)
        assert [*ids[:index], *visual, *ids[index + 1 :]] == p.inputs[f"input_ids.{i}"][
            : pair["reward_token_index"] + 1
        ].tolist()
    for picture in sorted({pair["picture"] for pair in p.pairs}):
        key = Path(picture).name.split("_")[0]
        actual = patches(p.model, Image.open(DATA / picture))
        close(actual[p.inputs[f"pixel_rows.{key}"].long()], p.inputs[f"pixel_values.{key}"], 1e-6)
        close(actual.sum(1), p.inputs[f"pixel_row_sums.{key}"], 1e-3)


def test_the_rendered_text_is_the_authors(published):
    from reward_core.models.vlm.instructions import PROMPT_MARK

    rendered = published.model.tokenizer.rendered.replace(PROMPT_MARK, published.prompts[0])
    assert rendered == published.reference["rendered_text_pair0"]


def test_every_stage_agrees_with_the_authors_program(published):
    p = published
    layers, blocks = p.model.backbone.model.language_model.layers, p.model.backbone.model.visual.blocks
    outputs = {}

    def store(key):
        return lambda module, args, output: outputs.update({key: output})

    hooks = [layer.register_forward_hook(store(f"layer{i}")) for i, layer in enumerate(layers)]
    hooks += [block.register_forward_hook(store(f"vision.block{i}")) for i, block in enumerate(blocks)]
    try:
        for i in (0, 5, 11):
            token_ids, mask = p.model.tokenizer([p.prompts[i]], warn=False)
            features = p.model.encode_images([p.images[i]]).data
            tokens = unpacked(features[0], grids_of(features)[0])
            hidden, last = p.model.backbone.states(features, token_ids, mask, p.model.tokenizer.image_index)
            reward = p.pairs[i]["reward_token_index"]
            assert last.item() == reward
            third = 200 if p.name == "HPSv3" else 120
            rows = [0, 20, 40, third, reward - 1, reward]
            actual = {f"layer{n}": outputs[f"layer{n}"][0, rows] for n in range(len(layers))}
            for n, level in enumerate(tokens[1:]):  # recorded after these are added
                actual[f"layer{n}"][1:4] += level[[row - p.model.tokenizer.image_index for row in rows[1:4]]]
            actual["final_norm"] = hidden[0, rows]
            actual |= {f"vision.block{n}": outputs[f"vision.block{n}"][::37] for n in range(len(blocks))}
            actual["vision.merger"] = tokens[0, ::5]
            actual |= {f"vision.deepstack{n}": level[::5] for n, level in enumerate(tokens[1:])}
            for key, value in actual.items():
                expected = p.intermediates[f"{i}.{key}"]
                close(value, expected[: len(value)] if key[0] != "v" else expected, 1e-4)
    finally:
        for hook in hooks:
            hook.remove()


def test_sizes_and_resized_levels_are_the_authors(hpsv3):
    transform = hpsv3.model.transform
    for case in hpsv3.reference["smart_resize"]:
        assert transform.sizes(case["h"], case["w"]) == [tuple(case["out_hw"])]
    for picture, expected in hpsv3.reference["resized"].items():
        levels = transform.levels(Image.open(DATA / picture)).permute(1, 2, 0).contiguous()
        assert hashlib.sha256(levels.numpy().tobytes()).hexdigest() == expected["sha256_rgb_bytes"]


def test_the_longest_strips_fit_and_longer_ones_are_error_rows(published):
    strips = [Image.new("RGB", size, "red") for size in ((200, 1), (1, 200), (201, 1), (5, 5))]
    rows = list(published.model.score_rows(["a"] * 4, strips))
    assert [row.error is None for row in rows] == [True, True, False, True]
    assert rows[2].error.startswith("its sides, 201 x 1, have a ratio over 200")


@pytest.mark.slow
def test_gradients_of_float_images_agree_with_the_authors_program(hpsv3):
    for case in hpsv3.reference["differentiable"]:
        i = case["pair"]
        pixels = float_image(hpsv3.images[i])[None].requires_grad_()
        mu = hpsv3.model.rewards_from_pixels(pixels, [hpsv3.prompts[i]])
        mu.sum().backward()
        close(mu.detach(), [case["mu"]])
        expected = hpsv3.inputs.get(f"grad_mu.{i}")
        if expected is not None:
            assert (pixels.grad[0] / 255 - expected).norm() < 1e-4 * expected.norm()


def test_gradients_of_patches_agree_with_the_authors_program(hpsv3_plus_plus):
    p = hpsv3_plus_plus
    rows = p.model.transform.finish(p.model.transform.prepare(p.images[2])[None])
    inputs = []

    def keep(module, args):
        inputs.append(args[0].detach().requires_grad_())
        return (inputs[0],)

    hook = p.model.backbone.model.visual.patch_embed.register_forward_pre_hook(keep)
    p.model(rows, *p.model.tokenizer([p.prompts[2]])).sum().backward()
    hook.remove()
    assert inputs[0].grad.norm().item() == pytest.approx(
        p.reference["grad_pixel_values_pair2"]["norm"], rel=1e-4
    )
    expected = p.inputs["grad_mu_pixel_values_rows.2"]
    actual = inputs[0].grad[p.inputs["pixel_rows.p1"].long()]
    assert (actual - expected).norm() < 1e-4 * expected.norm()


def test_float_images_of_several_sizes_in_a_batch_score_as_alone(published):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in ((40, 90), (64, 64), (300, 70))]
    prompts = ["a red bird", "a", "two cats on a chair, " * 9]
    alone = [published.model.rewards_from_pixels([x], [y]).item() for x, y in zip(images, prompts)]
    close(published.model.rewards_from_pixels(images, prompts), alone)
    with pytest.raises(ValueError, match=r"got \(1, 8, 8\) of torch.float32"):
        published.model.rewards_from_pixels([torch.zeros(1, 8, 8)], ["a"])


def test_special_tokens_in_a_prompt_are_ordinary_text(published):
    model, image = published.model, published.images[2]
    tokens = ("<|Reward|>", "<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>")
    prompts = [f"before {token} after" for token in tokens]
    ids, _ = model.tokenizer(prompts)
    assert ((ids == model.tokenizer.reward_id).sum(1) == 1).all()
    assert ((ids == model.tokenizer.image_id).sum(1) == 1).all()
    plain = model.score("before", image)
    scores = model.score_pairs(["before", *prompts], [image] * 6, batch_size=6)
    assert scores[0].item() == pytest.approx(plain, abs=TOLERANCE)
    assert len(set(scores.tolist())) == 6


@pytest.mark.slow
def test_details_have_sigma_and_the_capability_of_each_image_alone(published):
    p = published
    details = p.model.score_details(p.prompts, p.images, batch_size=12)
    close(details.mu, p.mu)
    close(details.sigma.log(), [pair["sigma_raw"] for pair in p.pairs])
    if p.name == "HPSv3":
        assert details.capability is None
    else:
        close(details.capability, [pair["capability"] for pair in p.pairs])


@pytest.mark.slow
def test_the_step_of_the_training_run_is_a_condition(hpsv3_plus_plus):
    p = hpsv3_plus_plus
    assert p.model.iter_step == 0
    try:
        for step in (0.3, 1.0):
            p.model.iter_step = step
            close(p.model.score_pairs(p.prompts, p.images), [pair[f"mu_iter_{step}"] for pair in p.pairs])
    finally:
        p.model.iter_step = 0
    with pytest.raises(InputError, match=r"iter_step=1\.5"):
        p.model.iter_step = 1.5


def test_a_matrix_encodes_each_image_once(published):
    p = published
    calls = []
    hook = p.model.backbone.model.visual.register_forward_hook(lambda *_: calls.append(1))
    matrix = p.model.score_matrix(p.prompts[:3], [p.images[0], p.images[2]], batch_size=1)
    hook.remove()
    assert len(calls) == 2
    close(matrix[:2, 0], p.mu[:2])
    close(matrix[1, 1], p.mu[2])
    features = p.model.encode_images([p.images[0], p.images[2]])
    close(p.model.score_matrix(p.prompts[:3], features), matrix)


def test_fast_computes_the_base_model_in_16_bits_and_the_head_in_float32(published):
    p = published
    model = RM.load(p.name, device="cpu", files=DATA / FOLDERS[p.name], precision="fast")
    assert model.backbone.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.head.parameters()} == {torch.float32}
    scores = model.score_pairs(p.prompts[:4], p.images[:4])
    assert scores.dtype == torch.float32
    # bfloat16 with random weights is off by up to 0.13 in the authors' program.
    close(scores, p.mu[:4], 0.3)
    assert not torch.equal(scores, p.mu[:4])


@pytest.mark.parametrize("pixels", [torch.rand(1, 60, 60), torch.ones(1, 3, 60, 60, dtype=torch.uint8)])
def test_pixels_of_another_shape_or_dtype_are_refused(hpsv3, pixels):
    with pytest.raises(RM.errors.InputError, match=r"must be a float tensor \(3, H, W\) in \[0, 1\], got"):
        hpsv3.model.rewards_from_pixels(pixels, ["a dog"])


def test_levels_0_to_255_are_refused(hpsv3):
    with pytest.raises(RM.errors.InputError, match="Divide levels 0 to 255 by 255"):
        hpsv3.model.rewards_from_pixels(255 * torch.rand(1, 3, 60, 60), ["a dog"])

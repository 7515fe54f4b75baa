"""Pairs, the ranking loss, and the pre-training stages."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pageable_copies import PageableCopies
from PIL import Image

import reward_core as RM
from reward_core.training import (
    AnnotatedImage,
    CaptionedImage,
    PatchReader,
    PretrainingConfig,
    caption_loss,
    initialize_from_scratch,
    pairs_from_ranking,
    pairwise_accuracy,
    patch_loss,
    pretrain,
    ranking_loss,
)


def test_pairs_leave_out_ties():
    assert pairs_from_ranking([2, 1, 2, 4]).tolist() == [[0, 3], [1, 0], [1, 2], [1, 3], [2, 3]]
    assert len(pairs_from_ranking([1, 1, 1])) == 0


def test_the_loss_equals_a_calculation_by_hand():
    rewards = torch.tensor([1.0, 0.0, 3.0, 3.0, 1.0])
    one = math.log1p(math.exp(-1.0))  # group 1: image 0 over image 1
    two = (math.log1p(math.exp(2.0)) + math.log1p(math.exp(2.0))) / 2  # group 2: image 4 over 2 and 3
    assert ranking_loss(rewards, [[1, 2], [2, 2, 1]]).item() == pytest.approx((one + two) / 2)


def test_equal_rewards_have_loss_log_2_and_ties_do_not_count():
    assert ranking_loss(torch.zeros(4), [[1, 2], [1, 1]]).item() == pytest.approx(math.log(2))
    assert ranking_loss(torch.ones(2), [[1, 1]]).item() == 0
    with pytest.raises(ValueError, match="5 rewards"):
        ranking_loss(torch.zeros(5), [[1, 2]])


def test_accuracy_counts_an_equal_reward_as_wrong():
    assert pairwise_accuracy(torch.tensor([0.5, 0.5, 0.1]), [1, 2, 3]) == (2, 3)


def test_averaging_over_pairs_equals_the_original_code():
    rewards, rankings = torch.randn(9), [[1, 2, 3, 3], [2, 1], [1, 1, 2]]
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (5, 4), (6, 8), (7, 8)]
    scores = torch.stack([torch.stack([rewards[b], rewards[w]]) for b, w in pairs])
    plain = torch.nn.functional.cross_entropy(scores, torch.zeros(len(pairs), dtype=torch.long))
    assert ranking_loss(rewards, rankings, "pair").item() == pytest.approx(plain.item(), rel=1e-6)


def untrained(parity, seed: int = 0) -> RM.RewardModel:
    model = RM.load(parity / "state_dict.pt", device="cpu").requires_grad_()
    initialize_from_scratch(model, seed)
    torch.manual_seed(seed)  # for dropout and masked words
    return model


@pytest.mark.slow
def test_a_patch_reader_teaches_its_encoder_to_see(parity):
    model = untrained(parity)
    encoder = model.blip.visual_encoder
    grid = encoder.config.image_size // encoder.config.patch_size
    reader = PatchReader(encoder, model.transform, columns=2, values=1)

    def batch(seed: int) -> list[AnnotatedImage]:
        rng = np.random.default_rng(seed)
        images = []
        for _ in range(16):
            has_thing = rng.random((grid, grid)) < 0.5
            level = rng.uniform(-1, 1, (grid, grid))
            gray = np.where(has_thing, 128 + 100 * level, 0).astype(np.uint8)
            image = gray.repeat(encoder.config.patch_size, 0).repeat(encoder.config.patch_size, 1)
            patches = np.stack([has_thing, has_thing * level], -1).reshape(-1, 2).astype(np.float32)
            values = np.float32([has_thing.mean()])
            images.append(AnnotatedImage(image[..., None].repeat(3, -1), patches, values))
        return images

    def test_loss() -> float:
        with torch.no_grad():
            return patch_loss(reader, batch(1000)).item()

    before = test_loss()
    pretrain(
        reader,
        [batch(seed) for seed in range(150)],
        PretrainingConfig(150, 3e-3, warmup_steps=5),
        patch_loss,
    )
    after = test_loss()
    assert after < 0.35 * before
    # The other columns of patches without a thing do not count.
    emptied = [
        replace(item, patches=item.patches + [0, 9] * (1 - item.patches[:, :1])) for item in batch(1000)
    ]
    with torch.no_grad():
        item = patch_loss(reader, [replace(e, patches=e.patches.astype(np.float32)) for e in emptied]).item()
    assert item == pytest.approx(after, rel=1e-5)


def test_pretraining_copies_without_waiting_for_a_gpu(parity, monkeypatch):
    model = untrained(parity)
    config = model.blip.visual_encoder.config
    image = np.zeros((config.image_size, config.image_size, 3), np.uint8)
    labels = np.zeros(((config.image_size // config.patch_size) ** 2, 2), np.float32)
    reader = PatchReader(model.blip.visual_encoder, model.transform, columns=2, values=1)
    captioned = CaptionedImage(image, "a red house", ("a blue house",))
    with PageableCopies(monkeypatch) as copies:
        caption_loss(model, [captioned] * 2)
        patch_loss(reader, [AnnotatedImage(image, labels, np.zeros(1, np.float32))] * 2)
    assert not copies.found
    assert copies.uploads == 7  # images twice, token ids, mask, ids of special tokens, labels twice


@pytest.mark.slow
def test_captions_teach_words_and_images_together(parity):
    model = untrained(parity)
    words = {"red": (220, 30, 30), "blue": (30, 30, 220)}

    def batch(seed: int) -> list[CaptionedImage]:
        rng = np.random.default_rng(seed)
        images = []
        for _ in range(8):
            word, other = rng.permutation(list(words)).tolist()
            image = np.broadcast_to(np.uint8(words[word]), (48, 48, 3)).copy()
            images.append(CaptionedImage(image, f"a {word} house", (f"a {other} house",)))
        return images

    losses: list[float] = []
    batches = [batch(seed) for seed in range(80)]
    config = PretrainingConfig(80, 2e-3, warmup_steps=5)
    pretrain(model, batches, config, caption_loss, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    for item in batch(1000):  # the matching loss trains the reward
        right, wrong = (
            model.score(prompt, Image.fromarray(item.image)) for prompt in (item.prompt, *item.near_misses)
        )
        assert right > wrong


def plain(model: RM.RewardModel, batch: int) -> torch.Tensor:
    return model.mlp.layers[0].weight.square().mean()


def test_pretraining_changes_only_parameters_that_require_gradients(parity):
    model = untrained(parity).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        pretrain(model, [0], PretrainingConfig(1), plain)
    model.mlp.requires_grad_()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pretrain(model, [0, 1], PretrainingConfig(2, warmup_steps=1), plain)
    changed = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    assert "mlp.layers.0.weight" in changed
    assert all(key.startswith("mlp.") for key in changed)
    assert not model.training


def test_pretraining_reports_invalid_arguments(parity):
    model = untrained(parity)
    with pytest.raises(ValueError, match="Cannot take 5 steps: there are only 1 batches"):
        pretrain(model, [0], PretrainingConfig(5), plain)
    with torch.no_grad():
        model.mlp.layers[0].weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="at step 1"):
        pretrain(model, [0], PretrainingConfig(1), plain)
    with pytest.raises(ValueError, match="Cannot use precision="):
        PretrainingConfig(1, precision="float16")

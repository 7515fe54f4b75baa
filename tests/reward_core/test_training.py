"""Pairs, loss, and a loop that learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import reward_core as RM
from reward_core.training import (
    AnnotatedPicture,
    CaptionedPicture,
    PatchReader,
    RankedGroup,
    TrainingConfig,
    accuracy,
    caption_loss,
    initialise_from_scratch,
    pairs_from_ranking,
    pairwise_accuracy,
    patch_loss,
    ranking_loss,
    train,
)


def test_pairs_leave_out_ties():
    assert pairs_from_ranking([2, 1, 2, 4]).tolist() == [[0, 3], [1, 0], [1, 2], [1, 3], [2, 3]]
    assert len(pairs_from_ranking([1, 1, 1])) == 0


def test_loss_by_hand():
    rewards = torch.tensor([1.0, 0.0, 3.0, 3.0, 1.0])
    one = math.log1p(math.exp(-1.0))  # group 1: picture 0 over picture 1
    two = (math.log1p(math.exp(2.0)) + math.log1p(math.exp(2.0))) / 2  # group 2: picture 4 over 2 and 3
    assert ranking_loss(rewards, [[1, 2], [2, 2, 1]]).item() == pytest.approx((one + two) / 2)


def test_equal_rewards_lose_log_two_and_ties_do_not_count():
    assert ranking_loss(torch.zeros(4), [[1, 2], [1, 1]]).item() == pytest.approx(math.log(2))
    assert ranking_loss(torch.ones(2), [[1, 1]]).item() == 0
    with pytest.raises(ValueError, match="5 rewards"):
        ranking_loss(torch.zeros(5), [[1, 2]])


def test_accuracy_counts_an_equal_reward_as_wrong():
    assert pairwise_accuracy(torch.tensor([0.5, 0.5, 0.1]), [1, 2, 3]) == (2, 3)


def groups(count: int, seed: int) -> list[RankedGroup]:
    """Pictures of one grey level each; the prompt says whether light or dark is better."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        levels = rng.permutation(np.linspace(20, 235, 4)).astype(np.uint8)
        pictures = np.broadcast_to(levels[:, None, None, None], (4, 48, 48, 3)).copy()
        light = bool(rng.integers(2))
        places = np.argsort(np.argsort(-levels.astype(int) if light else levels)) + 1
        made.append(RankedGroup("light day" if light else "dark night", pictures, tuple(places.tolist())))
    return made


def untrained(parity, seed: int = 0) -> RM.RewardModel:
    model = RM.load(parity / "state_dict.pt", device="cpu").requires_grad_()
    initialise_from_scratch(model, seed)
    torch.manual_seed(seed)  # of dropout and of masked words
    return model


def learned(parity, steps: int, seed: int = 0) -> tuple[RM.RewardModel, list[float]]:
    model = untrained(parity, seed)
    losses: list[float] = []
    batches = [groups(8, seed=step) for step in range(steps)]
    train(model, batches, TrainingConfig(steps, 2e-3, warmup_steps=5), lambda step, loss: losses.append(loss))
    return model, losses


def test_training_learns_to_read_picture_and_prompt(parity):
    model, losses = learned(parity, steps=60)
    assert accuracy(model, groups(20, seed=1000)) > 0.85  # measured 0.9 to 1.0; blind to the prompt it is 0.5
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert not model.training


def test_training_is_reproducible(parity):
    assert learned(parity, steps=4)[1] == learned(parity, steps=4)[1]
    assert learned(parity, steps=4)[1] != learned(parity, steps=4, seed=1)[1]


def test_only_what_requires_gradients_is_trained(parity):
    model = untrained(parity)
    model.blip.visual_encoder.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(model, [groups(4, 0), groups(4, 1)], TrainingConfig(2, warmup_steps=1))
    changed = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    assert not any(key.startswith("blip.visual_encoder.") for key in changed)
    assert {"mlp.layers.0.weight", "blip.text_encoder.embeddings.word_embeddings.weight"} <= changed
    with pytest.raises(ValueError, match="every parameter is frozen"):
        train(model.requires_grad_(False), [groups(4, 0)], TrainingConfig(1))


def test_bfloat16_learns_too_and_leaves_float32_weights(parity):
    model = untrained(parity)
    losses: list[float] = []
    config = TrainingConfig(60, 2e-3, warmup_steps=5, precision="bfloat16")
    batches = [groups(8, seed=step) for step in range(60)]
    train(model, batches, config, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="precision must be"):
        TrainingConfig(1, precision="float16")


def test_a_patch_reader_teaches_its_encoder_to_see(parity):
    model = untrained(parity)
    encoder = model.blip.visual_encoder
    grid = encoder.config.image_size // encoder.config.patch_size
    reader = PatchReader(encoder, model.transform, columns=2, values=1)

    def batch(seed: int) -> list[AnnotatedPicture]:
        rng = np.random.default_rng(seed)
        made = []
        for _ in range(16):
            there = rng.random((grid, grid)) < 0.5
            level = rng.uniform(-1, 1, (grid, grid))
            seen = np.where(there, 128 + 100 * level, 0).astype(np.uint8)
            picture = seen.repeat(encoder.config.patch_size, 0).repeat(encoder.config.patch_size, 1)
            patches = np.stack([there, there * level], -1).reshape(-1, 2).astype(np.float32)
            whole = np.float32([there.mean()])
            made.append(AnnotatedPicture(picture[..., None].repeat(3, -1), patches, whole))
        return made

    def missed(seed: int) -> float:
        with torch.no_grad():
            return patch_loss(reader, batch(seed)).item()

    before = missed(1000)
    train(
        reader,
        [batch(seed) for seed in range(150)],
        TrainingConfig(150, 3e-3, warmup_steps=5),
        None,
        patch_loss,
    )
    after = missed(1000)
    assert after < 0.35 * before
    # What stands where nothing is does not count.
    emptied = [
        replace(item, patches=item.patches + [0, 9] * (1 - item.patches[:, :1])) for item in batch(1000)
    ]
    with torch.no_grad():
        item = patch_loss(reader, [replace(e, patches=e.patches.astype(np.float32)) for e in emptied]).item()
    assert item == pytest.approx(after, rel=1e-5)


def test_captions_teach_words_and_pictures_together(parity):
    model = untrained(parity)
    words = {"red": (220, 30, 30), "blue": (30, 30, 220)}

    def batch(seed: int) -> list[CaptionedPicture]:
        rng = np.random.default_rng(seed)
        made = []
        for _ in range(8):
            word, other = rng.permutation(list(words)).tolist()
            picture = np.broadcast_to(np.uint8(words[word]), (48, 48, 3)).copy()
            made.append(CaptionedPicture(picture, f"a {word} house", (f"a {other} house",)))
        return made

    losses: list[float] = []
    batches = [batch(seed) for seed in range(80)]
    config = TrainingConfig(80, 2e-3, warmup_steps=5)
    train(model, batches, config, lambda step, loss: losses.append(loss), caption_loss)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    for item in batch(1000):  # matching has taught the reward itself to read
        right, wrong = (
            model.score(prompt, Image.fromarray(item.picture)) for prompt in (item.prompt, *item.near_misses)
        )
        assert right > wrong


def test_training_says_what_is_wrong(parity):
    model = untrained(parity)
    with pytest.raises(ValueError, match="only 1 batches for 5 steps"):
        train(model, [groups(1, 0)], TrainingConfig(5))
    with torch.no_grad():
        model.mlp.layers[0].weight[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="at step 1"):
        train(model, [groups(1, 0)], TrainingConfig(1))
    with pytest.raises(ValueError, match="2 places"):
        RankedGroup("x", np.zeros((3, 48, 48, 3), np.uint8), (1, 2))

"""Groups of images of the paper's sizes, and training steps of two methods, for bench_training.py."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scoring_workload import PROMPTS, varied_images
from torch import Tensor

from reward_core.models.imagereward.reward_model import RewardModel
from reward_core.training.group_reader import ReadGroup
from reward_core.training.group_rewards import GroupRewards
from reward_core.training.ranking_loss import loss_terms, ranking_loss_sum
from reward_core.training.token_cache import TokenCache

# Number of images -> prompts of the paper's test file with this number, and a typical ranking.
SHARES = {4: 194, 5: 2, 6: 45, 7: 159, 8: 43, 9: 23}
RANKINGS = {
    4: (1, 2, 3, 4),
    5: (1, 2, 2, 3, 4),
    6: (1, 2, 2, 3, 4, 4),
    7: (1, 1, 2, 2, 3, 3, 4),
    8: (1, 1, 2, 2, 3, 3, 4, 5),
    9: (1, 1, 2, 2, 3, 3, 4, 4, 5),
}
PAIRS, PASSES = 4, 4  # pairs per pass and passes per step, as in the original per GPU


def make_group(number: int, size: int, side: int) -> ReadGroup:
    images = np.stack([np.asarray(p) for p in varied_images(number + size, side)[number:]])
    rows = tuple(range(size))
    prompt = PROMPTS[number % len(PROMPTS)]
    return ReadGroup(number, prompt, RANKINGS[size], rows, rows, torch.from_numpy(images), None)


def pair_inputs(model: RewardModel, pairs: list[tuple[ReadGroup, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels, token ids and mask of both images of each pair."""
    images = torch.stack([group.images[i] for group, *both in pairs for i in both])
    prompts = [group.prompt for group, *_ in pairs for _ in range(2)]
    ids, mask = model.tokenizer(prompts, length=model.config.max_length)
    return model.transform.from_uint8(images), ids.to(model.device), mask.to(model.device)


def original_step(model: RewardModel, optimizer: torch.optim.Optimizer, pairs: list) -> None:
    for start in range(0, len(pairs), PAIRS):
        rewards = model(*pair_inputs(model, pairs[start : start + PAIRS])).view(-1, 2)
        first = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
        (F.cross_entropy(rewards, first) / PASSES).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def our_step(
    rewards: GroupRewards,
    optimizer: torch.optim.Optimizer,
    groups: list[ReadGroup],
    half: bool,
    cache: TokenCache | None = None,
    *,
    per_pass: int,
) -> None:
    """Take an optimizer step on groups, with ``per_pass`` of them in each forward and backward pass."""
    total = loss_terms([group.ranks for group in groups])
    for start in range(0, len(groups), per_pass):
        part = groups[start : start + per_pass]
        with torch.autocast(rewards.model.device.type, torch.bfloat16, enabled=half):
            part_rewards = rewards(*rewards.inputs(part, cache))
        (ranking_loss_sum(part_rewards, [group.ranks for group in part]) / total).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def largest_difference(model: RewardModel, pairs: list) -> float:
    """Return the largest difference from exact rewards, relative to their std."""
    model.eval()
    paired = model(*pair_inputs(model, pairs))
    exact = []
    for group, *both in pairs:
        images = model.transform.from_uint8(group.images[both])
        ids, mask = model.tokenizer([group.prompt])
        exact += [model(pixels[None], ids.to(model.device), mask.to(model.device)) for pixels in images]
    model.train()
    return float((paired - torch.cat(exact)).abs().max() / paired.std())

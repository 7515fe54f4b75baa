"""Fixtures for reward_core's tests: the original's tiny seeded model and its pictures."""

from pathlib import Path

import pytest

import reward_core as RM


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the original's answers: state_dict.pt, config.json, vocab.txt, images/, ..."""
    return Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="session")
def model(parity) -> RM.RewardModel:
    return RM.load(parity / "state_dict.pt", device="cpu")

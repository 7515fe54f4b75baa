"""Fixtures for the tests of both extensions."""

import pytest
import torch

import reward_core as RM


@pytest.fixture(scope="session")
def model():
    torch.set_num_threads(1)
    return RM.load("tiny", device="cpu")

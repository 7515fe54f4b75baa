"""Fixtures for the tests of reward_core: a tiny seeded model of the original, and images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reward_core as RM

# The model is so tiny that threads would mostly wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parity() -> Path:
    """Return the folder with results of the original: state_dict.pt, config.json, images/, ..."""
    return Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="session")
def model(parity) -> RM.RewardModel:
    return RM.load(parity / "state_dict.pt", device="cpu")


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory) -> Path:
    """Return a saved folder with the same model."""
    path = tmp_path_factory.mktemp("saved") / "parity"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def run():
    """Return run("rank", ...), which runs the command in a new process."""

    def run(*arguments, env=None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "reward_core", *map(str, arguments)]
        settings = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=300
        )

    return run


@pytest.fixture
def command(capsys, monkeypatch):
    """Return a function like ``run`` that runs the command in this process, for speed."""
    from reward_core.cli import main

    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments) -> subprocess.CompletedProcess:
        arguments = [str(argument) for argument in arguments]
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # raised by argparse
            code = stop.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return command

"""Fixtures for reward_core's tests: the original's tiny seeded model and its images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import reward_core as RM

# The model is tiny: threads would spend their time waiting for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the original's answers: state_dict.pt, config.json, vocab.txt, images/, ..."""
    return Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="session")
def model(parity) -> RM.RewardModel:
    return RM.load(parity / "state_dict.pt", device="cpu")


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory) -> Path:
    """The same model as a saved folder, which needs nothing from elsewhere."""
    path = tmp_path_factory.mktemp("saved") / "parity"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def run():
    """The command in a process of its own: run("rank", ...) -> CompletedProcess."""

    def run(*arguments, env=None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "reward_core", *map(str, arguments)]
        settings = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=300
        )

    return run


@pytest.fixture
def command(capsys, monkeypatch):
    """The command in this process, for speed, with the same kind of answer as ``run``."""
    from reward_core.cli import main

    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments) -> subprocess.CompletedProcess:
        arguments = [str(argument) for argument in arguments]
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse's way out
            code = stop.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return command

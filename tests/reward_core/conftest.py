"""Fixtures for the tests of reward_core: a tiny seeded model of the original code, and its images."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

import reward_core as RM

# With a model this small, several threads are slower than one.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder with outputs of the original code: state_dict.pt, config.json, vocab.txt, images/, ..."""
    return Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture(scope="session")
def model(parity) -> RM.RewardModel:
    return RM.load(parity / "state_dict.pt", device="cpu")


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory) -> Path:
    """The same model as a saved folder, including its tokenizer."""
    path = tmp_path_factory.mktemp("saved") / "parity"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def run(warm_python):
    """A function that runs the command in another process: run("rank", ...) -> CompletedProcess."""

    def run(*arguments, env=None) -> subprocess.CompletedProcess:
        settings = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(env or {})}
        return warm_python.run(["-m", "reward_core", *arguments], env={**os.environ, **settings})

    return run


@pytest.fixture
def command(capsys, monkeypatch):
    """A function that runs the command in this process, which is faster, and returns the same as ``run``."""
    from reward_core.cli import main

    def command(*arguments, width=200) -> subprocess.CompletedProcess:
        monkeypatch.setenv("COLUMNS", str(width))
        arguments = [str(argument) for argument in arguments]
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # raised by argparse
            code = stop.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return command

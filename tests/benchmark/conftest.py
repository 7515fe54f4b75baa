"""Fixtures of the benchmark's tests."""

import os
import shutil
import subprocess

import pytest
import torch
from small_run import config

# Threads slow down models this small.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def settings() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run(settings, warm_python):
    """Run the command in a separate process: run("run", "shapes", ...)."""

    def run(*arguments, env=None) -> subprocess.CompletedProcess:
        return warm_python.run(["-m", "reward_benchmark", *arguments], env={**settings, **(env or {})})

    return run


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command in this process, which is faster; returns the same as ``run``."""
    from reward_benchmark.cli import main

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


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Summary and folder of a small finished run."""
    from reward_benchmark.run import run

    out = tmp_path_factory.mktemp("finished")
    return run(config(out)), out / "shapes"


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run's files, without its images."""
    shutil.copytree(finished[1], tmp_path / "shapes", ignore=shutil.ignore_patterns("data"))
    return tmp_path / "shapes"

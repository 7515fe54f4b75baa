"""Fixtures for the tests of several packages."""

import gc
import os
import signal
from collections import Counter

import pytest
from warm_python import WarmPython

# The models are tiny and tests run in parallel, so more threads would only compete for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """A function that returns the folder of a tiny pipeline of a family (see tiny_pipelines.py)."""
    import torch
    from tiny_pipelines import MAKERS

    root = tmp_path_factory.mktemp("pipelines")

    def folder(name):
        if not (root / name).is_dir():
            torch.manual_seed(0)
            MAKERS[name]().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def triton_device():
    """The device that runs Triton's kernels: a CUDA GPU, or the CPU with Triton's interpreter."""
    import torch

    pytest.importorskip("triton", reason="Triton is not installed")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs a CUDA GPU, or Triton's interpreter (TRITON_INTERPRET=1)")
    return torch.device("cpu")


@pytest.fixture(scope="session")
def warm_python():
    """Start Python programs with torch and our packages imported, but no client of the hub."""
    ours = ("reward_core.cli", "reward_core.bulk", "reward_core.models.load_group", "reward_benchmark.report")
    modules = ("PIL.Image", "filelock", "rich.table", "tokenizers", "yaml")
    python = WarmPython("torch", *modules, *ours, "reward_core.models.imagereward.reward_model")
    yield python
    python.stop()


@pytest.fixture(scope="session")
def warm_training_python():
    """Start Python programs with the libraries of training imported, which do not ask the hub."""
    modules = ("torch._dynamo", "accelerate", "peft", "diffusers", "diffusers.loaders")
    modules += (
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "diffusers.models.autoencoders",
    )
    modules += ("matplotlib.figure", "matplotlib.backends.backend_agg", "rich.table")
    ours = ("reward_core.cli", "reward_core.training.trainer", "refl.cli", "refl.trainer")
    python = WarmPython(*modules, *ours, HF_HUB_OFFLINE="1", ACCELERATE_USE_CPU="1")
    yield python
    python.stop()


def pytest_xdist_auto_num_workers():
    """Use a worker more than processors (-n auto), because some tests wait for processes and servers."""
    from reward_core.runs.cpus import usable_cpus

    return usable_cpus() + 1


@pytest.hookimpl(trylast=True)  # after -m and -k have deselected tests
def pytest_collection_modifyitems(items):
    """Put the modules that take longest first, so that all workers of a parallel run end together."""
    seconds = Counter()
    for item in items:
        seconds[item.path] += 10 if item.get_closest_marker("slow") else 0.1
    items.sort(key=lambda item: -seconds[item.path])  # keeps the order within a module


def pytest_collection_finish(session):
    """Let garbage collections skip the objects of imported modules: over a million, 0.3 s each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionstart(session):
    gc.disable()  # until the modules are imported
    # Background jobs of a shell ignore Ctrl-C, and the processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

"""Fixtures of several packages' tests."""

import os
import signal

import pytest

# Models here are tiny, and tests run side by side: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """A function: name of a family -> folder of a tiny pipeline of it (see tiny_pipelines.py)."""
    import torch
    from tiny_pipelines import MAKERS

    root = tmp_path_factory.mktemp("pipelines")

    def folder(name):
        if not (root / name).is_dir():
            torch.manual_seed(0)
            MAKERS[name]().save_pretrained(root / name)
        return root / name

    return folder


def pytest_sessionstart(session):
    # In a shell's background Ctrl-C is ignored, and the processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

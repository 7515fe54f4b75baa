"""Failures to write into a run's folder, raised as one kind of error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError

TORCH_WRITING = ("inline_container", "PytorchStreamWriter", "iostream error")  # where torch.save failed


@contextmanager
def write_errors(folder: Path, kind: type[Exception] = OutputError) -> Iterator[None]:
    """A full disk is told of in the kinds of error of three libraries; here it is one, of a kind given."""
    from safetensors import SafetensorError

    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        if isinstance(error, NotImplementedError) or (
            isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_WRITING)
        ):
            raise
        for unfinished in folder.glob(".writing-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        raise kind(
            f"{folder}: cannot be written to ({cause}); make room on its disk, then the same command goes on "
            "from the last checkpoint that is whole"
        ) from error

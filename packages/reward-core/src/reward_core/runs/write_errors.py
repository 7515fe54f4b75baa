"""Failures to write into a run's folder, raised as one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError

TORCH_WRITING = ("inline_container", "PytorchStreamWriter", "iostream error")  # where torch.save failed


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Raise OutputError for what three libraries raise when a disk is full or read-only."""
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
        raise OutputError(
            f"Cannot write into '{folder}': {cause}. Free space on its disk, then run the same command "
            "again; it resumes from the last complete checkpoint."
        ) from error

"""Conversion of write errors in a run's folder to OutputError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError

TORCH_WRITING = ("inline_container", "PytorchStreamWriter", "iostream error")  # in errors of torch.save


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Raise OutputError for the errors of three libraries on a full or read-only disk."""
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
            f"Cannot write into '{folder}': {cause}. Free space on its disk and run the same command again "
            "to resume from the last complete checkpoint."
        ) from error
